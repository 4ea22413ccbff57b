import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streetvision.challenge_set import ChallengeSet
from streetvision.data.build import inspect
from streetvision.data.manifest import Manifest, Picture
from streetvision.errors import DataError
from streetvision.leakage import refuse_leakage


def flipped(phash: str, bits: int) -> str:
    return f"{int(phash, 16) ^ ((1 << bits) - 1):064x}"


@pytest.fixture(scope="module")
def held_out(challenge_manifest: Manifest) -> tuple[Picture, ...]:
    """What the set was drawn from, each picture with a hash far from all others'."""
    rng = np.random.default_rng(0)
    return tuple(
        replace(picture, phash=rng.integers(0, 256, 32, dtype=np.uint8).tobytes().hex())
        for picture in challenge_manifest.pictures
    )


@pytest.fixture
def other() -> Picture:
    """A picture of nothing that the challenge set knows."""
    return Picture(
        sha256="f" * 64,
        path="images/ff/f.jpg",
        label=0,
        source="real",
        generator="camera",
        group="elsewhere",
        split="train",
        format="JPEG",
        description="",
        prompt="",
        seed=None,
        phash="0f" * 32,
    )


def drawn(challenge_set: ChallengeSet, held_out: tuple[Picture, ...]) -> Picture:
    """A picture that the set did draw, as the first challenge."""
    return next(one for one in held_out if one.sha256 == challenge_set.rows[0].image_sha256)


def manifest(*pictures: Picture) -> Manifest:
    return Manifest(Path("data"), tuple(pictures))


def test_a_set_of_its_own_split_is_accepted(challenge_set: ChallengeSet, held_out, other: Picture):
    refuse_leakage(challenge_set, manifest(*held_out, other))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_picture_that_is_trained_on_is_refused(challenge_set: ChallengeSet, held_out, split: str):
    leaked = drawn(challenge_set, held_out)
    seen = [replace(one, split=split) if one == leaked else one for one in held_out]
    asked = sum(row.image_sha256 == leaked.sha256 for row in challenge_set.rows)
    with pytest.raises(DataError, match=f"holds {asked} challenges of pictures that are trained on") as refused:
        refuse_leakage(challenge_set, manifest(*seen))
    assert leaked.path in refused.value.message
    assert f"in split `{split}`" in refused.value.message


def test_a_group_that_is_trained_on_is_refused(challenge_set: ChallengeSet, held_out, other: Picture):
    group = challenge_set.rows[0].group
    asked = sum(row.group == group for row in challenge_set.rows)
    with pytest.raises(DataError, match=f"{asked} challenges of groups that are trained on.*`{group}`"):
        refuse_leakage(challenge_set, manifest(*held_out, replace(other, group=group)))


def test_a_synthetic_edit_of_a_challenge_s_picture_is_refused_in_training(
    challenge_set: ChallengeSet, held_out, other: Picture
):
    edit = replace(other, source="i2i", generator="sdxl", group=drawn(challenge_set, held_out).group)
    with pytest.raises(DataError, match="of groups that are trained on"):
        refuse_leakage(challenge_set, manifest(*held_out, edit))


@pytest.mark.parametrize(("bits", "leaks"), [(0, True), (48, True), (49, False)])
def test_what_looks_like_a_trained_picture_is_refused(
    challenge_set: ChallengeSet, held_out, other: Picture, bits: int, leaks: bool
):
    leaked = drawn(challenge_set, held_out)
    seen = manifest(*held_out, replace(other, phash=flipped(leaked.phash, bits)))
    if not leaks:
        refuse_leakage(challenge_set, seen)
        return
    with pytest.raises(DataError, match="challenges that look like what is trained on") as refused:
        refuse_leakage(challenge_set, seen)
    assert leaked.path in refused.value.message
    assert other.path in refused.value.message


def test_the_same_scene_in_another_encoding_is_refused_where_the_set_is_of_other_data(
    challenge_set: ChallengeSet, challenge_manifest: Manifest, other: Picture
):
    picture = drawn(challenge_set, challenge_manifest.pictures)
    _, phash = inspect(challenge_manifest.read_bytes(picture))
    with pytest.raises(DataError, match="look like what is trained on"):
        refuse_leakage(challenge_set, manifest(replace(other, phash=flipped(phash, 9))), images=challenge_manifest.root)


def test_a_set_of_other_data_needs_its_pictures(challenge_set: ChallengeSet, other: Picture, tmp_path: Path):
    with pytest.raises(DataError, match="drawn from other data") as refused:
        refuse_leakage(challenge_set, manifest(other))
    assert "--images" in str(refused.value)
    with pytest.raises(DataError, match="cannot read picture"):
        refuse_leakage(challenge_set, manifest(other), images=tmp_path)
    file = tmp_path / challenge_set.rows[0].image
    file.parent.mkdir(parents=True)
    file.write_bytes(b"another")
    assert hashlib.sha256(b"another").hexdigest() != challenge_set.rows[0].image_sha256
    with pytest.raises(DataError, match="is not the picture that challenge set"):
        refuse_leakage(challenge_set, manifest(other), images=tmp_path)
