import json
from pathlib import Path
from typing import Any

import pytest

from serving.miner.settings import PREFIX, Settings
from streetvision.errors import SettingsError

MIB = 1024 * 1024
GOOD = {
    "WALLET_PATH": "/wallets",
    "WALLET_NAME": "miner",
    "HOTKEY_NAME": "default",
    "NETWORK": "mock",
    "METAGRAPH_FILE": "/metagraph.json",
    "PREDICTOR_URL": "http://127.0.0.1:8080/",
}


def environment(**changes: str | None) -> dict[str, str]:
    values = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return {PREFIX + name: value for name, value in values.items()} | {"PATH": "/bin", "STREETVISION_OTHER": "x"}


def test_settings_are_read_from_the_environment():
    settings = Settings.from_environment(environment(PORT="9000", REQUIRE_PERMIT="false", MINIMUM_STAKE="20000"))
    assert settings.wallet_path == Path("/wallets")
    assert settings.predictor_url == "http://127.0.0.1:8080"
    assert (settings.port, settings.policy.require_permit, settings.policy.minimum_stake) == (9000, False, 20000.0)
    assert settings.model_name == "roadwork"


@pytest.mark.parametrize("name", ["WALLET_PATH", "WALLET_NAME", "HOTKEY_NAME", "NETWORK", "PREDICTOR_URL"])
def test_what_names_a_wallet_or_a_network_has_no_default(name: str):
    with pytest.raises(SettingsError, match=f"`{PREFIX}{name}` is not set"):
        Settings.from_environment(environment(**{name: None}))


def test_an_unknown_variable_is_an_error():
    with pytest.raises(SettingsError, match=f"`{PREFIX}PROT` is no setting of the miner"):
        Settings.from_environment(environment(PROT="9000"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "99999"),
        ("PORT", "http"),
        ("PREDICTOR_URL", "predictor:8080"),
        ("REQUIRE_PERMIT", "perhaps"),
        ("ANSWER_DEADLINE_S", "12"),
        ("NETWORK", "nakamoto"),
        ("LOG_LEVEL", "loud"),
        ("WALLET_NAME", ""),
        ("MODEL_NAME", "a/b"),
        ("REGIME", "R4"),
        ("CONNECTIONS", "0"),
        ("BODY_TIMEOUT_S", "0"),
        ("SYNC_INTERVAL_S", "1"),
        ("ANNOUNCE_PORT", "0"),
        ("CHAIN_ENDPOINTS", "https://entrypoint"),
    ],
)
def test_an_unusable_value_is_named(name: str, value: str):
    with pytest.raises(SettingsError, match=f"`{PREFIX}{name}` is `{value}`"):
        Settings.from_environment(environment(**{name: value}))


@pytest.mark.parametrize("network", ["finney", "test"])
def test_a_network_with_a_chain_needs_no_more_than_its_name(network: str):
    settings = Settings.from_environment(environment(NETWORK=network, METAGRAPH_FILE=None))
    assert (settings.netuid, settings.chain_endpoints, settings.announce) == (None, (), True)


def test_only_the_mock_network_has_a_file():
    with pytest.raises(SettingsError, match=f"needs `{PREFIX}METAGRAPH_FILE`"):
        Settings.from_environment(environment(METAGRAPH_FILE=None))
    with pytest.raises(SettingsError, match="METAGRAPH_FILE` is for the network `mock`, here it is `finney`"):
        Settings.from_environment(environment(NETWORK="finney"))


def test_lists_have_commas_in_a_variable_and_are_lists_in_the_file(tmp_path: Path):
    nodes, volumes = ["wss://mine:9944", "wss://yours"], ["/data", "/spool"]
    given = Settings.from_environment(environment(CHAIN_ENDPOINTS=", ".join(nodes), GUARDED_PATHS=",".join(volumes)))
    filed = Settings.from_environment(with_file(tmp_path, {"chain_endpoints": nodes, "guarded_paths": volumes}))
    assert given.chain_endpoints == filed.chain_endpoints == tuple(nodes)
    assert given.guarded_paths == filed.guarded_paths == tuple(map(Path, volumes))


@pytest.mark.parametrize(("name", "value"), [("SHADOW_URL", "http://127.0.0.1:1"), ("BUCKET", "predictions")])
def test_what_goes_to_the_prediction_log_needs_one(name: str, value: str):
    with pytest.raises(SettingsError, match=f"`{PREFIX}{name}` needs `{PREFIX}SPOOL_FOLDER`"):
        Settings.from_environment(environment(**{name: value}))


# --- limits


@pytest.mark.parametrize(("regime", "mib"), [("R0", 2), ("R1", 2), ("R2", 2), ("R3", 4)])
def test_the_regime_says_how_long_a_body_may_be(regime: str, mib: int):
    assert Settings.from_environment(environment(REGIME=regime)).largest_body_bytes == mib * MIB
    given = environment(REGIME=regime, BODY_LIMIT_BYTES="70000")
    assert Settings.from_environment(given).largest_body_bytes == 70_000


def test_callers_without_a_proof_share_a_quarter_of_the_room():
    limits = Settings.from_environment(environment(BODIES_LIMIT_BYTES=str(8 * MIB))).limits
    assert (limits.bodies_bytes, limits.unproven_bytes) == (8 * MIB, 2 * MIB)


# --- the secret one


@pytest.mark.parametrize("url", ["redis://:pass-word@host:6379/0", "rediss://user:pass-word@host"])
def test_the_nonce_servers_password_is_never_shown(url: str):
    settings = Settings.from_environment(environment(NONCE_SERVER=url))
    assert settings.nonce_server is not None
    assert settings.nonce_server.get_secret_value() == url
    assert "pass-word" not in repr(settings) + str(settings.model_dump())


@pytest.mark.parametrize("url", ["http://:pass-word@host", "pass-word", "redis://:pass-word@host:port"])
def test_an_unusable_nonce_server_is_named_without_its_password(url: str):
    with pytest.raises(SettingsError, match=f"`{PREFIX}NONCE_SERVER`: no address of a Redis server") as raised:
        Settings.from_environment(environment(NONCE_SERVER=url))
    assert "pass-word" not in str(raised.value)


# --- the file


def with_file(folder: Path, content: Any, **changes: str) -> dict[str, str]:
    file = folder / "settings.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return environment(SETTINGS_FILE=str(file), **changes)


def test_a_file_gives_more_settings(tmp_path: Path):
    settings = Settings.from_environment(with_file(tmp_path, {"minimum_stake": 5, "regime": "R3"}))
    assert (settings.minimum_stake, settings.regime) == (5.0, "R3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no JSON object"),
        ({"prot": 1}, f"`{PREFIX}PROT` is no setting"),
        ({"port": "http"}, f"`{PREFIX}PORT` is `http`"),
        ({"network": "mock"}, "`network` is given by `STREETVISION_MINER_NETWORK` and by"),
    ],
)
def test_an_unusable_file_is_named(tmp_path: Path, content: Any, message: str):
    with pytest.raises(SettingsError, match=message):
        Settings.from_environment(with_file(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        Settings.from_environment(environment(SETTINGS_FILE=str(tmp_path / "none.json")))


def test_what_may_change_is_told_from_what_needs_a_restart():
    before = Settings.from_environment(environment())
    after = Settings.from_environment(environment(PORT="9000", MINIMUM_STAKE="7", HOTKEY_NAME="next"))
    assert before.reloaded(after) == ({"minimum_stake", "hotkey_name"}, {"port"})
    assert before.reloaded(before) == (set(), set())
