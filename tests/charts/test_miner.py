import json
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from serving.miner.settings import PREFIX, Settings
from streetvision.errors import SettingsError
from tests.charts.render import CHARTS, Rendered, RenderError, as_model, render

CI = CHARTS / "miner" / "ci"
WAYS = sorted(CI.glob("*-values.yaml"))
FINNEY, MOCK, REPLICAS = (CI / f"{name}-values.yaml" for name in ("finney", "mock", "replicas"))
FROM_SECRETS = {f"{PREFIX}NONCE_SERVER": "redis://:secret@redis:6379/0"}
ELSEWHERE = {"HOME", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"}
ELSEWHERE |= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}

every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name.removesuffix("-values.yaml"))


def chart(values: dict[str, Any] | None = None, file: Path = FINNEY) -> Rendered:
    return render("miner", values, files=(file,))


def deployment(rendered: Rendered) -> client.V1Deployment:
    return rendered.typed(client.V1Deployment)


def pod(rendered: Rendered) -> client.V1PodSpec:
    return deployment(rendered).spec.template.spec


def miner(rendered: Rendered) -> client.V1Container:
    (container,) = pod(rendered).containers
    return container


def environment(rendered: Rendered) -> dict[str, str]:
    """As the process has it, with something for what comes from Secrets and from the pod itself."""
    return {
        one.name: one.value if one.value_from is None else FROM_SECRETS.get(one.name, "miner-abc")
        for one in miner(rendered).env
    }


def settings(rendered: Rendered, folder: Path) -> Settings:
    """What the miner itself makes of its environment and its settings file."""
    file = folder / "settings.json"
    file.write_text(rendered.typed(client.V1ConfigMap).data["settings.json"])
    ours = {name: value for name, value in environment(rendered).items() if name not in ELSEWHERE}
    assert all(name.startswith(PREFIX) for name in ours), ours.keys()
    return Settings.from_environment(ours | {f"{PREFIX}SETTINGS_FILE": str(file)})


def mounts(rendered: Rendered) -> dict[str, client.V1VolumeMount]:
    return {one.mount_path: one for one in miner(rendered).volume_mounts}


def volumes(rendered: Rendered) -> dict[str, client.V1Volume]:
    return {one.name: one for one in pod(rendered).volumes}


# The environment


@every_way
def test_the_miner_takes_every_variable_and_misses_none(way: Path, tmp_path: Path):
    found = settings(render("miner", files=(way,)), tmp_path)
    assert (found.port, found.metrics_port, found.metrics_host) == (8091, 9091, "0.0.0.0")
    assert found.drain_s == 5


@every_way
def test_every_path_of_the_settings_is_on_a_volume(way: Path, tmp_path: Path):
    rendered = render("miner", files=(way,))
    found = settings(rendered, tmp_path)
    writable = [path for path, mount in mounts(rendered).items() if not mount.read_only]
    readable = list(mounts(rendered))
    for path in (found.nonce_file, found.spool_folder, found.metagraph_cache):
        assert path is None or any(path.is_relative_to(mount) for mount in writable), path
    for path in (found.wallet_path, found.metagraph_file, *found.guarded_paths):
        assert path is None or any(path.is_relative_to(mount) for mount in readable), path


@every_way
def test_every_volume_is_searched_for_coldkeys(way: Path, tmp_path: Path):
    rendered = render("miner", {"extraVolumeMounts": [{"name": "tmp", "mountPath": "/more"}]}, files=(way,))
    found = settings(rendered, tmp_path)
    assert {str(path) for path in (found.wallet_path, *found.guarded_paths)} == set(mounts(rendered)) - {"/tmp"}


def test_the_values_reach_the_settings(tmp_path: Path):
    found = settings(chart(), tmp_path)
    assert found.network == "finney"
    assert found.predictor_url == "http://sv-roadwork-predictor"
    assert found.fallback_url == "http://sv-roadwork-fallback-predictor"
    assert found.chain_endpoints == ("wss://node.example.com", "ws://10.0.0.5:9944")
    assert (found.announce, found.announce_ip, found.announce_port) == (True, "203.0.113.10", 8091)
    assert found.minimum_stake == 1000
    assert (found.bucket, found.bucket_prefix, found.replica) == ("streetvision", "predictions", "sv-miner")
    shadowed = settings(chart(file=REPLICAS), tmp_path)
    assert (shadowed.netuid, shadowed.shadow_url) == (323, "http://next-roadwork-predictor")
    assert shadowed.nonce_server is not None
    mock = settings(chart(file=MOCK), tmp_path)
    assert (mock.network, mock.metagraph_file) == ("mock", Path("/metagraph/metagraph.json"))


def test_a_setting_that_the_miner_does_not_know_would_be_found(tmp_path: Path):
    with pytest.raises(SettingsError, match="MINIMUM_STEAK. is no setting of the miner"):
        settings(chart({"settings": {"minimum_steak": 1}}), tmp_path)


