"""`streetvision subnet`: the subnet's own rules."""

import argparse
from pathlib import Path

from streetvision.commands.arguments import Commands, add_command, add_group, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    subnet = add_group(commands, "subnet", "the subnet's own rules")
    challenges = add_command(subnet, "challenges", _challenges, "a challenge set, drawn as a validator draws")
    challenges.add_argument("--images", type=Path, required=True, help="a manifest's folder")
    challenges.add_argument("--out", type=Path, required=True, help="the challenge set's folder")
    challenges.add_argument("--count", type=int, default=4000, help="challenges written")
    challenges.add_argument("--regime", default="R1", help="the subnet's rules, R0 to R3")
    challenges.add_argument("--split", default="challenge", help="pictures that are drawn from")


def _challenges(arguments: argparse.Namespace) -> int:
    from streetvision.challenge_set import freeze
    from streetvision.data.manifest import Manifest

    frozen = freeze(
        Manifest.read(arguments.images),
        arguments.out,
        count=arguments.count,
        seed=arguments.seed,
        regime=arguments.regime,
        split=arguments.split,
    )
    pictures = len({row.image for row in frozen.rows})
    if arguments.json:
        print_json({"version": frozen.version, "challenges": len(frozen), "pictures": pictures})
    else:
        print(
            f"challenge set {frozen.version[:12]}: {len(frozen)} challenges of {pictures} pictures in `{frozen.root}`"
        )
    return 0
