"""A manifest with synthetic pictures beside the real ones, in the shares that the subnet's challenges have."""

import hashlib
import io
import logging
import pickle
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image

from streetvision import atomic, imaging, parallel
from streetvision.data import dedupe, manifest
from streetvision.data.manifest import Manifest, Picture
from streetvision.errors import BusyError, EngineError, StreetvisionError
from streetvision.progress import Progress
from streetvision.synthesis import Backend, Request
from streetvision.synthesis.plan import STRENGTH, Job, plan
from streetvision.synthesis.prompts import negative_prompt

SOURCE_SIDE_MAX_PX = 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisReport:
    """What was made.

    Attributes:
        version: content hash of the new manifest.
        counts: pictures of the new manifest by (split, source, label).
        made: how many synthetic pictures were added.
        reused: how many of them an interrupted run had left.
        notes: a sentence for each pool that is missing, and where its share went.
    """

    version: str
    counts: dict[tuple[str, str, int], int]
    made: int
    reused: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Made:
    """What a finished picture's row needs beside its job."""

    sha256: str
    phash: str
    reused: bool


def synthesize(
    real: Manifest,
    backend: Backend,
    root: Path,
    *,
    seed: int,
    share_t2i: float = 0.25,
    share_i2i: float = 0.25,
    batch_size: int = 8,
    workers: int = 2,
    work: Path | None = None,
) -> SynthesisReport:
    """Leaves a manifest at `root` that holds every picture of `real` and the synthetic ones made for it.

    In every split the shares of the three sources become those asked for, half of each synthetic share with roadwork.
    An edited picture keeps the split and group of its source. Each picture is written when it is finished: an
    interrupted run goes on where it stopped, in a work folder that goes away at the end.

    Args:
        real: the pictures to go beside; synthetic ones already among them count towards the shares.
        backend: the generator.
        root: the new manifest's folder.
        seed: of prompts, sources and the generator.
        share_t2i: share of text-to-image pictures in every split.
        share_i2i: share of image-to-image pictures in every split.
        batch_size: requests handed to the generator at once, all of one role.
        workers: processes to spread batches over, if the backend can be pickled; 1 for a generator with a GPU.
        work: where the finished pictures of interrupted runs lie, by data version; beside `root` by default.

    Raises:
        DataError: shares that leave nothing for real pictures, or a manifest without any.
        EngineError: the generator answered something else than pictures, or its process died.
        BusyError: another run makes the same manifest.
        StorageError: the disk is full, read-only or failing.
    """
    jobs, notes = plan(real, backend, seed=seed, share_t2i=share_t2i, share_i2i=share_i2i)
    for note in notes:
        _log.warning("%s", note)
    work = work / real.version[:16] if work else root.with_name(f".{root.name}.work")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / "lock", blocking=False):
            made = _make(jobs, backend, work, batch_size=batch_size, workers=workers)
            report = _write(real, backend, root, work, jobs, made, notes)
            shutil.rmtree(work, ignore_errors=True)
            return report
    except Timeout as err:
        raise BusyError(f"another run is making `{root}`", hint="wait for it, or choose another folder") from err
    except StreetvisionError:
        raise
    except OSError as err:
        raise atomic.storage_error(root, err) from err


def _make(jobs: Sequence[Job], backend: Backend, work: Path, *, batch_size: int, workers: int) -> list[_Made]:
    """One finished picture per job, in order."""
    batches: list[list[Job]] = []
    for job in jobs:
        if not batches or len(batches[-1]) == batch_size or batches[-1][-1].role != job.role:
            batches.append([])
        batches[-1].append(job)
    step = partial(_make_batch, backend, work)
    made: list[_Made] = []
    with Progress("synthetic pictures", total=len(jobs), unit="picture") as progress:
        if workers > 1 and len(batches) > 1 and _can_be_pickled(backend):
            try:
                with parallel.processes(min(workers, len(batches))) as pool:
                    for batch in pool.map(step, batches):
                        made += batch
                        progress.advance(len(batch))
            except BrokenProcessPool as err:
                raise EngineError(
                    f"a process of generator `{backend.name}` died after {len(made)} of {len(jobs)} pictures",
                    hint="run it again, with fewer workers if memory was short: finished pictures are kept",
                ) from err
        else:
            for batch in map(step, batches):
                made += batch
                progress.advance(len(batch))
    return made