def test_settings_lie_in_a_file_that_is_mounted_whole_so_that_a_change_arrives():
    mount = mounts(chart())["/settings"]
    assert (mount.read_only, mount.sub_path) == (True, None)
    assert json.loads(chart().typed(client.V1ConfigMap).data["settings.json"]) == {"minimum_stake": 1000}


# Keys


def test_the_hotkey_is_mounted_by_reference_and_read_by_the_group_alone():
    wallets = volumes(chart())["wallets"].secret
    assert (wallets.secret_name, wallets.default_mode) == ("streetvision-miner-hotkey", 0o440)
    (item,) = wallets.items
    assert (item.key, item.path) == ("hotkey", "miner/hotkeys/default")
    assert mounts(chart())["/wallets"].read_only
    assert mounts(chart())["/wallets"].sub_path is None  # or a new key would not arrive
    assert pod(chart()).security_context.fs_group == 10001


COLD = [
    ({"hotkey": {"key": "coldkey"}}, "hotkey names coldkey"),
    ({"hotkey": {"existingSecret": "my-coldkey"}}, "hotkey names coldkey"),
    ({"extraVolumes": [{"name": "w", "secret": {"secretName": "wallet-coldkeypub"}}]}, "extraVolumes names coldkeypub"),
    (
        {"extraVolumes": [{"name": "w", "secret": {"secretName": "w", "items": [{"key": "ColdKey", "path": "x"}]}}]},
        "extraVolumes names ColdKey",
    ),
    ({"extraEnv": [{"name": "MNEMONIC", "value": "x"}]}, "extraEnv names MNEMONIC"),
    ({"extraVolumes": [{"name": "home", "hostPath": {"path": "/root/.bittensor"}}]}, "extraVolumes names .bittensor"),
    ({"extraVolumes": [{"name": "home", "hostPath": {"path": "/root"}}]}, "a folder of the node"),
    ({"extraVolumeMounts": [{"name": "tmp", "mountPath": "/wallets"}]}, "where only the hotkey may lie"),
    ({"extraVolumeMounts": [{"name": "tmp", "mountPath": "/wallets/miner/"}]}, "where only the hotkey may lie"),
    ({"extraVolumeMounts": [{"name": "tmp", "mountPath": "/x/../wallets/a"}]}, "where only the hotkey may lie"),
    ({"persistence": {"existingClaim": "coldkey-backup"}}, "persistence.existingClaim names coldkey"),
]


@pytest.mark.parametrize(("values", "sentence"), COLD, ids=[sentence for _, sentence in COLD])
def test_values_that_would_bring_a_coldkey_are_refused(values: dict[str, Any], sentence: str):
    with pytest.raises(RenderError, match=sentence.replace(".", r"\.")):
        chart(values)


# Replicas


def test_one_miner_is_ended_before_the_next_begins():
    assert deployment(chart()).spec.strategy.type == "Recreate"
    assert not chart().of("PodDisruptionBudget")
    assert volumes(chart())["data"].persistent_volume_claim.claim_name == "sv-miner"
    assert chart().typed(client.V1PersistentVolumeClaim).metadata.name == "sv-miner"


def test_several_miners_share_nonces_and_keep_their_log_apart():
    rendered = chart(file=REPLICAS)
    spec = deployment(rendered).spec
    assert (spec.replicas, spec.strategy.type) == (3, "RollingUpdate")
    nonces = next(one for one in miner(rendered).env if one.name == f"{PREFIX}NONCE_SERVER")
    assert (nonces.value_from.secret_key_ref.name, nonces.value_from.secret_key_ref.key) == ("redis", "address")
    replica = next(one for one in miner(rendered).env if one.name == f"{PREFIX}REPLICA")
    assert replica.value_from.field_ref.field_path == "metadata.name"
    assert volumes(rendered)["data"].empty_dir is not None
    assert not rendered.of("PersistentVolumeClaim")
    assert rendered.typed(client.V1PodDisruptionBudget).spec.max_unavailable == 1


# Where validators call


def test_callers_keep_their_address_on_their_way_in():
    for file, kind in ((FINNEY, "LoadBalancer"), (MOCK, "NodePort")):
        service = chart(file=file).typed(client.V1Service, "sv-miner")
        assert (service.spec.type, service.spec.external_traffic_policy) == (kind, "Local")
        (port,) = service.spec.ports  # and not the operator's
        assert (port.port, port.target_port) == (8091, "axon")
    assert chart(file=MOCK).typed(client.V1Service, "sv-miner").spec.ports[0].node_port == 30091
    inside = chart({"service": {"type": "ClusterIP"}}).typed(client.V1Service, "sv-miner")
    assert inside.spec.external_traffic_policy is None


