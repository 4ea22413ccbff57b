"""`streetvision simulate`: a validator that sends signed challenges to miners, and what it makes of them."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streetvision.commands.arguments import Commands, add_command
from streetvision.errors import EvidenceError, SettingsError

if TYPE_CHECKING:
    from bittensor_wallet import Keypair

    from streetvision.challenge_set import ChallengeSet
    from streetvision.evidence import Predictions
    from streetvision.simulation import Miner, SimulatedMiner, Simulation
    from streetvision.subnet.network import LongRun

STATE = Path(".streetvision/state.json")


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    simulate = add_command(
        commands, "simulate", _simulate, "a validator that sends signed challenges to miners, and what it pays them"
    )
    asked = simulate.add_argument_group("who is asked")
    named = asked.add_mutually_exclusive_group()
    named.add_argument("--miner", action="append", metavar="URL=HOTKEY", help="may be repeated; default: of `make up`")
    named.add_argument(
        "--accuracy", type=float, metavar="SHARE", help="no miner at all, but one that is right so often and needs none"
    )
    asked.add_argument("--no-answer-rate", type=float, metavar="SHARE", help="how often that one says nothing")
    others = simulate.add_argument_group("who else is there")
    others.add_argument(
        "--competitors", type=int, default=0, metavar="N", help="simulated miners, as good as those of December 2025"
    )
    others.add_argument(
        "--competitor-no-answer-rate", type=float, default=0.002, metavar="SHARE", help="how often each says nothing"
    )
    others.add_argument(
        "--competitor-latency-ms",
        type=float,
        default=400.0,
        metavar="MS",
        help="median; of 400, 1 in 1,000 is too late",
    )
    others.add_argument(
        "--organic",
        type=float,
        default=0.0,
        metavar="N",
        help="pictures of application users for each challenge, on average; each goes to 3 miners and is not scored",
    )
    rules = simulate.add_argument_group("what they are asked")
    rules.add_argument("--challenge-set", type=Path, metavar="DIR", help="its folder; default: of `make up`")
    rules.add_argument("--regime", metavar="NAME", help="the subnet's rules, R0 to R3; default: the challenge set's")
    rules.add_argument(
        "--challenges",
        type=int,
        default=500,
        metavar="N",
        help="how many each miner gets, 500 unless told; the validator makes as many, and with competitors more: "
        "each challenge goes to ten of all",
    )
    rules.add_argument(
        "--time-scale",
        type=float,
        default=0.0,
        metavar="X",
        help="divides the pause of 60 s; 0, the default, leaves none",
    )
    signed = simulate.add_argument_group("who asks")
    signed.add_argument("--wallet", type=Path, metavar="PATH/NAME", help="the validator's; default: of `make up`")
    signed.add_argument("--hotkey", metavar="NAME", help="the validator's; default: of `make up`")
    signed.add_argument("--state", type=Path, default=STATE, metavar="FILE", help="what `make up` wrote")
    shown = simulate.add_argument_group("what is shown")
    shown.add_argument(
        "--predictions", type=Path, metavar="FILE", help="`evaluate`'s table for the first miner; default: of `make up`"
    )
    shown.add_argument("--report", type=Path, metavar="FILE", help="one HTML page with the plots")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Who is asked what; `note` says why there are no predictions."""

    miners: "Sequence[Miner | SimulatedMiner]"
    challenges: "ChallengeSet"
    keypair: "Keypair | None" = None
    predictions: "Predictions | None" = None
    note: str = ""
    long_run: "LongRun | None" = None


def _simulate(arguments: argparse.Namespace) -> int:
    from streetvision.simulation import Latency, Simulation, compare, competitors
    from streetvision.simulation.text import describe
    from streetvision.subnet.regimes import active

    if arguments.regime:
        active(arguments.regime)  # a halted one is said before anything is looked for
    plan = _simulated(arguments) if arguments.accuracy is not None else _called(arguments)
    simulation = Simulation(
        plan.miners,
        plan.challenges,
        count=arguments.challenges,
        seed=arguments.seed,
        regime=arguments.regime,
        competitors=competitors(
            arguments.competitors,
            first_uid=len(plan.miners) + 1,
            seed=arguments.seed,
            no_answer_rate=arguments.competitor_no_answer_rate,
            latency=Latency(median_ms=arguments.competitor_latency_ms),
        ),
        organic_per_step=arguments.organic,
    )
    interrupted = _run(simulation, plan.keypair, arguments)
    result, comparison, note = simulation.result(), None, plan.note
    if plan.predictions is not None:
        try:
            comparison = compare(result, plan.predictions)
        except EvidenceError as err:
            note = err.message
    if arguments.report:
        from streetvision.report.simulation import write_simulation_report

        write_simulation_report(arguments.report, result, comparison=comparison, long_run=plan.long_run)
    if arguments.json:
        print(
            json.dumps(
                {
                    **result.model_dump(mode="json"),
                    "comparison": comparison.model_dump() if comparison else None,
                    "long_run": plan.long_run.model_dump() if plan.long_run else None,
                    "report": str(arguments.report) if arguments.report else None,
                },
                allow_nan=False,
            )
        )
    else:
        print(describe(result, comparison=comparison, long_run=plan.long_run, note=note))
        if arguments.report:
            print(f"{'report':<12}{arguments.report}")
    if interrupted:
        print("interrupted: this is what was reached", file=sys.stderr)
    return 130 if interrupted else 0


