"""The pipeline `retrain`: from pictures to a served champion, if the gate agrees."""

from typing import NamedTuple

from kfp import dsl

from components.data import data
from components.evaluate import evaluate
from components.push import push
from components.synthesize import synthesize
from components.train import train
from pipelines.placement import HUB_SECRET, WORKSPACE, place, use_gpu, use_registry, use_secret, use_workspace


class Retrained(NamedTuple):
    """What a run comes to."""

    verdict: str
    version: int
    revision: str
    challenge_set: str
    manifest: dsl.Dataset
    report: dsl.HTML
    decision: dsl.Artifact
    receipt: dsl.Artifact


@dsl.pipeline(
    name="retrain",
    description="Pictures, synthetic pictures, a trained head, a paired test on the subnet's own reward, and a push.",
)
def retrain(
    source: str,
    data_fingerprint: str,
    code_version: str,
    git_sha: str,
    tracking_uri: str,
    models_uri: str,
    hub: str,
    submitted_by: str,
    workspace: str = WORKSPACE,
    rollout: str = "",
    scenes: int = 575,
    backend: str = "procedural",
    share_t2i: float = 0.25,
    share_i2i: float = 0.25,
    preset: str = "efficientnet-lite0",
    views: int = 4,
    regime: str = "R1",
    challenges: int = 4000,
    seed: int = 0,
    gpus: str = "",
    node_selector: dict[str, str] = {},  # noqa: B006  (kfp reads the default and never calls this)
) -> Retrained:
    """Retrains and, if the gate says so, promotes.

    Args:
        source: `procedural`, or a folder or CSV of labelled photos.
        data_fingerprint: changes whenever the pictures behind `source` change; part of the cache key.
        code_version: changes whenever the library changes; part of every step's cache key.
        git_sha: commit of the repository, for the record.
        tracking_uri: MLflow's.
        models_uri: where registered models stay, each in a folder named by its sha256.
        hub: `folder:PATH` or `hf:OWNER/NAME`; empty pushes nowhere.
        submitted_by: ss58 address of the miner's hotkey, for the model card.
        workspace: folder that outlives a run: feature cache, weights, frozen challenge sets.
        rollout: `NAMESPACE/CRONJOB` whose Job takes a new champion to the served predictor; empty for none.
        scenes: how many scenes the procedural source draws.
        backend: what synthesizes pictures.
        share_t2i: share of text-to-image pictures in every split.
        share_i2i: share of image-to-image pictures in every split.
        preset: backbone.
        views: augmented views of each picture that the head is trained on.
        regime: the subnet's rules that challenges follow.
        challenges: size of the frozen challenge set.
        seed: of everything random.
        gpus: how many GPUs `synthesize` and `train` get on a cluster; empty for none.
        node_selector: labels of the nodes that these two run on.
    """
    real = data(source=source, scenes=scenes, seed=seed, data_fingerprint=data_fingerprint, code_version=code_version)
    pictures = synthesize(
        real=real.outputs["manifest"],
        backend=backend,
        share_t2i=share_t2i,
        share_i2i=share_i2i,
        seed=seed,
        workspace=workspace,
        code_version=code_version,
    )
    trained = train(
        manifest=pictures.outputs["manifest"],
        preset=preset,
        regime=regime,
        views=views,
        seed=seed,
        workspace=workspace,
        git_sha=git_sha,
        code_version=code_version,
    )
    evaluated = evaluate(
        manifest=pictures.outputs["manifest"],
        model=trained.outputs["model"],
        regime=regime,
        challenges=challenges,
        seed=seed,
        workspace=workspace,
        tracking_uri=tracking_uri,
        models_uri=models_uri,
        code_version=code_version,
    )
    evaluated.set_caching_options(False)  # the champion may have changed, which no input of the step shows
    pushed = push(
        model=trained.outputs["model"],
        report=evaluated.outputs["report"],
        predictions=evaluated.outputs["predictions"],
        decision=evaluated.outputs["decision"],
        tracking_uri=tracking_uri,
        models_uri=models_uri,
        hub=hub,
        submitted_by=submitted_by,
        rollout=rollout,
        code_version=code_version,
    )
    pushed.set_caching_options(False)

    place(real, cpu=("500m", "4"), memory=("1Gi", "4Gi"))
    place(pictures, cpu=("1", "8"), memory=("2Gi", "32Gi"))
    place(trained, cpu=("1", "8"), memory=("2Gi", "32Gi"))
    place(evaluated, cpu=("1", "8"), memory=("2Gi", "8Gi"))
    place(pushed, cpu=("250m", "2"), memory=("1Gi", "4Gi"))
    for task in (pictures, trained, evaluated):
        use_workspace(task)
    for task in (pictures, trained):
        use_gpu(task, gpus, node_selector)
    for task in (evaluated, pushed):
        use_registry(task)
    use_secret(pushed, HUB_SECRET, "HF_TOKEN")
    return Retrained(
        verdict=evaluated.outputs["verdict"],
        challenge_set=evaluated.outputs["challenge_set"],
        manifest=pictures.outputs["manifest"],
        version=pushed.outputs["version"],
        revision=pushed.outputs["revision"],
        report=evaluated.outputs["report"],
        decision=evaluated.outputs["decision"],
        receipt=pushed.outputs["receipt"],
    )
