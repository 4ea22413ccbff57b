"""The step `evaluate`: challenger and champion on one frozen challenge set, and the gate's decision."""

from typing import NamedTuple

from kfp import dsl

from components import images


@dsl.component(base_image=images.PIPELINE_CPU, install_kfp_package=False)
def evaluate(
    manifest: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    regime: str,
    challenges: int,
    seed: int,
    workspace: str,
    tracking_uri: str,
    models_uri: str,
    code_version: str,
    report: dsl.Output[dsl.HTML],
    predictions: dsl.Output[dsl.Dataset],
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Evaluated", [("verdict", str), ("challenge_set", str)]):  # type: ignore[valid-type]
    """Evaluates what is served; returns the gate's verdict and the frozen set's folder."""
    from pathlib import Path

    from streetvision.assessment import assess

    outcome = assess(
        Path(model.path), Path(manifest.path), workspace=Path(workspace), tracking_uri=tracking_uri,
        models_uri=models_uri, regime=regime, count=challenges, seed=seed, code_version=code_version,
    )  # fmt: skip
    outcome.write(report=Path(report.path), predictions=Path(predictions.path), decision=Path(decision.path))
    metrics.metadata.update(outcome.metrics)
    Path(metrics.path).touch()  # kfp's local cache takes an artifact without a file for lost
    predictions.metadata.update(challenge_set=outcome.challenge_set.version)
    decision.metadata.update(verdict=outcome.decision.verdict, reasons=list(outcome.decision.reasons))
    return (outcome.decision.verdict, str(outcome.challenge_set.root))  # pyright: ignore[reportReturnType]
