"""Wallet folders that hold a hotkey and never a coldkey, in bittensor's layout `<path>/<name>/hotkeys/<hotkey>`."""

from pathlib import Path

from bittensor_wallet import Keyfile, Keypair
from bittensor_wallet.errors import KeyFileError

from streetvision.errors import SettingsError, StorageError


def create_hotkey(wallet_path: Path, wallet_name: str, hotkey_name: str) -> str:
    """Makes the hotkey unless it exists, in a file that only its owner reads; returns its ss58 address.

    Raises:
        SettingsError: the key exists but is encrypted or unreadable.
        StorageError: the folder cannot be written.
    """
    file = hotkey_file(wallet_path, wallet_name, hotkey_name)
    if not file.exists():
        keypair = Keypair.create_from_mnemonic(Keypair.generate_mnemonic(12))
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            Keyfile(str(file)).set_keypair(keypair, encrypt=False, overwrite=False)
        except (OSError, KeyFileError) as err:
            raise StorageError(f"cannot write the hotkey `{file}`: {err}") from err
    return load_keypair(wallet_path, wallet_name, hotkey_name).ss58_address


def load_keypair(wallet_path: Path, wallet_name: str, hotkey_name: str) -> Keypair:
    """The hotkey's key pair, without a question to anybody.

    Raises:
        SettingsError: the key is missing, encrypted or unreadable.
    """
    file = hotkey_file(wallet_path, wallet_name, hotkey_name)
    keyfile = Keyfile(str(file))
    if not file.is_file():
        raise SettingsError(
            f"no hotkey `{hotkey_name}` of wallet `{wallet_name}`: `{file}` is no file",
            hint="copy the hotkey file there, and leave the coldkey where it is",
        )
    try:
        if keyfile.is_encrypted():
            raise SettingsError(
                f"hotkey `{file}` is encrypted, expected a hotkey that a server can open by itself",
                hint="write it again without a password, readable by its owner alone",
            )
        return keyfile.get_keypair()
    except KeyFileError as err:
        raise SettingsError(f"hotkey `{file}` cannot be read: {err}") from err


def hotkey_file(wallet_path: Path, wallet_name: str, hotkey_name: str) -> Path:
    """Where the hotkey lies.

    Raises:
        SettingsError: a name is empty or leads out of the folder.
    """
    for name in (wallet_name, hotkey_name):
        if not name or name in (".", "..") or Path(name).name != name:
            raise SettingsError(f"`{name}` is no name of a wallet or hotkey, expected a plain file name")
    return wallet_path / wallet_name / "hotkeys" / hotkey_name