def test_the_operators_port_is_never_outside():
    for way in WAYS:
        service = render("miner", files=(way,)).typed(client.V1Service, "sv-miner-operator")
        assert (service.spec.type, service.spec.ports[0].port) == ("ClusterIP", 9091)


def test_the_network_policy_lets_validators_in_and_little_out():
    policy = chart().typed(client.V1NetworkPolicy).spec
    assert policy.policy_types == ["Ingress", "Egress"]
    everybody, operators = policy.ingress
    assert everybody._from is None
    assert [one.port for one in everybody.ports] == ["axon"]
    assert [one.port for one in operators.ports] == ["operator"]
    dns, predictors, bucket, chain = policy.egress
    assert {(one.port, one.protocol) for one in dns.ports} == {(53, "UDP"), (53, "TCP")}
    (to,) = predictors.to
    assert to.pod_selector.match_labels == {"app.kubernetes.io/part-of": "streetvision"}
    assert set(to.pod_selector.match_expressions[0].values) == {"predictor", "fallback"}
    assert [one.port for one in predictors.ports] == [8080]
    assert [one.port for one in bucket.ports] == [443]
    assert [one.ip_block.cidr for one in chain.to] == ["198.51.100.0/24", "10.0.0.5/32"]
    assert {one.port for one in chain.ports} == {443, 9944}


def test_redis_and_a_bucket_elsewhere_may_be_asked_and_a_mock_asks_no_chain():
    redis = chart(file=REPLICAS).typed(client.V1NetworkPolicy).spec.egress
    assert [one.ports[0].port for one in redis] == [53, 8080, 6379, 443, 443]
    mock = chart(file=MOCK).typed(client.V1NetworkPolicy).spec.egress
    assert [one.ports[0].port for one in mock] == [53, 8080, 7070]


def test_a_name_for_the_port_is_that_of_the_container():
    names = {one.name: one.container_port for one in miner(chart()).ports}
    assert names == {"axon": 8091, "operator": 9091}
    probes = (miner(chart()).startup_probe, miner(chart()).readiness_probe, miner(chart()).liveness_probe)
    assert [one.http_get.path for one in probes] == ["/health/live", "/health/ready", "/health/live"]
    assert {one.http_get.port for one in probes} == {"operator"}


def test_there_is_time_to_drain():
    assert pod(chart()).termination_grace_period_seconds > 5 + 9


# The test


def test_helm_test_sends_a_challenge_where_it_has_a_validator_and_else_none():
    (with_validator,) = chart(file=MOCK).of("Pod")
    spec = as_model(with_validator["spec"], client.V1PodSpec)
    (container,) = spec.containers
    assert container.command == ["python", "-m", "serving.miner.probe"]
    assert "--validator=/validator/hotkeys/default" in container.args
    secret = next(one.secret for one in spec.volumes if one.name == "validator")
    assert (secret.secret_name, secret.default_mode) == ("streetvision-validator-hotkey", 0o440)
    (without,) = chart().of("Pod")
    assert not any("--validator" in one for one in without["spec"]["containers"][0]["args"])


def test_the_probe_takes_its_arguments(capsys: pytest.CaptureFixture[str]):
    from serving.miner.probe import main

    (test,) = chart(file=MOCK).of("Pod")
    args = [one for one in test["spec"]["containers"][0]["args"] if not one.startswith("--validator")]
    assert main([*args, "--validator=/nowhere"]) == 2  # understood, and then the file is not there
    assert "cannot be read" in capsys.readouterr().err


# What is refused


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"hotkey": {"existingSecret": ""}}, "hotkey.existingSecret is empty, expected the name of a Secret"),
        ({"predictor": {"url": ""}}, "predictor.url is empty, expected the address of a predictor"),
        ({"replicas": 2}, "replicas is 2 and each would take a challenge that another has answered"),
        ({"network": "mock"}, "network is mock and mock.existingConfigMap is empty"),
        ({"mock": {"existingConfigMap": "a"}}, "mock.existingConfigMap is a and network is finney"),
        (
            {"service": {"type": "ClusterIP", "nodePort": 30000}},
            "service.nodePort is 30000 and service.type is Cluster",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(values: dict[str, Any], sentence: str):
    with pytest.raises(RenderError, match=sentence):
        chart(values)


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"network": "main"}, "network"),
        ({"hotkey": {"secret": "a"}}, "secret"),
        ({"chain": {"egressCidrs": ["everywhere"]}}, "egressCidrs"),
        ({"chain": {"endpoints": ["https://a"]}}, "endpoints"),
        ({"service": {"port": 0}}, "port"),
        ({"settings": {"Minimum-Stake": 1}}, "Minimum-Stake"),
    ],
)
def test_the_schema_refuses_other_values(values: dict[str, Any], path: str):
    with pytest.raises(RenderError, match=path):
        chart(values)