def _simulated(arguments: argparse.Namespace) -> _Plan:
    from streetvision.simulation import Latency, SimulatedMiner, without_pictures
    from streetvision.subnet.network import long_run
    from streetvision.subnet.regimes import by_name

    regime, rate = arguments.regime or "R1", arguments.no_answer_rate or 0.0
    expected = long_run(arguments.accuracy, no_answer_rate=rate, exponent=by_name(regime).reward_exponent)
    miner = SimulatedMiner(uid=1, accuracy=arguments.accuracy, no_answer_rate=rate, latency=Latency(spread=0.0))
    return _Plan(miners=[miner], challenges=without_pictures(regime, seed=arguments.seed), long_run=expected)


def _called(arguments: argparse.Namespace) -> _Plan:
    from streetvision.challenge_set import ChallengeSet
    from streetvision.simulation import Miner
    from streetvision.subnet.wallet import load_keypair

    if arguments.no_answer_rate is not None:
        raise SettingsError("--no-answer-rate is given without --accuracy, expected both: a miner's own is measured")
    state = _Defaults(arguments.state)
    given = [Miner.parse(text, uid=uid) for uid, text in enumerate(arguments.miner or [], start=1)]
    wallet: Path = arguments.wallet or Path(state("validator", "wallet_path"), state("validator", "wallet_name"))
    wallet = wallet.expanduser()
    keypair = load_keypair(wallet.parent, wallet.name, arguments.hotkey or state("validator", "hotkey_name"))
    miners = given or [Miner.parse(f"{state('miner', 'url')}={state('miner', 'hotkey')}", uid=1)]
    challenges = ChallengeSet.read(arguments.challenge_set or Path(state("images")))
    predictions, note = _predictions(arguments, state, challenges)
    return _Plan(miners=miners, challenges=challenges, keypair=keypair, predictions=predictions, note=note)


def _predictions(
    arguments: argparse.Namespace, state: "_Defaults", challenges: "ChallengeSet"
) -> "tuple[Predictions | None, str]":
    """The table named on the command line, or that of `make up` for its own miner, or why there is none."""
    from streetvision.predictions import read_predictions
    from streetvision.simulation.comparison import require_answers

    if arguments.predictions is None and arguments.miner:
        return None, "name --predictions, the table that `streetvision evaluate` wrote for the miner's model"
    try:
        predictions = read_predictions(arguments.predictions or Path(state("predictions")))
        require_answers(predictions, [row.challenge_id for row in challenges.rows], challenges.version)
    except (EvidenceError, SettingsError) as err:
        if arguments.predictions:
            raise
        return None, err.message
    return predictions, ""


def _run(simulation: "Simulation", keypair: "Keypair | None", arguments: argparse.Namespace) -> bool:
    """Whether it was interrupted."""
    import asyncio

    from streetvision.progress import Progress
    from streetvision.simulation import Event

    done, sent, earned, errors = 0, 0, 0.0, 0
    scores: dict[int, float] = {}
    with Progress("sent", total=arguments.challenges, unit="challenge", enabled=sys.stderr.isatty()) as progress:

        def on_step(events: tuple[Event, ...]) -> None:
            nonlocal done, sent, earned, errors
            if not events:
                return
            sent += len(events)
            earned += sum(event.reward for event in events)
            errors += sum(bool(event.error) for event in events)
            scores.update((event.uid, event.score) for event in events)
            mean_score = sum(scores.values()) / len(scores)
            progress.show(f"reward {earned / sent:.3f}, score {mean_score:.3f}, {errors} errors")
            newly = min(simulation.progress, arguments.challenges) - done
            progress.advance(newly)
            done += newly

        try:
            asyncio.run(simulation.run(keypair, time_scale=arguments.time_scale, on_step=on_step))
        except KeyboardInterrupt:
            return True
    return False


class _Defaults:
    """Values of `state.json`, read when one is needed."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, *keys: str) -> str:
        try:
            value: Any = json.loads(self._file.read_text())
            for key in keys:
                value = value[key]
            if value is None:
                raise KeyError(keys[-1])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise SettingsError(
                f"`{self._file}` does not say `{'.'.join(keys)}`",
                hint="start the stack with `make up`, or name --miner, --wallet, --hotkey and --challenge-set",
            ) from err
        return str(value)
