import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from bittensor_wallet import Keypair, Wallet

from streetvision.errors import SettingsError, StorageError
from streetvision.subnet.wallet import create_hotkey, hotkey_file, load_keypair


def test_a_hotkey_is_made_once(tmp_path: Path):
    address = create_hotkey(tmp_path, "miner", "default")
    assert create_hotkey(tmp_path, "miner", "default") == address
    assert create_hotkey(tmp_path, "miner", "other") != address


def test_a_wallet_holds_a_hotkey_for_its_owner_alone_and_no_coldkey(tmp_path: Path):
    create_hotkey(tmp_path, "miner", "default")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "miner" / "hotkeys" / "default"]
    assert stat.S_IMODE(hotkey_file(tmp_path, "miner", "default").stat().st_mode) == 0o600


def test_bittensor_reads_the_hotkey(tmp_path: Path):
    address = create_hotkey(tmp_path, "miner", "default")
    assert Wallet(name="miner", hotkey="default", path=str(tmp_path)).hotkey.ss58_address == address
    keypair = load_keypair(tmp_path, "miner", "default")
    assert Keypair(ss58_address=address).verify(b"text", keypair.sign(b"text"))


def test_nothing_is_made_in_the_home_folder(tmp_path: Path):
    home, wallets = tmp_path / "home", tmp_path / "wallets"
    home.mkdir()
    code = (
        "import sys; from pathlib import Path; from streetvision.subnet.wallet import create_hotkey;"
        "create_hotkey(Path(sys.argv[1]), 'w', 'h')"
    )
    subprocess.run([sys.executable, "-c", code, str(wallets)], check=True, env=os.environ | {"HOME": str(home)})
    assert list(home.iterdir()) == []
    assert (wallets / "w" / "hotkeys" / "h").is_file()


def test_a_missing_hotkey_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match="no hotkey `default` of wallet `miner`"):
        load_keypair(tmp_path, "miner", "default")


def test_an_encrypted_hotkey_is_refused_without_a_question(tmp_path: Path):
    file = hotkey_file(tmp_path, "miner", "default")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"$NACL" + bytes(100))  # real encryption takes nine seconds by design
    for read in (load_keypair, create_hotkey):
        with pytest.raises(SettingsError, match="is encrypted"):
            read(tmp_path, "miner", "default")


@pytest.mark.parametrize("content", [b"", b"{}", b"junk", json.dumps({"ss58Address": "x"}).encode()])
def test_an_unreadable_hotkey_is_refused(tmp_path: Path, content: bytes):
    file = hotkey_file(tmp_path, "miner", "default")
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_keypair(tmp_path, "miner", "default")


@pytest.mark.parametrize(("wallet", "hotkey"), [("..", "h"), ("w", "../h"), ("", "h"), ("w", "a/b")])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, wallet: str, hotkey: str):
    with pytest.raises(SettingsError, match="expected a plain file name"):
        create_hotkey(tmp_path, wallet, hotkey)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "miner").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write the hotkey"):
        create_hotkey(tmp_path, "miner", "default")
