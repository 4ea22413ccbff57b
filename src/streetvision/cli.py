"""`streetvision ...`: each part of the main job as a command of its own."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streetvision import __version__
from streetvision.errors import SettingsError, StreetvisionError

STATE = Path(".streetvision/state.json")
Command = Callable[[argparse.Namespace], int]
Commands = Any  # argparse's group of commands has no public type


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 well, 1 failed (`gate`: keep), 2 bad input, 3 not enough evidence."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    run: Command = arguments.run
    try:
        return run(arguments)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2 if isinstance(err, ValueError) else 1
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streetvision", description="Train, gate and serve a roadwork classifier.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = _group(commands, "data", "manifests of labelled pictures")
    build = _command(data, "build", _data_build, "a manifest from a folder, a CSV or the procedural source")
    build.add_argument("source", help="`procedural`, a folder with roadwork/ and none/, or a CSV path,label[,group]")
    build.add_argument("--out", type=Path, required=True, help="the manifest's folder")
    build.add_argument("--scenes", type=int, default=575, help="scenes that the procedural source draws")

    synthesize = _command(commands, "synthesize", _synthesize, "synthetic pictures beside those of a manifest")
    synthesize.add_argument("--manifest", type=Path, required=True, help="its folder")
    synthesize.add_argument("--out", type=Path, required=True, help="the new manifest's folder")
    synthesize.add_argument("--backend", default="procedural", help="what makes the pictures")
    synthesize.add_argument("--share-t2i", type=float, default=0.25, help="share of text-to-image in every split")
    synthesize.add_argument("--share-i2i", type=float, default=0.25, help="share of image-to-image in every split")

    train = _command(commands, "train", _train, "a head on a frozen backbone, exported as one ONNX")
    train.add_argument("--manifest", type=Path, required=True, help="its folder")
    train.add_argument("--out", type=Path, required=True, help="the model directory")
    train.add_argument("--cache", type=Path, default=Path(".streetvision/cache"), help="features and weights")
    train.add_argument("--preset", default="efficientnet-lite0", help="backbone")
    train.add_argument("--views", type=int, default=4, help="augmented views of each picture")

    subnet = _group(commands, "subnet", "the subnet's own rules")
    challenges = _command(subnet, "challenges", _challenges, "a challenge set, drawn as a validator draws")
    challenges.add_argument("--images", type=Path, required=True, help="a manifest's folder")
    challenges.add_argument("--out", type=Path, required=True, help="the challenge set's folder")
    challenges.add_argument("--count", type=int, default=4000, help="challenges written")
    challenges.add_argument("--regime", default="R1", help="the subnet's rules, R0 to R3")
    challenges.add_argument("--split", default="challenge", help="pictures that are drawn from")

    evaluate = _command(commands, "evaluate", _evaluate, "what a model earns on a challenge set")
    evaluate.add_argument("--model-dir", type=Path, required=True, help="the model directory")
    evaluate.add_argument("--challenge-set", type=Path, required=True, help="its folder")
    evaluate.add_argument("--out", type=Path, required=True, help="for report.json, report.html, predictions.parquet")

    gate = _command(commands, "gate", _gate, "whether a challenger takes the champion's place")
    gate.add_argument("--challenger", type=Path, required=True, help="its prediction table")
    gate.add_argument("--champion", type=Path, help="its prediction table; without one the floor decides")
    gate.add_argument("--challenger-model", type=Path, help="its model directory, for the check of its files")

    simulate = _command(commands, "simulate", _simulate, "a validator that sends signed challenges to miners")
    simulate.add_argument("--miner", action="append", metavar="URL=HOTKEY", help="default: the one of `make up`")
    simulate.add_argument("--wallet", type=Path, help="the validator's wallet: PATH/NAME; default: of `make up`")
    simulate.add_argument("--hotkey", help="the validator's hotkey; default: of `make up`")
    simulate.add_argument("--challenge-set", type=Path, help="its folder; default: of `make up`")
    simulate.add_argument("--state", type=Path, default=STATE, help="what `make up` wrote")
    simulate.add_argument("--challenges", type=int, default=500, help="how many are sent")
    simulate.add_argument("--predictions", type=Path, help="`evaluate`'s table, to compare the reward with")
    simulate.add_argument("--time-scale", type=float, default=0.0, help="divides the pause of 60 s; 0 leaves none")
    return parser


def _group(commands: Commands, name: str, text: str) -> Commands:
    return commands.add_parser(name, help=text).add_subparsers(required=True, metavar="COMMAND")


def _command(commands: Commands, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def _data_build(arguments: argparse.Namespace) -> int:
    from streetvision.data.build import build
    from streetvision.data.manifest import Manifest
    from streetvision.data.source import open_source
    from streetvision.data.summary import figures, markdown

    source = open_source(arguments.source, scenes=arguments.scenes, seed=arguments.seed)
    report = build(source, arguments.out, seed=arguments.seed)
    if arguments.json:
        rejected = [{"origin": item.origin, "reason": item.reason} for item in report.rejected]
        _print_json({"version": report.version, **figures(report.counts), "rejected": rejected})
    else:
        print(markdown(Manifest.read(arguments.out), report))
    return 0


def _synthesize(arguments: argparse.Namespace) -> int:
    from streetvision.data.manifest import Manifest
    from streetvision.data.summary import figures, markdown
    from streetvision.synthesis.backends import open_backend
    from streetvision.synthesis.run import synthesize

    report = synthesize(
        Manifest.read(arguments.manifest),
        open_backend(arguments.backend),
        arguments.out,
        seed=arguments.seed,
        share_t2i=arguments.share_t2i,
        share_i2i=arguments.share_i2i,
    )
    if arguments.json:
        _print_json({"version": report.version, **figures(report.counts), "made": report.made, "notes": report.notes})
    else:
        print(markdown(Manifest.read(arguments.out)))
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from streetvision.data.manifest import Manifest
    from streetvision.training.train import TrainingSettings, train

    result = train(
        Manifest.read(arguments.manifest),
        arguments.out,
        TrainingSettings(preset=arguments.preset, views=arguments.views, seed=arguments.seed),
        cache_dir=arguments.cache,
        code_version=f"streetvision {__version__}",
        git_sha="",
    )
    if arguments.json:
        _print_json({"model_dir": str(result.model_dir), "sha256": result.model_sha256, **result.metrics})
    else:
        print(f"model {result.model_sha256[:12]} in `{result.model_dir}`")
        for name, number in result.metrics.items():
            print(f"{name:<28} {number:.4g}")
    return 0


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
        _print_json({"version": frozen.version, "challenges": len(frozen), "pictures": pictures})
    else:
        print(
            f"challenge set {frozen.version[:12]}: {len(frozen)} challenges of {pictures} pictures in `{frozen.root}`"
        )
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from streetvision import atomic
    from streetvision.assessment import evaluate_model, training_record
    from streetvision.challenge_set import ChallengeSet
    from streetvision.inference.model_directory import ModelDirectory
    from streetvision.predictions import write_predictions
    from streetvision.report import write_report

    challenge_set = ChallengeSet.read(arguments.challenge_set)
    model = ModelDirectory.open(arguments.model_dir)
    predictions, report = evaluate_model(arguments.model_dir, challenge_set, seed=arguments.seed)
    out: Path = arguments.out
    write_predictions(out / "predictions.parquet", predictions)
    atomic.write_text(out / "report.json", report.model_dump_json(indent=2) + "\n")
    record = training_record(arguments.model_dir)
    write_report(
        out / "report.html",
        report,
        predictions,
        challenge_set,
        title=f"roadwork {model.version} ({model.config.preset})",
        training=record["history"] if record else None,
    )
    if arguments.json:
        print(report.model_dump_json())
    else:
        reward = report.reward
        print(f"reward    {reward.mean:.3f}, 95 % in [{reward.low:.3f}, {reward.high:.3f}]")
        print(f"accuracy  {report.accuracy:.3f}\nMCC       {report.mcc:.3f}\nBrier     {report.brier:.3f}")
        print(f"report    {out / 'report.html'}")
    return 0


def _gate(arguments: argparse.Namespace) -> int:
    from streetvision.predictions import read_predictions
    from streetvision.registry.decision import Policy
    from streetvision.registry.gate import decide
    from streetvision.registry.modelcard import check_consistency

    champion = read_predictions(arguments.champion) if arguments.champion else None
    consistency = check_consistency(arguments.challenger_model) if arguments.challenger_model else None
    policy = Policy(seed=arguments.seed)
    decision = decide(champion, read_predictions(arguments.challenger), policy, consistency=consistency)
    if arguments.json:
        print(decision.model_dump_json())
    else:
        print(decision.verdict)
        for check in decision.checks:
            print(f"{check.status:<12} {check.sentence}")
    return decision.exit_code


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


def _print_json(value: Any) -> None:
    print(json.dumps(value))


if __name__ == "__main__":
    sys.exit(main())
