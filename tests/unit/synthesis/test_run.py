import dataclasses
import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from streetvision.data.manifest import Manifest
from streetvision.errors import BusyError, DataError, EngineError
from streetvision.synthesis import Request
from streetvision.synthesis.run import synthesize

FAILED = "the generator stops here"


class Patches:
    """Colour patches from the seed, laid over the source where there is one."""

    name = "patches"
    revision = "1"

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
        if self.stop_after is not None and len(self.requests) >= self.stop_after:
            raise RuntimeError(FAILED)
        self.requests += requests
        return [self.draw(request) for request in requests]

    def draw(self, request: Request) -> NDArray[np.uint8]:
        small = np.random.default_rng(request.seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        if request.source is not None:
            height, width = request.source.shape[:2]
            large = np.asarray(Image.fromarray(small).resize((width, height)), dtype=np.float64)
            return (large * request.strength + request.source * (1 - request.strength)).astype(np.uint8)
        return np.asarray(Image.fromarray(small).resize((48, 48)))


class Unpicklable(Patches):
    """Holds what no other process can have, as a loaded model does."""

    def __init__(self) -> None:
        super().__init__()
        self.process_id = os.getpid()

    def __reduce__(self) -> str:
        raise TypeError

    def draw(self, request: Request) -> NDArray[np.uint8]:
        assert os.getpid() == self.process_id
        return super().draw(request)


class Constant(Patches):
    """Ignores its seed."""

    def draw(self, request: Request) -> NDArray[np.uint8]:
        return np.full((48, 48, 3), request.label, dtype=np.uint8)


class Grey(Patches):
    def draw(self, request: Request) -> NDArray[np.uint8]:
        return super().draw(request)[:, :, 0]


class Forgetful(Patches):
    def generate(self, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
        return super().generate(requests)[1:]


class Dying(Patches):
    def draw(self, request: Request) -> NDArray[np.uint8]:
        os._exit(9)


def test_every_split_holds_the_shares_and_balanced_labels(real: Manifest, tmp_path: Path) -> None:
    report = synthesize(real, Patches(), tmp_path / "out", seed=5, workers=1)
    made = Manifest.read(tmp_path / "out")
    assert report.version == made.version
    assert report.notes == ()
    assert set(real.pictures) <= set(made.pictures)
    for split in ("train", "validation", "challenge"):
        count = len(made.select(split=split, source="real"))
        for source in ("t2i", "i2i"):
            for label in (0, 1):
                assert len(made.select(split=split, source=source, label=label)) == pytest.approx(count / 4, abs=0.5)
    assert report.made == len(made.pictures) - len(real.pictures) == sum(report.counts.values()) - 60


def test_rows_say_how_a_picture_came_to_be(real: Manifest, tmp_path: Path) -> None:
    synthesize(real, Patches(), tmp_path / "out", seed=5, workers=1)
    made = Manifest.read(tmp_path / "out")
    real_groups = {picture.group: (picture.split, picture.label) for picture in real.pictures}
    for picture in (*made.select(source="t2i"), *made.select(source="i2i")):
        assert (picture.generator, picture.format, picture.label_origin) == ("patches", "PNG", "source")
        assert picture.prompt
        assert picture.seed is not None
        assert picture.description == (picture.prompt if picture.label else "")
        assert (picture.group in real_groups) == (picture.source == "i2i")
        if picture.source == "i2i":
            assert real_groups[picture.group][0] == picture.split
    t2i = made.select(source="t2i")
    assert len({picture.group for picture in t2i}) == len(t2i)


def test_generator_is_asked_in_batches_of_one_role(real: Manifest, tmp_path: Path) -> None:
    batches: list[Sequence[Request]] = []

    class Watched(Patches):
        def generate(self, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
            batches.append(requests)
            return super().generate(requests)

    synthesize(real, Watched(), tmp_path / "out", seed=5, workers=1, batch_size=4)
    assert max(map(len, batches)) == 4
    for batch in batches:
        edits = [request.source is not None for request in batch]
        assert len(set(edits)) == 1
        assert all(("blur" in request.negative_prompt) != edits[0] for request in batch)
        assert all(request.strength == 0.7 for request in batch)


def test_sources_are_taken_in_turn_and_have_the_label(real: Manifest, tmp_path: Path) -> None:
    backend = Patches()
    synthesize(real, backend, tmp_path / "out", seed=5, workers=1)
    sources = [request for request in backend.requests if request.source is not None]
    uses: Counter[tuple[int, bytes]] = Counter()
    for request in sources:
        assert request.source is not None
        uses[request.label, request.source.tobytes()] += 1
    for label in (0, 1):
        of_label = [count for (one, _), count in uses.items() if one == label]
        assert max(of_label) <= 3


def test_result_depends_on_the_seed_and_not_on_the_workers(real: Manifest, tmp_path: Path) -> None:
    first = synthesize(real, Patches(), tmp_path / "a", seed=5, workers=1)
    assert synthesize(real, Patches(), tmp_path / "b", seed=5, workers=2, batch_size=3).version == first.version
    assert synthesize(real, Patches(), tmp_path / "c", seed=6, workers=1).version != first.version


def test_generator_that_cannot_be_pickled_stays_in_this_process(real: Manifest, tmp_path: Path) -> None:
    assert synthesize(real, Unpicklable(), tmp_path / "out", seed=5, workers=2).made == 60


def test_interrupted_run_goes_on_where_it_stopped(real: Manifest, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=FAILED):
        synthesize(real, Patches(stop_after=20), tmp_path / "out", seed=5, workers=1, batch_size=5)
    assert not (tmp_path / "out").exists()
    backend = Patches()
    report = synthesize(real, backend, tmp_path / "out", seed=5, workers=1)
    assert report.reused == 20
    assert len(backend.requests) == 40
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert report.version == synthesize(real, Patches(), tmp_path / "whole", seed=5, workers=1).version


def test_another_revision_reuses_nothing(real: Manifest, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=FAILED):
        synthesize(real, Patches(stop_after=20), tmp_path / "out", seed=5, workers=1, batch_size=5)
    backend = Patches()
    backend.revision = "2"
    assert synthesize(real, backend, tmp_path / "out", seed=5, workers=1).reused == 0


def test_existing_synthetic_pictures_count_towards_the_shares(real: Manifest, tmp_path: Path) -> None:
    first = synthesize(real, Patches(), tmp_path / "a", seed=5, workers=1)
    again = synthesize(Manifest.read(tmp_path / "a"), Patches(), tmp_path / "b", seed=5, workers=1)
    assert (again.made, again.version) == (0, first.version)


def test_missing_pool_is_redistributed_and_said(real: Manifest, tmp_path: Path) -> None:
    pictures = tuple(row for row in real.pictures if (row.split, row.label) != ("validation", 1))
    report = synthesize(Manifest(real.root, pictures), Patches(), tmp_path / "out", seed=5, workers=1)
    assert len(report.notes) == 1
    assert "split `validation` has no real picture of label 1 to edit" in report.notes[0]
    made = Manifest.read(tmp_path / "out")
    assert len(made.select(split="validation", source="t2i", label=1)) == 2 * len(
        made.select(split="validation", source="t2i", label=0)
    )


def test_no_share_makes_none(real: Manifest, tmp_path: Path) -> None:
    report = synthesize(real, Patches(), tmp_path / "out", seed=5, share_t2i=0.0, share_i2i=0.0, workers=1)
    assert (report.made, report.version) == (0, real.version)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.2)])
