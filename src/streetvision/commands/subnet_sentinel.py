"""`streetvision subnet sentinel`: whether the subnet's own source still says what `regimes.py` says."""

import argparse
from pathlib import Path

from streetvision.commands.arguments import Commands, add_command, print_json

_SAME, _DIFFERENT, _NOT_READ = 0, 1, 2


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    sentinel = add_command(
        commands, "sentinel", _sentinel, "whether the subnet's source still has the rules of a regime"
    )
    sentinel.description = (
        f"{sentinel.description} The source is read, never run. "
        "Exit code 0: all is the same; 1: something is different; 2: nothing is different, but something was not read."
    )
    sentinel.add_argument("--upstream", type=Path, required=True, metavar="DIR", help="checkout of the subnet's source")
    sentinel.add_argument("--regime", default="R1", help="whose rules are expected, R0 to R4")


def _sentinel(arguments: argparse.Namespace) -> int:
    from streetvision.subnet.regimes import by_name
    from streetvision.subnet.sentinel import compare

    regime = by_name(arguments.regime)
    findings = compare(arguments.upstream, regime)
    groups = {status: [one for one in findings if one.status == status] for status in ("same", "not read", "different")}
    if arguments.json:
        print_json(
            {
                "regime": regime.name,
                "upstream": str(arguments.upstream),
                "findings": [one.as_json() for one in findings],
            }
        )
    else:
        for status, found in groups.items():
            for one in found:
                print(f"{status:<10} {one}")
        counts = ", ".join(f"{len(found)} {status}" for status, found in groups.items())
        print(f"regime {regime.name}: {len(findings)} facts, {counts}")
    if groups["different"]:
        return _DIFFERENT
    return _NOT_READ if groups["not read"] else _SAME
