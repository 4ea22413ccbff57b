import hashlib

import pytest

from streetvision import imaging
from streetvision.data.procedural import ProceduralSource, source
from streetvision.errors import SettingsError


def digests(pictures: ProceduralSource) -> list[str]:
    return [hashlib.sha256(picture.data).hexdigest() for picture in pictures]


def test_pictures_are_labelled_grouped_and_described() -> None:
    pictures = ProceduralSource(6, seed=1, frames=(1, 2), workers=1)
    drawn = list(pictures)
    assert len(drawn) == len(pictures)
    assert sum(picture.label for picture in drawn) * 2 == len(drawn)
    groups = {picture.group for picture in drawn}
    assert len(groups) == 6
    for group in groups:
        assert len({picture.label for picture in drawn if picture.group == group}) == 1
    for picture in drawn:
        assert (picture.description != "") == (picture.label == 1)
        assert picture.generator == "procedural"
        assert picture.source == "real"
        assert imaging.decode(picture.data).shape == (360, 640, 3)


def test_bytes_do_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_CHUNK", 1)
    assert digests(ProceduralSource(8, seed=3, frames=(1, 1), workers=2)) == digests(
        ProceduralSource(8, seed=3, frames=(1, 1), workers=1)
    )


def test_another_seed_gives_other_scenes_and_groups() -> None:
    one, other = (list(ProceduralSource(2, seed=seed, frames=(1, 1), workers=1)) for seed in (0, 1))
    assert {picture.data for picture in one}.isdisjoint(picture.data for picture in other)
    assert {picture.group for picture in one}.isdisjoint(picture.group for picture in other)


def test_jpeg_quality_varies() -> None:
    drawn = list(ProceduralSource(4, seed=2, frames=(1, 1), workers=1))
    assert len({_luma_table(picture.data) for picture in drawn}) > 1


def _luma_table(data: bytes) -> bytes:
    at = data.index(b"\xff\xdb")
    return data[at + 5 : at + 69]


def test_the_fingerprint_follows_what_would_be_drawn() -> None:
    plain = ProceduralSource(10, seed=1).fingerprint()
    assert ProceduralSource(10, seed=1, workers=1).fingerprint() == plain
    others = {
        ProceduralSource(12, seed=1).fingerprint(),
        ProceduralSource(10, seed=2).fingerprint(),
        ProceduralSource(10, seed=1, frames=(1, 1)).fingerprint(),
    }
    assert plain not in others
    assert len(others) == 3


@pytest.mark.parametrize(
    "settings",
    [{"scenes": 0}, {"seed": -1}, {"frames": (0, 1)}, {"frames": (3, 1)}, {"workers": 0}],
)
def test_numbers_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    values: dict[str, object] = {"scenes": 4, "seed": 0} | settings
    with pytest.raises(SettingsError, match="procedural source got"):
        ProceduralSource(**values)  # type: ignore[arg-type]
