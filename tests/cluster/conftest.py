"""A cluster, any that KUBECONFIG leads to, and a namespace of it for each file of tests.

What the cluster lacks is named by the tests that are skipped for it, and counted at the end. With
STREETVISION_NEEDS_CLUSTER=1, as in CI, nothing is skipped: a test whose cluster lacks something fails.
"""

import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

import pytest

from manifests.tools import cache_folder
from streetvision.errors import StreetvisionError
from tests.cluster.client import Client

_LACKING = pytest.StashKey[Counter[str]]()
_REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()
_LOGS = cache_folder() / "cluster" / "logs"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs(*names, optional=False): what the cluster must have: kserve, kwok, storage, network-policies, "
        "image:NAME",
    )
    config.addinivalue_line("markers", "cluster: asks a cluster; `make cluster-test` runs these")
    config.stash[_LACKING] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash.setdefault(_REPORTS, {})[report.when] = report
    if report.skipped and report.when == "setup":
        _, _, reason = report.longrepr
        item.config.stash[_LACKING][reason.removeprefix("Skipped: ").splitlines()[0]] += 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for reason, count in sorted(config.stash[_LACKING].items()):
        terminalreporter.write_line(f"{count} tests skipped: {reason}")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Client:
    """The cluster, its namespace `default`."""
    try:
        return Client.connect()
    except StreetvisionError as err:
        _lacking(f"no cluster: {err}")


@pytest.fixture(scope="session")
def lacks(cluster: Client) -> dict[str, str | None]:
    """What was found out about the cluster so far."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def _needed_by_file(request: pytest.FixtureRequest) -> None:
    """Before what the file's tests share is made."""
    _ask_for(request)


@pytest.fixture(autouse=True)
def _needed(request: pytest.FixtureRequest) -> None:
    _ask_for(request)


def _ask_for(request: pytest.FixtureRequest) -> None:
    markers = list(request.node.iter_markers("needs"))
    if not markers:
        return
    cluster: Client = request.getfixturevalue("cluster")
    known: dict[str, str | None] = request.getfixturevalue("lacks")
    for name, optional in [(name, marker.kwargs.get("optional", False)) for marker in markers for name in marker.args]:
        if name not in known:
            known[name] = cluster.lacks(name)
        if known[name]:
            _lacking(f"the cluster cannot serve `{name}`: {known[name]}", optional=optional)


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest, cluster: Client) -> Iterator[Client]:
    """A namespace of its own for the tests of a file."""
    stem = re.sub(r"[^a-z0-9]+", "-", request.path.stem.removeprefix("test_").lower())
    client = cluster.within(f"test-{stem[:40]}-{secrets.token_hex(3)}")
    client.create_namespace()
    try:
        yield client
    finally:
        client.delete_namespace()


@pytest.fixture(autouse=True)
def _logs_of_failures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Names, in the report of a failed test, the folder with the logs of its namespace as they were then."""
    yield
    reports = request.node.stash.get(_REPORTS, {}).values()
    if any(report.failed for report in reports) and "namespace" in request.fixturenames:
        client: Client = request.getfixturevalue("namespace")
        name = re.sub(r"\W+", "-", request.node.name)[:60]
        folder = client.gather(_LOGS / client.namespace / name)
        request.node.add_report_section("call", "logs", f"logs of namespace {client.namespace}: {folder}")


def _lacking(reason: str, *, optional: bool = False) -> NoReturn:
    if os.environ.get("STREETVISION_NEEDS_CLUSTER") and not optional:
        pytest.fail(reason)
    pytest.skip(reason)
