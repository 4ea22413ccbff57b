"""Which synthetic pictures a manifest needs."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from streetvision.data import manifest
from streetvision.data.manifest import Manifest, Picture
from streetvision.errors import DataError
from streetvision.synthesis import Backend
from streetvision.synthesis.prompts import prompts

STRENGTH = 0.7  # of an edit, as validators set it; Source: natixnetwork/streetvision-subnet natix/validator @ 28a1755


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One picture to be made.

    Attributes:
        role: `t2i` or `i2i`.
        label: what it is asked to show.
        split: of the manifest.
        group: of the manifest; an edited picture has that of its source.
        prompt: what is asked for.
        seed: what the generator is given.
        source: file of the picture to be edited; None for text-to-image.
        digest: hex digest of all that decides what the picture will be, the generator's revision included.
    """

    role: str
    label: int
    split: str
    group: str
    prompt: str
    seed: int
    source: Path | None
    digest: str


def plan(
    real: Manifest, backend: Backend, *, seed: int, share_t2i: float, share_i2i: float
) -> tuple[list[Job], list[str]]:
    """The pictures to be made, and a sentence for each pool that is missing.

    Raises:
        DataError: shares that leave nothing for real pictures, or a manifest without any.
    """
    share_real = 1.0 - share_t2i - share_i2i
    if not (share_t2i >= 0 and share_i2i >= 0 and share_real > 0):
        raise DataError(f"shares {share_t2i} (t2i) and {share_i2i} (i2i), expected numbers from 0 with a sum below 1")
    if not real.select(source="real"):
        raise DataError(f"`{real.root}` holds no real picture, expected some to take the numbers and sources from")
    jobs: list[Job] = []
    notes: list[str] = []
    for split in manifest.SPLITS:
        total = len(real.select(split=split, source="real")) / share_real
        if not total:
            notes.append(f"split `{split}` has no real picture: no synthetic ones are made for it")
        for label in (0, 1):
            sources = real.select(split=split, source="real", label=label)
            t2i, i2i = (
                max(0, round(total * share / 2) - len(real.select(split=split, source=role, label=label)))
                for role, share in (("t2i", share_t2i), ("i2i", share_i2i))
            )
            if i2i and not sources:
                notes.append(
                    f"split `{split}` has no real picture of label {label} to edit: "
                    f"its {i2i} image-to-image pictures are drawn from text instead"
                )
                t2i, i2i = t2i + i2i, 0
            jobs += _requests(real, backend, "t2i", label, split, [None] * t2i, seed)
            ordered = sorted(sources, key=lambda picture: _number(seed, picture.sha256))
            jobs += _requests(real, backend, "i2i", label, split, list(islice(cycle(ordered), i2i)), seed)
    return sorted(jobs, key=lambda job: job.role), notes  # one role after the other: full batches


def _requests(
    real: Manifest, backend: Backend, role: str, label: int, split: str, sources: Sequence[Picture | None], seed: int
) -> Iterator[Job]:
    texts = prompts(label, len(sources), seed=_number(seed, role, split))
    for index, (source, prompt) in enumerate(zip(sources, texts, strict=True)):
        number = _number(seed, role, split, label, index)
        origin = source.sha256 if source else ""
        what = [role, label, split, prompt, number, origin, backend.name, backend.revision, STRENGTH]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
        yield Job(
            role=role,
            label=label,
            split=split,
            group=source.group if source else f"{role}/{digest[:16]}",
            prompt=prompt,
            seed=number,
            source=real.root / source.path if source else None,
            digest=digest,
        )


def _number(*parts: object) -> int:
    """A number from 0 to 2^32 - 1 that depends on every part and on nothing else."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")
