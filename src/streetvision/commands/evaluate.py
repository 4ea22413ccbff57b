"""`streetvision evaluate`: what a model earns on a challenge set."""

import argparse
from pathlib import Path

from streetvision.commands.arguments import Commands, add_command


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    evaluate = add_command(commands, "evaluate", _evaluate, "what a model earns on a challenge set")
    evaluate.add_argument("--model-dir", type=Path, required=True, help="the model directory")
    evaluate.add_argument("--challenge-set", type=Path, required=True, help="its folder")
    evaluate.add_argument("--out", type=Path, required=True, help="for report.json, report.html, predictions.parquet")
    evaluate.add_argument("--trained-on", type=Path, help="manifest; a set that shares pictures with it is refused")
    evaluate.add_argument("--images", type=Path, help="folder of the set's pictures, where that manifest lacks them")
    evaluate.add_argument("--challenges", type=int, default=500, help="challenges of the run that is forecast")


def _evaluate(arguments: argparse.Namespace) -> int:
    from streetvision import atomic
    from streetvision.assessment import evaluate_model, training_record
    from streetvision.challenge_set import ChallengeSet
    from streetvision.data.manifest import Manifest
    from streetvision.errors import DataError
    from streetvision.inference.model_directory import ModelDirectory
    from streetvision.leakage import refuse_leakage
    from streetvision.predictions import write_predictions
    from streetvision.report import write_report

    challenge_set = ChallengeSet.read(arguments.challenge_set)
    model = ModelDirectory.open(arguments.model_dir)
    if arguments.trained_on:
        manifest = Manifest.read(arguments.trained_on)
        if manifest.version != model.config.data_version:
            raise DataError(
                f"manifest `{arguments.trained_on}` has version {manifest.version[:12]}, expected "
                f"{model.config.data_version[:12]} as the model was trained on"
            )
        refuse_leakage(challenge_set, manifest, images=arguments.images)
    predictions, report = evaluate_model(
        arguments.model_dir, challenge_set, seed=arguments.seed, run=arguments.challenges
    )
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
        run = report.forecast
        print(f"run       {run.challenges} challenges from score 0, 95 % of runs:")
        for pictures, outcome in (("these pictures", run), ("others like them", run.new_pictures)):
            score, mean = outcome.score, outcome.mean_reward
            print(f"  on {pictures:16}  score in [{score.low:.3f}, {score.high:.3f}]", end="")
            print(f", mean reward in [{mean.low:.3f}, {mean.high:.3f}]")
        print(f"report    {out / 'report.html'}")
    return 0
