"""What is pinned and not ours."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from manifests import third_party, versions
from manifests.tools import kubectl
from streetvision.errors import SettingsError
from tests.charts import schemas
from tests.charts.pod_security import violations

MANIFESTS = Path(third_party.__file__).parent
PINS = versions.versions()
OVERLAYS = ("kind", "gpu")


def _overlay(name):
    done = subprocess.run(
        [kubectl(), "kustomize", MANIFESTS / "overlays" / name], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def test_every_command_names_a_pinned_version():
    for part in third_party.parts().values():
        charts = [command for command in part.commands if command.program == "helm"]
        for command in charts:
            words = command.arguments
            assert words[words.index("--version") + 1] in PINS.values()
            assert "--values" not in words or Path(words[words.index("--values") + 1]).is_file()
        for command in part.commands:
            if "--kustomize" in command.arguments:
                folder = Path(command.arguments[command.arguments.index("--kustomize") + 1])
                (resource,) = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
                assert resource.endswith(f"?ref={PINS['KFP_VERSION']}")


def test_every_folder_is_a_part_in_the_order_of_installation():
    assert {path.name for path in third_party.FOLDER.iterdir()} == set(third_party.parts())
    assert list(third_party.parts())[:2] == ["cert-manager", "kserve"]


def test_kserve_runs_plain_deployments_with_the_pinned_proxy():
    values = yaml.safe_load((third_party.FOLDER / "kserve" / "values.yaml").read_text())["kserve"]
    assert values["controller"]["deploymentMode"] == "Standard"
    assert values["controller"]["rbacProxyImage"].endswith(f":{PINS['KUBE_RBAC_PROXY_VERSION']}")


def test_values_of_kserve_are_values_of_its_chart():
    ours = yaml.safe_load((third_party.FOLDER / "kserve" / "values.yaml").read_text())
    theirs = yaml.safe_load(
        (schemas.module("serving.kserve.io") / "charts" / "kserve-resources" / "values.yaml").read_text()
    )
    assert _unknown(ours, theirs) == []


def _unknown(ours, theirs, path=""):
    """Keys of ours that the chart's own values lack; below an empty default anything goes."""
    if not isinstance(ours, dict) or not isinstance(theirs, dict) or not theirs:
        return []
    return [f"{path}{key}" for key in ours if key not in theirs and not path.endswith("securityContext.")] + [
        found for key, value in ours.items() if key in theirs for found in _unknown(value, theirs[key], f"{path}{key}.")
    ]


@pytest.mark.parametrize("version", schemas.KUBERNETES)
@pytest.mark.parametrize("name", OVERLAYS)
def test_each_object_beside_the_charts_is_valid(name, version):
    assert {one["metadata"]["name"]: schemas.error(one, version) for one in _overlay(name)} == {
        one["metadata"]["name"]: None for one in _overlay(name)
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_namespace_lets_in_restricted_pods_alone(name):
    (namespace,) = [one for one in _overlay(name) if one["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_object_store_is_restricted_pinned_and_takes_its_keys_by_reference():
    (deployment,) = [one for one in _overlay("kind") if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert violations(pod) == []
    (container,) = pod["containers"]
    assert container["image"] == f"docker.io/versity/versitygw:{PINS['VERSITYGW_VERSION']}"
    assert all("secretKeyRef" in variable["valueFrom"] for variable in container["env"])
    assert not [one for one in _overlay("kind") if one["kind"] == "Secret"]


def test_the_gpu_overlay_makes_nothing_but_the_namespace():
    assert [one["kind"] for one in _overlay("gpu")] == ["Namespace"]


def test_versions_are_pinned_one_a_line(tmp_path, monkeypatch):
    for key, value in PINS.items():
        assert re.fullmatch(r"v?\d+(\.\d+)+.*|[a-z].*", value), key
    for text in ("A=1\nA=2\n", "a=1\n", "A = 1\n", "A=\n"):
        (tmp_path / "versions.env").write_text(text)
        monkeypatch.setattr(versions, "FILE", tmp_path / "versions.env")
        versions.versions.cache_clear()
        with pytest.raises(SettingsError, match="expected KEY=value"):
            versions.versions()
    versions.versions.cache_clear()
