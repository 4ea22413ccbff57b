"""Features of augmented views: computed once, cached, and from then on read."""

import contextlib
import hashlib
import json
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from streetvision.data.manifest import Manifest, Picture
from streetvision.models.backbones import Backbone
from streetvision.progress import Progress
from streetvision.training.encode import Encoder, encoder_of
from streetvision.training.store import FeatureStore
from streetvision.training.views import View, renderer, version_of_views, views_of

_SHARD_VIEWS = 512  # at most so many are lost by a kill
_FEW_VIEWS = 1024  # drawn in this process: starting others would take longer
_FEW_CORES = 2  # measured on two: threads keep both busy, since decoders, OpenCV and inference release the GIL


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewFeatures:
    """Features of the views of some pictures.

    Attributes:
        values: float32[N,width].
        picture: int64[N], the index of each view's picture.
        level: int8[N], the level of each view's augmentation.
        computed: how many of them were not in the cache.
    """

    values: NDArray[np.float32]
    picture: NDArray[np.int64]
    level: NDArray[np.int8]
    computed: int


def extract(
    manifest: Manifest,
    pictures: Sequence[Picture],
    backbone: Backbone,
    *,
    views: int,
    regime: str,
    cache_dir: Path,
    workers: int | None = None,
    progress: bool = True,
) -> ViewFeatures:
    """Features of every view of every picture, those of earlier runs read from the cache.

    Args:
        manifest: where the pictures lie.
        pictures: some of its pictures.
        backbone: the frozen network.
        views: augmented views of each picture.
        regime: regime whose transforms they are drawn with.
        cache_dir: folder of the cache, shared by all runs.
        workers: cores to keep busy, all by default; more than two draw views in processes of their own.
        progress: show a bar (or a log line now and then, where stderr is no terminal).

    Raises:
        DataError: a picture is missing, altered or cannot be decoded.
        StorageError: the cache cannot be written.
    """
    encoder = encoder_of(backbone, cache_dir=cache_dir)
    store = FeatureStore(cache_dir / "features" / _space(backbone, encoder, regime), width=backbone.width)
    plan = [
        (index, view)
        for index, picture in enumerate(pictures)
        for view in views_of(picture.sha256, count=views, regime=regime)
    ]
    keys = [_key(view) for _, view in plan]
    values, found = store.read(keys)
    missing: dict[int, list[int]] = {}  # rows by picture, which is decoded once for all its views
    for row in np.flatnonzero(~found).tolist():
        missing.setdefault(plan[row][0], []).append(row)
    jobs = [
        _Job(picture=pictures[index], rows=rows, views=[plan[row][1] for row in rows])
        for index, rows in missing.items()
    ]
    computed = int((~found).sum())
    shard: list[int] = []
    with (
        contextlib.closing(
            _compute(
                manifest, jobs, encoder, regime=regime, size_px=backbone.preset.size_px, workers=workers or cores()
            )
        ) as results,
        Progress("features", total=computed, enabled=progress, unit="view") as bar,
    ):
        for rows, features in results:
            values[rows] = features
            shard += rows
            bar.advance(len(rows))
            if len(shard) >= _SHARD_VIEWS:
                store.add([keys[row] for row in shard], values[shard])
                shard = []
    if shard:
        store.add([keys[row] for row in shard], values[shard])
    return ViewFeatures(
        values=values,
        picture=np.array([index for index, _ in plan], dtype=np.int64),
        level=np.array([view.level for _, view in plan], dtype=np.int8),
        computed=computed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """The missing views of one picture, and the rows they fill."""

    picture: Picture
    rows: list[int]
    views: list[View]


def _compute(
    manifest: Manifest, jobs: Sequence[_Job], encoder: Encoder, *, regime: str, size_px: int, workers: int
) -> Generator[tuple[list[int], NDArray[np.float32]]]:
    """Yields rows and their features, batch by batch."""
    count = sum(len(job.rows) for job in jobs)
    batches = _batches(jobs, encoder.batch_size)
    # Twice as many threads as cores: while some wait for their views, the others infer.
    alone = count <= _FEW_VIEWS or workers <= _FEW_CORES
    with renderer(0 if alone else workers) as render, ThreadPoolExecutor(2 * workers) as threads:

        def compute(batch: Sequence[_Job]) -> tuple[list[int], NDArray[np.float32]]:
            images = [
                render(manifest.read_bytes(job.picture), job.picture.format, job.views, regime, size_px)
                for job in batch
            ]
            return [row for job in batch for row in job.rows], encoder.encode(np.concatenate(images))

        with contextlib.closing(cast("Generator[Any]", threads.map(compute, batches))) as results:
            yield from results  # closing it drops what has not begun


def _batches(jobs: Sequence[_Job], size: int) -> list[list[_Job]]:
    """The jobs in batches of about `size` views."""
    batches: list[list[_Job]] = []
    room = 0
    for job in jobs:
        if room < len(job.rows):
            batches.append([])
            room = size
        batches[-1].append(job)
        room -= len(job.rows)
    return batches


def _space(backbone: Backbone, encoder: Encoder, regime: str) -> str:
    """Name of the folder for features that may stand for each other: same network, pixels and arithmetic."""
    preset = backbone.preset
    parts = {
        "weights": backbone.weights_sha256,
        "input": [preset.name, preset.size_px, preset.mean, preset.std, preset.pooling],
        "numerics": encoder.numerics,
        "views": version_of_views(),
        "regime": regime,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"{preset.name}-{regime}-{digest[:16]}"


def _key(view: View) -> bytes:
    return hashlib.sha256(f"{view.sha256}/{view.seed}/{view.level}".encode()).digest()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
