"""The frozen set is drawn once, belongs to its pictures, and is retired before it is worn out."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streetvision import assessment
from streetvision.assessment import frozen_set, newest_answers
from streetvision.challenge_set import ChallengeSet
from streetvision.data.manifest import Manifest
from streetvision.errors import EvidenceError


def changed(manifest: Manifest, **values: object) -> Manifest:
    return replace(manifest, pictures=tuple(replace(picture, **values) for picture in manifest.pictures))


def draw(manifest: Manifest, folder: Path, **values: object) -> ChallengeSet:
    return frozen_set(manifest, folder, **{"count": 40, "seed": 0, "regime": "R1", **values})


def verdicts(drawn: ChallengeSet, *, count: int, at: datetime) -> None:
    lines = [json.dumps({"at": at.isoformat(), "challenger": str(n), "champion": None}) for n in range(count)]
    drawn.root.with_name(f"{drawn.root.name}.verdicts.jsonl").write_text("\n".join(lines) + "\n")


def test_the_set_is_drawn_once_and_then_read(challenge_manifest: Manifest, tmp_path: Path):
    first = draw(challenge_manifest, tmp_path)
    written = (first.root / "challenges.parquet").stat().st_mtime_ns
    again = draw(challenge_manifest, tmp_path)
    assert (again.root, again.version) == (first.root, first.version)
    assert (again.root / "challenges.parquet").stat().st_mtime_ns == written


@pytest.mark.parametrize("question", [{"count": 41}, {"seed": 1}, {"regime": "R2"}])
def test_another_question_is_another_set(challenge_manifest: Manifest, tmp_path: Path, question: dict[str, object]):
    assert draw(challenge_manifest, tmp_path, **question).root != draw(challenge_manifest, tmp_path).root


def test_other_pictures_groups_or_drawing_code_are_another_set(
    challenge_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = draw(challenge_manifest, tmp_path).root
    regrouped = replace(
        challenge_manifest, pictures=tuple(replace(p, group="one") for p in challenge_manifest.pictures)
    )
    assert draw(regrouped, tmp_path).root != first
    monkeypatch.setattr(assessment, "version_of_views", lambda: "edited")
    assert draw(challenge_manifest, tmp_path).root != first


def test_a_set_is_retired_after_twenty_verdicts_or_sixty_days(challenge_manifest: Manifest, tmp_path: Path):
    now = datetime.now(UTC)
    first = draw(challenge_manifest, tmp_path)
    verdicts(first, count=19, at=now - timedelta(days=59))
    assert draw(challenge_manifest, tmp_path).root == first.root
    verdicts(first, count=20, at=now)
    second = draw(challenge_manifest, tmp_path)
    assert second.root != first.root
    assert second.version != first.version
    verdicts(second, count=1, at=now - timedelta(days=61))
    assert draw(challenge_manifest, tmp_path).root not in (first.root, second.root)


def test_a_model_that_never_answered_is_said(challenge_set: ChallengeSet, tmp_path: Path):
    with pytest.raises(EvidenceError, match="model aaaaaaaaaaaa never answered challenge set"):
        newest_answers(tmp_path, challenge_set, "a" * 64)
