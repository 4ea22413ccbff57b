import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from bittensor_wallet import Keyfile, Keypair

from serving.miner.keys import refuse_coldkeys
from streetvision.errors import SettingsError
from streetvision.subnet.wallet import create_hotkey

# Made for this file: neither has ever held anything.
PHRASE = Keypair.generate_mnemonic(12)
LONG_PHRASE = Keypair.generate_mnemonic(24)


@pytest.fixture
def wallets(tmp_path: Path) -> Path:
    """A wallet as a miner should have it."""
    folder = tmp_path / "wallets"
    create_hotkey(folder, "miner", "default")
    coldkey = Keypair.create_from_uri("//Alice")
    public = {"accountId": f"0x{coldkey.public_key.hex()}", "publicKey": f"0x{coldkey.public_key.hex()}"}
    public["ss58Address"] = coldkey.ss58_address
    (folder / "miner" / "coldkeypub.txt").write_text(json.dumps(public))
    (folder / "miner" / "hotkeys" / "defaultpub.txt").write_text(json.dumps(public))
    return folder


def refusal(*folders: Path, **environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        refuse_coldkeys(folders, environment)
    for phrase in (PHRASE, LONG_PHRASE):
        words = phrase.split()
        assert not any(f"{one} {two}" in str(caught.value) for one, two in pairwise(words))
    assert "hotkey and `coldkeypub.txt` are enough" in str(caught.value)
    return caught.value.message


def write_key(file: Path, *, uri: str = "//Alice") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Keyfile(str(file)).set_keypair(Keypair.create_from_uri(uri), encrypt=False, overwrite=False)
    return file


def write_locked_key(file: Path) -> Path:
    """A key as bittensor encrypts it, but for the seconds that this takes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"$NACL" + os.urandom(400))
    return file


def test_a_wallet_of_hotkeys_is_accepted(wallets: Path):
    create_hotkey(wallets, "miner", "second")
    create_hotkey(wallets, "other", "default")
    write_locked_key(wallets / "other" / "hotkeys" / "locked")
    (wallets / "notes.txt").write_text("twelve plain words that anyone could write here and that are no phrase at all")
    (wallets / "picture.jpg").write_bytes(os.urandom(50_000))
    refuse_coldkeys([wallets, wallets / "miner"], {"PATH": "/bin", "HOME": "/root"})


@pytest.mark.parametrize("wallet", ["miner", "beside"])
@pytest.mark.parametrize("write", [write_key, write_locked_key])
def test_a_coldkey_file_is_named(wallets: Path, wallet: str, write: Callable[[Path], Path]):
    file = write(wallets / wallet / "coldkey")
    assert f"`{file}` is named as a coldkey" in refusal(wallets)


def test_a_coldkey_under_another_name_is_named(wallets: Path):
    plain = write_key(wallets / "miner" / "backup.json", uri="//Charlie")
    locked = write_locked_key(wallets / "miner" / "old")
    message = refusal(wallets)
    assert f"`{plain}` holds a private key that is no hotkey" in message
    assert f"`{locked}` is an encrypted key that is no hotkey" in message


def test_a_coldkey_among_the_hotkeys_is_named(wallets: Path):
    file = write_key(wallets / "miner" / "hotkeys" / "spare")
    assert f"`{file}` is the coldkey of its wallet" in refusal(wallets)


@pytest.mark.parametrize("phrase", [PHRASE, LONG_PHRASE], ids=["12 words", "24 words"])
@pytest.mark.parametrize("text", ["{}", "my words are: {}, keep them", "{}\n", '{{"words": "{}"}}'])
def test_a_file_with_a_mnemonic_is_named(wallets: Path, phrase: str, text: str):
    (wallets / "miner" / "notes").write_text(text.format(phrase))
    assert "notes` holds a mnemonic" in refusal(wallets)


@pytest.mark.parametrize("between", ["\n", ", ", "\t", ". 3 "])
def test_a_mnemonic_is_one_however_it_is_written(wallets: Path, between: str):
    (wallets / "notes").write_text(between.join(PHRASE.upper().split()))
    assert "notes` holds a mnemonic" in refusal(wallets)


def test_a_mnemonic_among_the_hotkeys_is_named_where_it_is_no_key_file(wallets: Path):
    (wallets / "miner" / "hotkeys" / "words.txt").write_text(PHRASE)
    assert "words.txt` holds a mnemonic" in refusal(wallets)


def test_a_mounted_volume_is_searched_behind_its_links(wallets: Path, tmp_path: Path):
    volume = tmp_path / "volume"
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "phrase").write_text(PHRASE)
    (volume / "..2026_11_23").mkdir(parents=True)
    (volume / "..2026_11_23" / "phrase").symlink_to(tmp_path / "far" / "phrase")
    (volume / "..data").symlink_to("..2026_11_23")
    (volume / "loop").symlink_to(volume)
    (volume / "elsewhere").symlink_to(tmp_path / "far")
    message = refusal(wallets, volume)
    assert str(volume / "elsewhere" / "phrase") in message
    assert "wallets" not in message


def test_a_hotkey_mounted_as_a_secret_is_accepted(tmp_path: Path):
    hotkeys = tmp_path / "wallets" / "miner" / "hotkeys"
    write_key(hotkeys / "..2026_11_23" / "default")
    (hotkeys / "..data").symlink_to("..2026_11_23")
    (hotkeys / "default").symlink_to("..data/default")
    refuse_coldkeys([tmp_path / "wallets"], {})


def test_files_that_cannot_be_read_are_passed_over(wallets: Path):
    (wallets / "nowhere").symlink_to(wallets / "none")
    os.mkfifo(wallets / "pipe")
    (wallets / "deep.json").write_text("[" * 50_000)
    refuse_coldkeys([wallets], {})


def test_a_path_that_does_not_exist_is_named(wallets: Path):
    with pytest.raises(SettingsError, match="`.*/no folder` cannot be searched for coldkeys"):
        refuse_coldkeys([wallets, wallets / "no folder"], {})


def test_a_single_file_is_searched(wallets: Path, tmp_path: Path):
    (tmp_path / "phrase").write_text(PHRASE)
    assert f"`{tmp_path / 'phrase'}` holds a mnemonic" in refusal(wallets, tmp_path / "phrase")


def test_only_folders_below_the_one_that_is_searched_are_those_of_hotkeys(tmp_path: Path):
    file = write_key(tmp_path / "hotkeys" / "wallets" / "miner" / "secret.json")
    assert f"`{file}` holds a private key" in refusal(tmp_path / "hotkeys" / "wallets")


def test_what_callers_sent_is_passed_over_and_nothing_beside_it(wallets: Path, tmp_path: Path):
    data = tmp_path / "data"
    for name in ("spool/picture.jpg", "nonces"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(PHRASE)
    (tmp_path / "link").symlink_to(data)
    refuse_coldkeys([wallets, tmp_path / "link"], {}, passed_over=[data / "spool", data / "nonces"])
    (data / "spool.txt").write_text(PHRASE)
    with pytest.raises(SettingsError, match=r"spool\.txt` holds a mnemonic"):
        refuse_coldkeys([wallets, tmp_path / "link"], {}, passed_over=[data / "spool", data / "nonces"])


@pytest.mark.parametrize(
    ("name", "value", "finding"),
    [
        pytest.param("ANYTHING", PHRASE, "holds a mnemonic", id="phrase"),
        pytest.param("ANYTHING", f"words={LONG_PHRASE}", "holds a mnemonic", id="phrase among other text"),
        ("WALLET_MNEMONIC", "not even one", "is named as a mnemonic"),
        ("BT_PW__ROOT__BITTENSOR_WALLETS_DEFAULT_COLDKEY", "b64", "is named as a coldkey"),
        ("Coldkey", "0x" + "ab" * 32, "is named as a coldkey"),
        ("WALLET_SEED", "0x" + "ab" * 32, "holds a seed"),
        ("KEY", '{"secretSeed": "0xab"}', "holds a private key"),
    ],
)
def test_a_secret_in_the_environment_is_named_and_not_shown(wallets: Path, name: str, value: str, finding: str):
    message = refusal(wallets, **{name: value})
    assert f"environment variable `{name}` {finding}" in message
    assert value not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHONHASHSEED", "0"),
        ("SEED", "42"),
        ("COLDKEY_ADDRESS", Keypair.create_from_uri("//Alice").ss58_address),
        ("COLDKEYPUB", "0x" + "ab" * 32),
        ("WALLET_MNEMONIC", ""),
        ("MODEL_SHA256", "ab" * 32),
        ("SENTENCE", "this is the long name of a thing that we need in here every day"),
    ],
)
def test_an_environment_without_secrets_is_accepted(wallets: Path, name: str, value: str):
    refuse_coldkeys([wallets], {name: value})


def test_everything_found_is_told_at_once(wallets: Path):
    write_key(wallets / "miner" / "coldkey")
    (wallets / "notes").write_text(PHRASE)
    message = refusal(wallets, wallets / "miner", PHRASE=PHRASE)
    assert message.count("coldkey` is named") == 1
    assert message.count(";") == 2