def _can_be_pickled(backend: Backend) -> bool:
    try:
        pickle.dumps(backend)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True


def _make_batch(backend: Backend, work: Path, jobs: Sequence[Job]) -> list[_Made]:
    """Makes what is not in the work folder yet."""
    missing = [job for job in jobs if not _file(work, job).is_file()]
    images = backend.generate([_request(job) for job in missing]) if missing else []
    if len(images) != len(missing):
        raise EngineError(f"generator `{backend.name}` gave {len(images)} pictures for {len(missing)} requests")
    new: dict[str, _Made] = {}
    for job, image in zip(missing, images, strict=True):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise EngineError(
                f"generator `{backend.name}` gave {image.dtype}{list(image.shape)}, expected uint8[H,W,3]"
            )
        data = _encode_png(image)
        atomic.write_bytes(_file(work, job), data)
        new[job.digest] = _Made(hashlib.sha256(data).hexdigest(), dedupe.phash(image), reused=False)
    return [new.get(job.digest) or _found(_file(work, job)) for job in jobs]


def _found(file: Path) -> _Made:
    data = file.read_bytes()
    image = imaging.decode(data, limit_px=imaging.DECODE_LIMIT_MAX_PX)
    return _Made(hashlib.sha256(data).hexdigest(), dedupe.phash(image), reused=True)


def _request(job: Job) -> Request:
    return Request(
        label=job.label,
        prompt=job.prompt,
        seed=job.seed,
        negative_prompt=negative_prompt(text_to_image=job.source is None),
        source=None if job.source is None else _source_image(job.source),
        strength=STRENGTH,
    )


def _source_image(file: Path) -> NDArray[np.uint8]:
    """uint8[H,W,3] to be edited; a picture with a side above 1024 is squeezed into a square, as validators do.

    Source: natixnetwork/streetvision-subnet natix/validator @ 28a1755
    """
    image = imaging.decode(file.read_bytes(), limit_px=imaging.DECODE_LIMIT_MAX_PX)
    if max(image.shape) <= SOURCE_SIDE_MAX_PX:
        return image
    square = Image.fromarray(image).resize((SOURCE_SIDE_MAX_PX, SOURCE_SIDE_MAX_PX), Image.Resampling.LANCZOS)
    return np.array(square, dtype=np.uint8)


def _encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG, as validators cache what they generate; street scenes hold few long matches, and seeking costs time."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def _write(
    real: Manifest,
    backend: Backend,
    root: Path,
    work: Path,
    jobs: Sequence[Job],
    made: Sequence[_Made],
    notes: Sequence[str],
) -> SynthesisReport:
    rows = {picture.sha256: picture for picture in real.pictures}
    with manifest.write(root) as writer:
        for picture in real.pictures:
            writer.link(real.root / picture.path, sha256=picture.sha256, encoding=picture.format)
        for job, result in zip(jobs, made, strict=True):
            writer.link(_file(work, job), sha256=result.sha256, encoding="PNG")
            picture = Picture(
                sha256=result.sha256,
                path=manifest.image_path(result.sha256, "PNG"),
                label=job.label,
                source=job.role,
                generator=backend.name,
                group=job.group,
                split=job.split,
                format="PNG",
                description=job.prompt if job.label == 1 else "",
                prompt=job.prompt,
                seed=job.seed,
                phash=result.phash,
            )
            rows.setdefault(picture.sha256, picture)  # a generator may ignore its seed
        writer.finish(rows.values())
    written = Manifest.read(root)
    new = len(written.pictures) - len(real.pictures)
    if new < len(jobs):
        notes = [*notes, f"generator `{backend.name}` drew {len(jobs) - new} pictures twice: one of each is kept"]
    return SynthesisReport(
        version=written.version,
        counts=dict(Counter((picture.split, picture.source, picture.label) for picture in written.pictures)),
        made=new,
        reused=sum(result.reused for result in made),
        notes=tuple(notes),
    )


def _file(work: Path, job: Job) -> Path:
    return work / f"{job.digest}.png"
