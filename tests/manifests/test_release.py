import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from manifests.cluster import ClusterError
from manifests.release import MODEL_URI, UNNAMED, Release, at

FIRST, SECOND, THIRD = (f"s3://streetvision/models/roadwork/{digit * 64}/" for digit in "123")
MANIFEST = yaml.safe_dump_all(
    [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}},
    ]
)


@dataclass
class Fake:
    """A cluster with one revision of a release, and a helm that would make another of it."""

    status: str | None = "deployed"
    values: dict = field(default_factory=dict)
    wanted: str = MANIFEST
    version: str = "0.1.0"
    there: tuple[str, ...] = ("service/a", "service/b")

    def run_helm(self, *arguments):
        match arguments[:2]:
            case "history", _ if self.status is None:
                raise ClusterError("release: not found")
            case "history", _:
                return json.dumps([{"revision": 1, "status": "superseded", "chart": "streetvision-0.0.9"}, self._row()])
            case "get", "values":
                return json.dumps(self.values)
            case "get", "manifest":
                return MANIFEST
            case "get", "hooks":
                return ""
            case "upgrade", _:
                metadata = {"name": "streetvision", "version": self.version}
                chart = {"metadata": metadata, "values": {"a": {"b": 1, "c": 2}, "d": 3}}
                return json.dumps({"chart": chart, "config": {"a": {"b": 5}}, "manifest": self.wanted, "hooks": None})
        raise AssertionError(arguments)

    def run_kubectl(self, *arguments, stdin):
        assert stdin == MANIFEST
        return "\n".join(self.there)

    def _row(self):
        return {"revision": 2, "status": self.status, "chart": "streetvision-0.1.0"}


def _release(*settings, files=()):
    return Release(name="sv", chart=Path("charts/streetvision"), files=tuple(files), settings=settings)


def _values(folder, name, uri):
    file = folder / name
    file.write_text(yaml.safe_dump({"predictor": {"model": {"uri": uri}}}))
    return file


def test_the_served_model_stays_whatever_a_values_file_says_and_a_named_one_goes_before_both(tmp_path):
    release = _release(files=[_values(tmp_path, "profile.yaml", FIRST)])
    served = Fake(values={"predictor": {"model": {"uri": SECOND}}})
    assert release.model(served) == SECOND
    assert release.with_settings(f"{MODEL_URI}={THIRD}").model(served) == THIRD
    assert release.model(Fake(status=None)) == FIRST
    assert release.model(Fake(status="failed")) == FIRST, "a failed attempt served nothing"
    assert _release().model(Fake(status=None)) is None


def test_the_later_values_file_names_the_model(tmp_path):
    files = [_values(tmp_path, "profile.yaml", FIRST), _values(tmp_path, "own.yaml", SECOND)]
    assert _release(files=files).model(Fake(status=None)) == SECOND


def test_a_plan_has_the_values_over_those_of_the_chart():
    plan = _release().plan(Fake())
    assert plan.values == {"a": {"b": 5, "c": 2}, "d": 3}
    assert plan.chart == "streetvision-0.1.0"
    assert [one["metadata"]["name"] for one in plan.objects] == ["a", "b"]


def test_an_equal_release_whose_objects_are_all_there_is_current():
    assert _release().is_current(Fake())
    reordered = yaml.safe_dump_all(list(yaml.safe_load_all(MANIFEST))[::-1])
    assert _release().is_current(Fake(wanted=reordered))


@pytest.mark.parametrize(
    "changes",
    [
        {"status": None},
        {"status": "failed"},
        {"status": "pending-upgrade"},
        {"version": "0.1.1"},
        {"wanted": MANIFEST.replace("name: a", "name: c")},
        {"there": ("service/a",)},
    ],
)
def test_a_release_that_differs_or_lacks_an_object_is_not_current(changes):
    assert not _release().is_current(Fake(**changes))


def test_a_path_into_values_ends_in_nothing_where_there_is_none():
    assert at({"a": {"b": 1}}, "a.b") == 1
    assert at({"a": {"b": 1}}, "a.c.d") is None
    assert at({"a": 1}, "a.b") is None


def test_the_stand_in_for_a_model_names_no_bucket_of_ours():
    assert not UNNAMED.startswith("s3://streetvision")


def test_helm_that_fails_is_quoted_with_what_the_pods_said(tmp_path, monkeypatch):
    helm = tmp_path / "helm"
    helm.write_text(f"#!{shutil.which('sh')}\nsleep 0.3\necho 'Error: UPGRADE FAILED: no such image'\nexit 1\n")
    helm.chmod(0o755)
    monkeypatch.setattr("manifests.release._POLL_S", 0.05)
    pod = {
        "metadata": {"name": "sv-miner-0"},
        "status": {
            "phase": "Pending",
            "containerStatuses": [{"ready": False, "state": {"waiting": {"reason": "ErrImagePull"}}}],
        },
    }

    class Cluster:
        namespace, context = "here", None

        def run_kubectl(self, *arguments):
            return json.dumps({"items": [pod]})

    cluster, told = Cluster(), []
    cluster.helm = helm
    with pytest.raises(ClusterError, match="no such image") as failed:
        _release().upgrade(cluster, timeout_s=5, say=told.append)
    assert told == ["sv-miner-0 (ErrImagePull)"]
    assert "last seen: sv-miner-0 (ErrImagePull)" in failed.value.message
    assert "helm history sv --namespace here" in failed.value.hint
