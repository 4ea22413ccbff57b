"""The step `data`: labelled pictures become a manifest, split by scene."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.PIPELINE_CPU, install_kfp_package=False)
def data(
    source: str,
    scenes: int,
    seed: int,
    data_fingerprint: str,
    code_version: str,
    manifest: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.HTML],
    counts: dsl.Output[dsl.Metrics],
) -> str:
    """Builds the manifest and returns its version, a content hash."""
    from pathlib import Path

    from streetvision.data.build import build
    from streetvision.data.manifest import Manifest
    from streetvision.data.source import open_source
    from streetvision.data.summary import figures, page

    root = Path(manifest.path)
    report = build(open_source(source, scenes=scenes, seed=seed), root, seed=seed)
    Path(summary.path).write_text(page(Manifest.read(root), report))
    counts.metadata.update(figures(report.counts))
    Path(counts.path).touch()  # kfp's local cache takes an artifact without a file for lost
    manifest.metadata.update(version=report.version, **figures(report.counts))
    return report.version
