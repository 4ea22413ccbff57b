#!/usr/bin/env python3
"""runc for a root user without CAP_SYS_RESOURCE: leaves out of a container's spec what this root may not give.

It takes rights away and adds none. dockerd starts it by this file's path, so it imports nothing of ours.
"""

import json
import os
import sys
from pathlib import Path

RUNC = "/usr/sbin/runc"
_CAPABILITY = "CAP_SYS_RESOURCE"


def spec_path(arguments: list[str]) -> Path | None:
    """The file with the rights that this call would give, where it starts anything."""
    if "exec" in arguments:
        path = _option(arguments, "--process", "-p")
        return Path(path) if path else None
    if "create" in arguments or "run" in arguments:
        return Path(_option(arguments, "--bundle", "-b") or ".", "config.json")
    return None


def lessen(spec: dict) -> None:
    """Takes the capability, raised limits and a protection from the OOM killer out of a spec or a process."""
    process = spec.get("process", spec)
    for given in (process.get("capabilities") or {}).values():
        given[:] = [name for name in given if name != _CAPABILITY]
    process.pop("rlimits", None)
    process["oomScoreAdj"] = max(process.get("oomScoreAdj") or 0, 0)


def _option(arguments: list[str], *names: str) -> str | None:
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else arguments[number + 1]
    return None


def main() -> None:
    path = spec_path(sys.argv[1:])
    if path:
        spec = json.loads(path.read_text())
        lessen(spec)
        path.write_text(json.dumps(spec))
    os.execv(RUNC, ["runc", *sys.argv[1:]])


if __name__ == "__main__":
    main()
