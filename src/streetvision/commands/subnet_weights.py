"""`streetvision subnet weights`: what scores become on the chain."""

import argparse
from pathlib import Path

from streetvision.commands.arguments import Commands, add_command, print_json
from streetvision.commands.files import input_name, open_input
from streetvision.errors import DataError, SettingsError

_FORMAT = """
FILE holds a JSON list of scores by UID, such as [0.93, 0, "NaN", 0.41]; texts are read as Python's float reads them.
"""
_UIDS_MAX = 65_536
_FILE_MAX_BYTES = 8 << 20


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    weights = add_command(commands, "weights", _weights, "the weights that a validator makes of its scores")
    weights.formatter_class = argparse.RawDescriptionHelpFormatter
    weights.description = f"{weights.description}\n{_FORMAT}"
    weights.add_argument("--scores", type=Path, required=True, metavar="FILE", help="a file, or - for standard input")
    weights.add_argument(
        "--min-allowed", type=int, default=1, metavar="N", help="fewest weights that the chain accepts (default 1)"
    )
    weights.add_argument(
        "--max-limit",
        type=float,
        default=1.0,
        metavar="X",
        help="largest share of one weight that the chain accepts (default 1)",
    )


def _weights(arguments: argparse.Namespace) -> int:
    from streetvision.subnet.reward import weights

    min_allowed: int = arguments.min_allowed
    max_limit: float = arguments.max_limit
    if min_allowed < 0:
        raise SettingsError(f"--min-allowed is {min_allowed}, expected 0 or more")
    if not 0 <= max_limit <= 1:
        raise SettingsError(f"--max-limit is {max_limit}, expected a share from 0 to 1")
    scores = _read_scores(arguments.scores)
    uids, values = weights(scores, min_allowed=min_allowed, max_limit=max_limit)
    if arguments.json:
        print_json({"uids": uids, "weights": values})
        return 0
    positive = sum(score > 0 for score in scores)
    print("   UID     score  weight    share")
    for uid, value in zip(uids, values, strict=True):
        print(f"{uid:>6} {scores[uid]:>9.4f} {value:>7} {value / sum(values):>8.2%}")
    if positive < max(1, min_allowed):
        print(f"{positive} of {len(scores)} scores are positive, fewer than needed: UID 0 gets all")
    return 0


def _read_scores(path: Path) -> list[float]:
    import numpy as np

    from streetvision import json_input

    largest = float(np.finfo(np.float32).max)
    name = f"`{input_name(path)}`"
    with open_input(path) as file:
        data = file.read(_FILE_MAX_BYTES + 1)
    if len(data) > _FILE_MAX_BYTES:
        raise DataError(f"{name}: more than {_FILE_MAX_BYTES:,} bytes")
    hint = "a list of scores by UID is [0.93, 0, 0.41]"
    values = json_input.parse(data, name, hint=hint)
    if not isinstance(values, list):
        raise DataError(f"{name}: got {json_input.shorten(values)}, expected a list of scores", hint=hint)
    if not 0 < len(values) <= _UIDS_MAX:
        raise DataError(f"{name}: {len(values):,} scores, expected 1 to {_UIDS_MAX:,}", hint=hint)
    scores: list[float] = []
    for uid, value in enumerate(values):
        score = json_input.number(value)
        if score is None or abs(score) > largest:
            said = json_input.shorten(value)
            raise DataError(f"{name}: the score of UID {uid} is {said}, expected a finite number or NaN", hint=hint)
        scores.append(score)
    return scores
