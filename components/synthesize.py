"""The step `synthesize`: text-to-image and image-to-image pictures join the manifest."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.PIPELINE_GPU, install_kfp_package=False)
def synthesize(
    real: dsl.Input[dsl.Dataset],
    backend: str,
    share_t2i: float,
    share_i2i: float,
    seed: int,
    workspace: str,
    code_version: str,
    manifest: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.HTML],
    counts: dsl.Output[dsl.Metrics],
) -> str:
    """Adds synthetic pictures to every split and returns the new manifest's version."""
    from pathlib import Path

    from streetvision.data.manifest import Manifest
    from streetvision.data.summary import figures, page
    from streetvision.synthesis.backends import open_backend
    from streetvision.synthesis.run import synthesize

    old, out, work = Manifest.read(Path(real.path)), Path(manifest.path), Path(workspace, "synthesis")
    report = synthesize(old, open_backend(backend), out, seed=seed, share_t2i=share_t2i, share_i2i=share_i2i, work=work)
    Path(summary.path).write_text(page(Manifest.read(out), title="Data with synthetic pictures"))
    counts.metadata.update(figures(report.counts))
    Path(counts.path).touch()  # kfp's local cache takes an artifact without a file for lost
    manifest.metadata.update(version=report.version, **figures(report.counts))
    return report.version
