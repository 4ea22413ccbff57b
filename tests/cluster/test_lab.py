"""What the local cluster promises to those who test on it."""

import pytest

from tests.cluster.client import Client, server, storage_initializer


@pytest.fixture(scope="module")
def listening(namespace: Client) -> str:
    """Address of a pod that answers on port 8080."""
    namespace.apply(server())
    namespace.await_condition("pod/server", "condition=Ready")
    return namespace.get("pod", "server")["status"]["podIP"]


def test_a_pod_reaches_another(namespace: Client, listening: str):
    assert namespace.reaches(listening, 8080)


def test_a_command_runs_in_a_pod_that_is_gone_afterwards(namespace: Client):
    done = namespace.run(storage_initializer(), ["python3", "-c", "print(input()); exit(3)"], stdin="x")
    assert done.exit_code == 1
    assert "EOFError" in done.output
    assert not [pod for pod in namespace.pods("") if pod["metadata"]["name"].startswith("run-")]
