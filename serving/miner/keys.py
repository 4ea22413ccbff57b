"""The miner's hotkey, and whether a coldkey is in reach of a process that faces the internet and needs none."""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bittensor_wallet import Keypair

from streetvision.errors import SettingsError
from streetvision.subnet.wallet import hotkey_file, load_keypair

_LARGEST_BYTES = 64 * 1024  # no key or phrase is larger
_ENCRYPTED = (b"$NACL", b"$ANSIBLE_VAULT", b"gAAAAA")  # the three ways in which bittensor encrypts a key
_SECRETS = ("secretPhrase", "secretSeed", "privateKey")
_WORD_COUNTS = (12, 15, 18, 21, 24)
_WORDS = re.compile(r"(?<![a-z])(?:[a-z]{3,8}[^a-z]{1,8}){11,}[a-z]{3,8}(?![a-z])")
_SEED = re.compile(r"(?:0x)?[0-9a-f]{64}(?:[0-9a-f]{64})?", re.IGNORECASE)
_ADDRESS = re.compile(r"5[1-9A-HJ-NP-Za-km-z]{46,47}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hotkey:
    """The key that a miner answers for: its address, the file that it lies in, and how its wallet names it."""

    address: str
    file: Path
    wallet_name: str
    name: str


def read_hotkey(wallets: Path, wallet_name: str, name: str) -> Hotkey:
    """The hotkey of that name.

    Raises:
        SettingsError: there is none that can be used.
    """
    address = load_keypair(wallets, wallet_name, name).ss58_address
    return Hotkey(address=address, file=hotkey_file(wallets, wallet_name, name), wallet_name=wallet_name, name=name)


def refuse_coldkeys(
    paths: Sequence[Path], environment: Mapping[str, str], *, passed_over: Collection[Path] = ()
) -> None:
    """Returns if neither a coldkey nor a mnemonic is in reach; what is found is named and never shown.

    A hotkey holds its own phrase, as bittensor writes it: that is right in a folder `hotkeys` and nowhere else.

    Args:
        paths: the wallet folder, with the wallets beside the miner's own, and the volumes that are mounted.
        environment: of the process.
        passed_over: files and folders in there that hold what callers sent, who could write a phrase into them.

    Raises:
        SettingsError: there is one, or one of the paths does not exist.
    """
    for path in paths:
        if not path.exists():
            raise SettingsError(
                f"`{path}` cannot be searched for coldkeys: there is nothing", hint="correct the path or leave it out"
            )
    passed_over = {path.resolve() for path in passed_over}
    found = [finding for path in paths for finding in _in_path(path, passed_over)]
    found = list(dict.fromkeys(found)) + list(_in_environment(environment))
    if found:
        raise SettingsError(
            "the miner does not start where a coldkey is in reach: " + "; ".join(found),
            hint="move it to the machine that you sign from: here the hotkey and `coldkeypub.txt` are enough",
        )


def _in_path(path: Path, passed_over: Collection[Path]) -> Iterator[str]:
    for file in [path] if path.is_file() else _files(path, passed_over):
        if finding := _in_file(file, among_hotkeys="hotkeys" in file.relative_to(path.parent).parts):
            yield f"`{file}` {finding}"


def _files(folder: Path, passed_over: Collection[Path]) -> Iterator[Path]:
    """All files below a folder, those behind links too, each folder once."""
    seen: set[tuple[int, int]] = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        for name in list(folders):
            if (Path(path) / name).resolve() in passed_over:
                folders.remove(name)
                continue
            try:
                status = (Path(path) / name).stat()
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in seen:
                folders.remove(name)
            seen.add((status.st_dev, status.st_ino))
        files = (Path(path) / name for name in sorted(names))
        yield from (file for file in files if file.resolve() not in passed_over)


def _in_file(file: Path, *, among_hotkeys: bool) -> str | None:
    if _is_coldkey_name(file.name):
        return "is named as a coldkey"
    data = _content(file)
    if data is None:
        return None
    if data.startswith(_ENCRYPTED):
        return None if among_hotkeys else "is an encrypted key that is no hotkey"
    text = data.decode(errors="ignore")
    key = _key(text)
    if key is None or not any(key.get(name) for name in _SECRETS):
        return "holds a mnemonic" if _has_mnemonic(text) else None
    if not among_hotkeys:
        return "holds a private key that is no hotkey"
    return "is the coldkey of its wallet" if _is_coldkey_of_wallet(file, key) else None


def _is_coldkey_name(name: str) -> bool:
    name = name.lower()
    return name.startswith("coldkey") and not name.startswith("coldkeypub")


def _content(file: Path) -> bytes | None:
    """The content of a regular file that may be a key; what we cannot read, nobody steals from us."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST_BYTES:
            return None
        return file.read_bytes()
    except OSError:
        return None


def _key(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def _is_coldkey_of_wallet(file: Path, key: Mapping[str, Any]) -> bool:
    """Whether a key among the hotkeys is the one whose public half lies in the wallet's `coldkeypub.txt`."""
    for folder in file.parents:
        if folder.name == "hotkeys":
            public = _key((_content(folder.parent / "coldkeypub.txt") or b"").decode(errors="ignore"))
            return public is not None and any(
                key.get(name) and key.get(name) == public.get(name) for name in ("publicKey", "ss58Address")
            )
    return False


def _has_mnemonic(text: str) -> bool:
    """Whether 12 to 24 words in a row are a BIP39 phrase, its checksum included."""
    for run in _WORDS.finditer(text.lower()):
        words = re.findall("[a-z]+", run.group())
        for count in _WORD_COUNTS:
            if any(_is_phrase(words[at : at + count]) for at in range(len(words) - count + 1)):
                return True
    return False


def _is_phrase(words: Sequence[str]) -> bool:
    try:
        Keypair.create_from_mnemonic(" ".join(words))
    except ValueError:
        return False
    return True


def _in_environment(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in sorted(environment.items()):
        if finding := _in_variable(name.upper(), value.strip()):
            yield f"environment variable `{name}` {finding}"


def _in_variable(name: str, value: str) -> str | None:
    if not value:
        return None
    if _has_mnemonic(value):
        return "holds a mnemonic"
    if "MNEMONIC" in name:
        return "is named as a mnemonic"
    # An address is no secret, and a coldkey's is often wanted.
    if "COLDKEY" in name and "COLDKEYPUB" not in name and not _ADDRESS.fullmatch(value):
        return "is named as a coldkey"
    # `PYTHONHASHSEED=0` and its like are no keys.
    if "SEED" in name and _SEED.fullmatch(value):
        return "holds a seed"
    key = _key(value)
    if key is not None and any(key.get(secret) for secret in _SECRETS):
        return "holds a private key"
    return None
