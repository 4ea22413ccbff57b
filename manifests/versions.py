"""What manifests/versions.env pins."""

import re
from functools import cache
from pathlib import Path

from streetvision.errors import SettingsError

FILE = Path(__file__).parent / "versions.env"


@cache
def versions() -> dict[str, str]:
    """Every KEY=value of versions.env.

    Raises:
        SettingsError: a line is neither that nor a comment, or a key comes twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(FILE.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Z][A-Z0-9_]*)=([A-Za-z0-9_.:/@+-]+)", line)
        if match is None or match[1] in found:
            raise SettingsError(f"line {number} of `{FILE}` is `{line}`, expected KEY=value with a key of its own")
        found[match[1]] = match[2]
    return found
