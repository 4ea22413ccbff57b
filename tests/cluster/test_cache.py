"""What was built is known by what it was built from."""

from pathlib import Path

from tests.cluster import cache


def test_a_key_follows_names_and_contents_of_files_and_strings(tmp_path: Path):
    (tmp_path / "one").write_text("1")
    first = cache.key(tmp_path, "flags")
    assert first == cache.key(tmp_path, "flags")
    assert cache.key(tmp_path, "other flags") != first
    (tmp_path / "one").write_text("2")
    second = cache.key(tmp_path, "flags")
    (tmp_path / "one").rename(tmp_path / "two")
    assert len({first, second, cache.key(tmp_path, "flags")}) == 3


def test_what_lies_beside_the_newest_is_named(tmp_path: Path):
    for name in ("old", "older", "new"):
        (tmp_path / name).mkdir()
    assert cache.forget_others(tmp_path / "new") == [tmp_path / "old", tmp_path / "older"]
    assert cache.forget_others(tmp_path / "nowhere" / "new") == []