def test_shares_that_leave_nothing_real_are_refused(
    real: Manifest, tmp_path: Path, shares: tuple[float, float]
) -> None:
    with pytest.raises(DataError, match="sum below 1"):
        synthesize(real, Patches(), tmp_path / "out", seed=5, share_t2i=shares[0], share_i2i=shares[1])


def test_manifest_without_real_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no real picture"):
        synthesize(Manifest(tmp_path, ()), Patches(), tmp_path / "out", seed=5)


def test_generator_that_ignores_its_seed_is_said(real: Manifest, tmp_path: Path) -> None:
    report = synthesize(real, Constant(), tmp_path / "out", seed=5, workers=1)
    assert report.made == 2
    assert "drew 58 pictures twice" in report.notes[0]


@pytest.mark.parametrize(
    ("backend", "sentence"),
    [(Grey(), r"gave uint8\[48, 64\], expected"), (Forgetful(), "gave 7 pictures for 8 requests")],
)
def test_generator_that_answers_nonsense_is_refused(
    real: Manifest, tmp_path: Path, backend: Patches, sentence: str
) -> None:
    with pytest.raises(EngineError, match=sentence):
        synthesize(real, backend, tmp_path / "out", seed=5, workers=1)


def test_generator_process_that_dies_is_said(real: Manifest, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="a process of generator `patches` died after 0 of 60"):
        synthesize(real, Dying(), tmp_path / "out", seed=5, workers=2)


def test_second_run_at_the_same_time_is_refused(real: Manifest, tmp_path: Path) -> None:
    (tmp_path / ".out.work").mkdir()
    with FileLock(tmp_path / ".out.work" / "lock"), pytest.raises(BusyError, match="another run is making"):
        synthesize(real, Patches(), tmp_path / "out", seed=5, workers=1)


def test_real_pictures_are_linked_and_not_copied(real: Manifest, tmp_path: Path) -> None:
    synthesize(real, Patches(), tmp_path / "out", seed=5, workers=1)
    picture = real.pictures[0]
    assert (tmp_path / "out" / picture.path).stat().st_ino == (real.root / picture.path).stat().st_ino


def test_large_source_is_squeezed_into_a_square_as_validators_do(real: Manifest, tmp_path: Path) -> None:
    # a source of 1280 x 720 in the place of a real picture, under its true hash
    buffer = io.BytesIO()
    Image.new("RGB", (1280, 720), (90, 120, 30)).save(buffer, "PNG")
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    (tmp_path / "large.png").write_bytes(buffer.getvalue())
    rows = [
        dataclasses.replace(row, sha256=sha256, path="large.png", format="PNG", split="train")
        for row in real.pictures[:1]
    ]
    backend = Patches()
    synthesize(
        Manifest(tmp_path, tuple(rows)), backend, tmp_path / "out", seed=5, share_t2i=0.0, share_i2i=0.7, workers=1
    )
    sources = [request.source for request in backend.requests if request.source is not None]
    assert sources
    assert all(source.shape == (1024, 1024, 3) for source in sources)
