"""Whether a challenge set asks what training has seen: the same picture, the same scene, or one that looks alike."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from streetvision.challenge_set import Challenge, ChallengeSet
from streetvision.data.build import inspect
from streetvision.data.dedupe import MAX_DISTANCE, near_between
from streetvision.data.manifest import Manifest, Picture
from streetvision.errors import DataError

_HINT = "draw a new set from the split `challenge` of the data that the model is trained on"


def refuse_leakage(challenge_set: ChallengeSet, manifest: Manifest, *, images: Path | None = None) -> None:
    """Refuses a challenge set with pictures that training, or the choice of a threshold, has seen.

    A challenge leaks if its source picture is one of the splits `train` and `validation`, if its group is, or if its
    perceptual hash is as near to one of theirs as that of a near-duplicate.

    Args:
        challenge_set: the questions.
        manifest: the data that the model was trained on.
        images: folder that the set's source pictures are relative to; needed where the manifest does not hold them.

    Raises:
        DataError: a challenge leaks, or a picture that is to be compared is missing or altered.
    """
    seen = [picture for picture in manifest.pictures if picture.split != "challenge"]
    rows = challenge_set.rows
    picture_of = {picture.sha256: picture for picture in seen}
    group_of = {picture.group: picture for picture in seen}
    same = {row.image_sha256: picture_of[row.image_sha256] for row in rows if row.image_sha256 in picture_of}
    grouped = {row.image_sha256: group_of[row.group] for row in rows if row.group in group_of}
    _refuse(challenge_set, same, "of pictures that are trained on")
    _refuse(challenge_set, grouped, "of groups that are trained on")
    _refuse(challenge_set, _lookalikes(challenge_set, manifest, seen, images), "that look like what is trained on")


def _refuse(challenge_set: ChallengeSet, leaks: Mapping[str, Picture], what: str) -> None:
    """Names how many challenges leak, and one of them with the picture of the training data it is taken for."""
    leaking = [row for row in challenge_set.rows if row.image_sha256 in leaks]
    if leaking:
        first = leaking[0]
        picture = leaks[first.image_sha256]
        raise DataError(
            f"challenge set `{challenge_set.root}` holds {len(leaking)} challenges {what}: `{first.image}` of group "
            f"`{first.group}`, and `{picture.path}` of group `{picture.group}` in split `{picture.split}`",
            hint=_HINT,
        )


def _lookalikes(
    challenge_set: ChallengeSet, manifest: Manifest, seen: Sequence[Picture], images: Path | None
) -> dict[str, Picture]:
    """By sha256 of a challenge's picture, one of those seen whose perceptual hash is that of a near-duplicate."""
    known = {picture.sha256: picture.phash for picture in manifest.pictures}
    asked = {row.image_sha256: row for row in challenge_set.rows}
    hashes = [known.get(sha256) or _hash(challenge_set, row, images) for sha256, row in asked.items()]
    pairs = near_between(hashes, [picture.phash for picture in seen], max_distance=MAX_DISTANCE)
    sha256s = list(asked)
    return {sha256s[one]: seen[other] for one, other in pairs.tolist()}


def _hash(challenge_set: ChallengeSet, row: Challenge, images: Path | None) -> str:
    if images is None:
        raise DataError(
            f"challenge set `{challenge_set.root}` was drawn from other data: `{row.image}` is not in the manifest, "
            "so it cannot be told what it looks like",
            hint="name the folder of its pictures with `--images`",
        )
    file = images / row.image
    try:
        data = file.read_bytes()
    except OSError as err:
        raise DataError(
            f"cannot read picture `{file}` of challenge set `{challenge_set.root}`: {err.strerror}"
        ) from err
    if hashlib.sha256(data).hexdigest() != row.image_sha256:
        raise DataError(f"`{file}` is not the picture that challenge set `{challenge_set.root}` was drawn from")
    return inspect(data)[1]
