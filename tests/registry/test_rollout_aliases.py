"""What a rollout asks of the registry: what may be served, and the way back."""

from dataclasses import replace

import pytest

from streetvision.errors import RegistryError, SettingsError
from streetvision.operations.helm import Helm
from streetvision.operations.proof import Predictor
from streetvision.operations.rollout import Rollout
from streetvision.registry.lease import LeaseLock
from streetvision.registry.lock import Hold
from streetvision.registry.mlflow import FENCE, Registry
from tests.kubernetes_objects import connected, kubernetes_objects

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


class Numbered:
    """A lock that numbers its holders, as a Lease does."""

    def __init__(self, *tokens):
        self.tokens = list(tokens)
        self.above = []

    def hold(self, actor, *, above=0):
        self.above.append(above)
        hold = Hold()
        hold.token = self.tokens.pop(0)
        return _context(hold)


class _context:
    def __init__(self, hold):
        self.hold = hold

    def __enter__(self):
        return self.hold

    def __exit__(self, *_):
        pass


@pytest.fixture
def registry(tmp_path):
    return Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "models")


@pytest.fixture
def register(registry, make_model, make_decision):
    def register(content, verdict="promote"):
        model = make_model(content)
        return registry.register(model.path, decision=make_decision(verdict), params={}, metrics={}).version

    return register


def aliases(registry):
    found = {name: registry.by_alias(name) for name in ("champion", "challenger", "previous")}
    return {name: version.version for name, version in found.items() if version}


def test_taking_back_makes_the_one_before_champion_again_and_notes_why(registry, register):
    registry.promote(register("a"), expected_champion=None)
    registry.promote(register("b"), expected_champion=1)
    registry.take_back(2, champion=1, reason="pods failed")
    assert aliases(registry) == {"champion": 1}
    assert registry.version(2).tags["rollout_failed"].endswith(" pods failed")


def test_taking_back_the_first_champion_leaves_none(registry, register):
    registry.promote(register("a"), expected_champion=None)
    registry.take_back(1, champion=None, reason="pods failed")
    assert aliases(registry) == {}


def test_a_champion_that_somebody_promoted_meanwhile_is_left_alone(registry, register):
    registry.promote(register("a"), expected_champion=None)
    registry.promote(register("b"), expected_champion=1)
    with pytest.raises(RegistryError, match="champion of `roadwork` is version 2, expected version 1"):
        registry.take_back(1, champion=None, reason="pods failed")
    assert aliases(registry)["champion"] == 2


def test_only_what_the_gate_or_a_person_let_through_is_to_be_served(registry, register):
    with pytest.raises(SettingsError, match="no version of `roadwork` has the alias `champion`"):
        registry.to_be_served()
    version = register("a", verdict="keep")
    with pytest.raises(
        SettingsError, match="version 1 of `roadwork` has the alias `challenger`, but the verdict `keep`"
    ):
        registry.to_be_served("challenger")
    registry.tag(version, "approved_by", "a person")
    assert registry.to_be_served("challenger").version == version


def test_a_version_is_found_by_where_its_model_lies(registry, register):
    version = registry.version(register("a"))
    assert registry.by_source(version.source) == version
    assert registry.by_source(f"{version.source}/") == version
    assert registry.by_source(version.source.replace("file:///", "file:///elsewhere/")) is None
    assert registry.by_source("s3://bucket/models/latest/") is None


def test_a_holder_that_comes_too_late_moves_no_alias(tmp_path, make_model, make_decision):
    lock = Numbered(1, 5, 3)
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "models", lock=lock)
    for content in ("a", "b"):
        registry.register(make_model(content).path, decision=make_decision(), params={}, metrics={})
    with pytest.raises(RegistryError, match="promotion number 3 of `roadwork` comes too late: number 5 was here"):
        registry.promote(2, expected_champion=None)
    assert lock.above == [0, 1, 5]  # so that a Lease that was deleted counts on
    assert aliases(registry) == {"challenger": 2}
    assert registry._client.get_registered_model("roadwork").tags[FENCE] == "5"


def test_without_a_champion_there_is_nothing_to_roll_out_but_another_alias_must_be_there(
    registry, tmp_path, monkeypatch
):
    with kubernetes_objects() as api:
        cluster = connected(api, tmp_path, monkeypatch)
        rollout = Rollout(
            registry=registry,
            helm=Helm(str(tmp_path / "no helm"), "here"),
            release="r",
            chart=tmp_path,
            predictor=Predictor(cluster, "here", "r-roadwork"),
            lock=LeaseLock(cluster, "r-rollout", namespace="here", what="rollout"),
            timeout_s=1,
        )
        assert rollout.run() is None
        with pytest.raises(SettingsError, match="no version of `roadwork` has the alias `canary`"):
            rollout.run("canary")
        cluster.close()


def test_a_model_that_lies_where_its_address_may_change_is_not_rolled_out(registry, register, tmp_path, monkeypatch):
    version = register("a")
    registry.promote(version, expected_champion=None)
    found = registry.version(version)
    monkeypatch.setattr(registry, "version", lambda _: replace(found, source="s3://bucket/models/latest/"))
    with kubernetes_objects() as api:
        cluster = connected(api, tmp_path, monkeypatch)
        lock = LeaseLock(cluster, "r-rollout", namespace="here", what="rollout")
        rollout = Rollout(
            registry=registry, helm=Helm("none", "here"), release="r", chart=tmp_path,
            predictor=Predictor(cluster, "here", "r-roadwork"), lock=lock, timeout_s=1,
        )  # fmt: skip
        with pytest.raises(SettingsError, match="version 1 lies at `s3://bucket/models/latest/`, expected an address"):
            rollout.run()
        cluster.close()
