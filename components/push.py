"""The step `push`: every model is registered, a promoted one becomes champion and goes to the hub."""

from typing import NamedTuple

from kfp import dsl

from components import images


@dsl.component(base_image=images.PIPELINE_CPU, install_kfp_package=False)
def push(
    model: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.HTML],
    predictions: dsl.Input[dsl.Dataset],
    decision: dsl.Input[dsl.Artifact],
    tracking_uri: str,
    models_uri: str,
    hub: str,
    submitted_by: str,
    rollout: str,
    code_version: str,
    receipt: dsl.Output[dsl.Artifact],
) -> NamedTuple("Pushed", [("version", int), ("revision", str)]):  # type: ignore[valid-type]
    """Registers, promotes, serves and pushes; returns the version and the hub's commit (empty where not pushed)."""
    from pathlib import Path

    from streetvision.registry.publish import publish

    done = publish(
        Path(model.path), report=Path(report.path), predictions=Path(predictions.path), decision=Path(decision.path),
        tracking_uri=tracking_uri, models_uri=models_uri, hub=hub, submitted_by=submitted_by, rollout=rollout,
    )  # fmt: skip
    done.write(Path(receipt.path))
    receipt.metadata.update(version=done.challenger.version, verdict=done.verdict, revision=done.revision)
    return (done.challenger.version, done.revision)  # pyright: ignore[reportReturnType]
