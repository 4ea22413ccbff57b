from pathlib import Path

import pytest

from serving.miner.settings import PREFIX, Settings
from streetvision.errors import SettingsError

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
    assert (settings.port, settings.require_permit, settings.minimum_stake) == (9000, False, 20000.0)
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
    ],
)
def test_an_unusable_value_is_named(name: str, value: str):
    with pytest.raises(SettingsError, match=f"`{PREFIX}{name}` is `{value}`"):
        Settings.from_environment(environment(**{name: value}))


@pytest.mark.parametrize("network", ["finney", "test"])
def test_a_network_with_a_chain_is_refused_in_words(network: str):
    with pytest.raises(SettingsError, match=f"network `{network}` is not served yet, expected `mock`"):
        Settings.from_environment(environment(NETWORK=network))


def test_the_mock_network_needs_its_file():
    with pytest.raises(SettingsError, match="needs `STREETVISION_MINER_METAGRAPH_FILE`"):
        Settings.from_environment(environment(METAGRAPH_FILE=None))
