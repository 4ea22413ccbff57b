"""`streetvision subnet`: the subnet's own rules."""

import argparse
from pathlib import Path

from streetvision.commands import subnet_replay, subnet_sentinel, subnet_weights
from streetvision.commands.arguments import Commands, add_command, add_group, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    subnet = add_group(commands, "subnet", "the subnet's own rules")
    challenges = add_command(subnet, "challenges", _challenges, "a challenge set, drawn as a validator draws")
    challenges.add_argument(
        "--images", type=Path, required=True, help="a manifest, or photos as `data build` takes them"
    )
    challenges.add_argument("--out", type=Path, required=True, help="the challenge set's folder")
    challenges.add_argument("--count", type=int, default=4000, help="challenges written")
    challenges.add_argument("--regime", default="R1", help="the subnet's rules, R0 to R3")
    challenges.add_argument("--split", help="of a manifest; `challenge` where it has one, else all its pictures")
    subnet_replay.add(subnet)
    subnet_weights.add(subnet)
    subnet_sentinel.add(subnet)


def _challenges(arguments: argparse.Namespace) -> int:
    from streetvision.challenge_set import freeze
    from streetvision.data.in_place import open_pictures
    from streetvision.subnet.regimes import active

    active(arguments.regime)  # a halted one is refused before all the photos are read
    pictures, rejected = open_pictures(arguments.images)
    split = arguments.split or ("challenge" if pictures.select(split="challenge") else None)
    frozen = freeze(
        pictures,
        arguments.out,
        count=arguments.count,
        seed=arguments.seed,
        regime=arguments.regime,
        split=split,
    )
    drawn = len({row.image for row in frozen.rows})
    available = len(pictures.select(split=split))
    if arguments.json:
        print_json(
            {
                "version": frozen.version,
                "challenges": len(frozen),
                "pictures": drawn,
                "available": available,
                "split": split,
                "left_out": [{"origin": item.origin, "reason": item.reason} for item in rejected],
            }
        )
    else:
        of = f"split `{split}` of `{arguments.images}`" if split else f"`{arguments.images}`"
        print(f"challenge set {frozen.version[:12]}: {len(frozen)} challenges in `{frozen.root}`")
        print(f"they show {drawn} of the {available} pictures in {of}")
        if rejected:
            print(f"left out {len(rejected)} pictures that cannot be used")
    return 0
