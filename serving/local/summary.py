"""What a run came to, for scripts and for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.local.state import State
from streetvision.assessment import training_record
from streetvision.challenge_set import ChallengeSet
from streetvision.data.manifest import SPLITS, Manifest
from streetvision.data.summary import rows
from streetvision.simulation import Comparison, SimulationResult


def summarise(
    state: State,
    pipeline: Mapping[str, Any],
    receipt: Mapping[str, Any],
    pictures: Manifest,
    challenge_set: ChallengeSet,
    simulation: SimulationResult,
    comparison: Comparison,
    *,
    seconds: float,
) -> dict[str, Any]:
    """Everything a person or a script wants to know of a run, as JSON.

    Args:
        state: where the run keeps what.
        pipeline: its outputs.
        receipt: what `push` left.
        pictures: the manifest with synthetic pictures.
        challenge_set: the frozen set.
        simulation: what the simulated validator saw.
        comparison: the same beside what `evaluate` said of the served model.
        seconds: how long all of it took.
    """
    served = receipt["champion"] or receipt["challenger"]
    decision = json.loads(Path(pipeline["decision"]).read_text())
    training = training_record(Path(receipt["challenger"]["path"])) or {}
    (miner,) = simulation.miners
    return {
        "verdict": receipt["verdict"],
        "reasons": receipt["reasons"],
        "gain": decision["gain"],
        "reward": decision["challenger_reward"],
        "challenger": receipt["challenger"],
        "champion": receipt["champion"],
        "served": served,
        "revision": receipt["revision"],
        "hub": receipt["url"],
        "report": str(state.report),
        "challenge_set": str(challenge_set.root),
        "pictures": rows(pictures),
        "history": training.get("history", []),
        "best_epoch": training.get("best_epoch"),
        "simulation": {
            "sent": miner.asked,
            "answered": miner.answered,
            "abstained": miner.abstained,
            "errors": miner.errors,
            "accuracy": miner.accuracy,
            "score": miner.score,
            "latency_p50_ms": miner.latency_p50_ms,
            "latency_p99_ms": miner.latency_p99_ms,
            "reward_observed": comparison.reward_observed,
            "reward_predicted": comparison.reward_predicted,
            "forecast": {
                "score": comparison.forecast.score.model_dump(),
                "score_inside": comparison.score_inside,
                "mean_reward": comparison.forecast.mean_reward.model_dump(),
                "mean_reward_inside": comparison.reward_inside,
            },
            "percentile": miner.percentile,
            "report": str(state.simulation),
            "levels": [cell.model_dump() for cell in miner.levels],
        },
        "seconds": round(seconds, 1),
    }


def text(state: State, summary: Mapping[str, Any]) -> str:
    """The summary as a person reads it, and what to try next."""
    parts = [
        ("pictures", _pictures(summary)),
        ("training", _training(summary)),
        ("gate", [summary["verdict"], *(f"- {reason}" for reason in summary["reasons"])]),
        ("registry", _registry(summary)),
        ("hub", [f"commit {summary['revision'][:12]}, {summary['hub']}" if summary["revision"] else "nothing pushed"]),
        ("validator", _validator(summary["simulation"])),
        ("report", [summary["report"], summary["simulation"]["report"]]),
        ("time", [f"{summary['seconds']:.0f} s"]),
        (
            "next",
            [
                "open the reports in a browser",
                "make up                 the predictor, the miner edge and the MLflow UI stay running",
                "make run DATA=folder    your own photos: folder/roadwork/*, folder/none/*",
                f".venv/bin/mlflow ui --backend-store-uri {state.tracking_uri}",
                "docs/quickstart.md      what each step does, and what else to try",
            ],
        ),
    ]
    return "\n".join(
        f"{name if first else '':<10} {line}"
        for name, lines in parts
        for first, line in ((index == 0, line) for index, line in enumerate(lines))
    )


def _pictures(summary: Mapping[str, Any]) -> list[str]:
    """A line for each split: how many, and of which source and class."""
    lines: list[str] = []
    for split in SPLITS:
        parts = [
            f"{row['roadwork']} + {row['no roadwork']} {row['source']}"
            for row in summary["pictures"]
            if row["split"] == split and row["source"] != "all"
        ]
        lines.append(f"{split}: {', '.join(parts)}")
    return ["with + without roadwork", *lines]


def _training(summary: Mapping[str, Any]) -> list[str]:
    history = summary["history"]
    if not history:
        return ["unknown"]
    best = next(row for row in history if row["epoch"] == summary["best_epoch"])
    return [
        f"{len(history)} epochs, the best is epoch {best['epoch']}",
        f"log-loss on validation views {history[0]['validation_loss']:.3f} after the first epoch, "
        f"{best['validation_loss']:.3f} at best, where {best['validation_accuracy']:.1%} are right",
    ]


def _registry(summary: Mapping[str, Any]) -> list[str]:
    champion = summary["champion"]
    return [
        f"version {summary['challenger']['version']} is the challenger's",
        f"version {champion['version']} is champion and served"
        if champion
        else "there is no champion: the challenger is served, for this demonstration only",
    ]


def _validator(simulation: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{simulation['sent']} challenges: {simulation['answered']} answered, {simulation['abstained']} abstained"
        + "".join(f", {count} x {error}" for error, count in simulation["errors"].items())
    ]
    if simulation["latency_p50_ms"] is not None:
        p50, p99 = simulation["latency_p50_ms"], simulation["latency_p99_ms"]
        lines.append(f"latency p50 {p50:.1f} ms, p99 {p99:.1f} ms, from request to answer")
    observed, predicted = simulation["reward_observed"], simulation["reward_predicted"]
    lines.append(f"mean reward {observed:.3f} observed, {predicted:.3f} predicted by `evaluate` on the same challenges")
    expected = simulation["forecast"]
    lines += [
        f"{name} {value:.3f}, {'inside' if inside else 'OUTSIDE'} the forecast [{ends['low']:.3f}, {ends['high']:.3f}]"
        for name, value, ends, inside in (
            ("score", simulation["score"], expected["score"], expected["score_inside"]),
            ("mean reward", observed, expected["mean_reward"], expected["mean_reward_inside"]),
        )
    ]
    lines += [
        f"level {cell['name']}: {cell['accuracy']:.1%} of {cell['answered']} right"
        for cell in simulation["levels"]
        if cell["accuracy"] is not None
    ]
    return lines
