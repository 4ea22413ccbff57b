"""`streetvision simulate`: a validator that sends signed challenges to miners."""

import argparse
import json
from pathlib import Path
from typing import Any

from streetvision.commands.arguments import Commands, add_command
from streetvision.errors import SettingsError

STATE = Path(".streetvision/state.json")


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    simulate = add_command(commands, "simulate", _simulate, "a validator that sends signed challenges to miners")
    simulate.add_argument("--miner", action="append", metavar="URL=HOTKEY", help="default: the one of `make up`")
    simulate.add_argument("--wallet", type=Path, help="the validator's wallet: PATH/NAME; default: of `make up`")
    simulate.add_argument("--hotkey", help="the validator's hotkey; default: of `make up`")
    simulate.add_argument("--challenge-set", type=Path, help="its folder; default: of `make up`")
    simulate.add_argument("--state", type=Path, default=STATE, help="what `make up` wrote")
    simulate.add_argument("--challenges", type=int, default=500, help="how many are sent")
    simulate.add_argument("--predictions", type=Path, help="`evaluate`'s table, to compare the reward with")
    simulate.add_argument("--time-scale", type=float, default=0.0, help="divides the pause of 60 s; 0 leaves none")


def _simulate(arguments: argparse.Namespace) -> int:
    import asyncio

    from streetvision.challenge_set import ChallengeSet
    from streetvision.progress import Progress
    from streetvision.simulation import Event, Miner, simulate
    from streetvision.subnet.wallet import load_keypair

    state = _Defaults(arguments.state)
    wallet: Path = arguments.wallet or Path(state("validator", "wallet_path"), state("validator", "wallet_name"))
    keypair = load_keypair(wallet.parent, wallet.name, arguments.hotkey or state("validator", "hotkey_name"))
    named = arguments.miner or [f"{state('miner', 'url')}={state('miner', 'hotkey')}"]
    miners = [Miner.parse(text, uid=uid) for uid, text in enumerate(named, start=1)]
    challenge_set = ChallengeSet.read(arguments.challenge_set or Path(state("images")))
    with Progress("sent", total=arguments.challenges, unit="challenge") as progress:

        def advance(_: tuple[Event, ...]) -> None:
            progress.advance(1)

        result = asyncio.run(
            simulate(
                miners,
                challenge_set,
                keypair,
                count=arguments.challenges,
                seed=arguments.seed,
                time_scale=arguments.time_scale,
                on_step=advance,
            )
        )
    if arguments.json:
        print(result.model_dump_json())
        return 0
    header = ("asked", "answered", "accuracy", "reward", "score", "p50 ms", "p99 ms")
    print(f"{'miner':<28}" + "".join(f"{name:>9}" for name in header))
    for miner in result.miners:
        figures = (
            str(sum(cell.asked for cell in miner.levels)),
            str(miner.answered),
            _figure(miner.accuracy, 3),
            _figure(miner.mean_reward, 3),
            _figure(miner.score, 3),
            _figure(miner.latency_p50_ms, 1),
            _figure(miner.latency_p99_ms, 1),
        )
        print(f"{miner.url:<28}" + "".join(f"{figure:>9}" for figure in figures))
        for reason, count in miner.errors.items():
            print(f"  {count} x {reason}")
    if arguments.predictions:
        from streetvision.predictions import read_predictions
        from streetvision.subnet.reward import rewards

        table = read_predictions(arguments.predictions)
        place = {name: index for index, name in enumerate(table.challenge_id.tolist())}
        asked = [event.challenge_id for event in result.events if event.uid == result.miners[0].uid]
        if missing := [name for name in asked if name not in place]:
            raise SettingsError(f"`{arguments.predictions}` lacks challenge `{missing[0]}`, expected the same set")
        sent = [place[name] for name in asked]
        print(f"`evaluate` predicted a reward of {rewards(table.probability[sent], table.label[sent]).mean():.3f}")
    return 0


class _Defaults:
    """Values of `state.json`, read when one is needed."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, *keys: str) -> str:
        try:
            value: Any = json.loads(self._file.read_text())
            for key in keys:
                value = value[key]
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise SettingsError(
                f"`{self._file}` does not say `{'.'.join(keys)}`",
                hint="start the stack with `make up`, or name --miner, --wallet, --hotkey and --challenge-set",
            ) from err
        return str(value)


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
