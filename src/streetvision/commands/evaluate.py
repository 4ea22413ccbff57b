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
