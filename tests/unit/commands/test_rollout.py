"""`streetvision rollout`: what its command line refuses, and what it says when it is done."""

import json

import pytest

from streetvision.cli import main
from streetvision.operations.proof import SOURCE
from tests.kubernetes_objects import kubernetes_objects

URI = "s3://bucket/models/roadwork/a/"


@pytest.fixture
def api(tmp_path, monkeypatch):
    with kubernetes_objects() as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "kubeconfig")))
        running.put(
            "/apis/apps/v1/namespaces/here/deployments/r-roadwork-predictor",
            {
                "metadata": {"generation": 1},
                "spec": {"replicas": 1, "template": {"metadata": {"annotations": {SOURCE: URI}}}},
                "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
            },
        )
        running.put(
            "/apis/serving.kserve.io/v1beta1/namespaces/here/inferenceservices/r-roadwork",
            {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
        )
        yield running


@pytest.mark.usefixtures("api")
def test_a_proof_changes_nothing_and_says_what_is_served(capsys):
    assert main(["rollout", "--prove", URI, "--release", "r", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"outcome": "proven", "inference_service": "r-roadwork", "uri": URI}


def test_a_proof_only_asks(api):
    assert main(["rollout", "--prove", URI, "--release", "r", "--namespace", "here"]) == 0
    assert {line.split()[0] for line in api.asked} == {"GET"}


@pytest.mark.usefixtures("api")
def test_a_proof_that_fails_exits_1(capsys):
    command = ["rollout", "--prove", URI, "--release", "r", "--inference-service", "other", "--timeout-s", "0.01"]
    assert main(command) == 1
    assert "error: InferenceService `here/other` does not serve" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--prove", URI], "--prove needs --release"),
        (["--release", "r"], "no registry is named"),
        (["--release", "r", "--timeout-s", "0"], "--timeout-s is 0, expected more than 0"),
    ],
)
@pytest.mark.usefixtures("api")
def test_a_command_line_that_cannot_be_meant_exits_2(arguments, sentence, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["rollout", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_without_a_predictor_that_is_up_the_local_rollout_exits_2(tmp_path, capfd):
    assert main(["rollout", "--state", str(tmp_path)]) == 2
    assert "no predictor is up" in capfd.readouterr().err
