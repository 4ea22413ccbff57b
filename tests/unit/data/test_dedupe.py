from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streetvision import imaging
from streetvision.data import dedupe

Draw = Callable[..., NDArray[np.uint8]]


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_hash_survives_encoding_scaling_and_brightness(scene: Draw) -> None:
    for seed in range(20):
        image = scene(seed)
        original = dedupe.phash(image)
        assert len(original) == 64
        jpeg = imaging.decode(imaging.encode_jpeg(image, quality=50))
        smaller = imaging.resize(image[:, :72], 48)
        brighter = np.clip(image * 0.8 + 40, 0, 255).astype(np.uint8)
        assert distance(dedupe.phash(jpeg), original) <= dedupe.MAX_DISTANCE
        assert distance(dedupe.phash(smaller), dedupe.phash(image[:, :72])) <= dedupe.MAX_DISTANCE
        assert distance(dedupe.phash(brighter), original) <= dedupe.MAX_DISTANCE


def test_different_scenes_are_far_apart(scene: Draw) -> None:
    hashes = [dedupe.phash(scene(seed)) for seed in range(200)]
    assert len(dedupe.near_pairs(hashes)) == 0


def test_near_pairs_are_all_pairs_within_the_distance() -> None:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 256, (40, 32), dtype=np.uint8)
    hashes = [row.tobytes().hex() for row in base] + [(row ^ (np.arange(32) < 3)).tobytes().hex() for row in base[::3]]
    wanted = [
        [i, j] for i in range(len(hashes)) for j in range(i + 1, len(hashes)) if distance(hashes[i], hashes[j]) <= 100
    ]
    found = dedupe.near_pairs(hashes, max_distance=100)
    assert len(wanted) >= 14
    assert sorted(found.tolist()) == wanted


def test_near_pairs_of_nothing_are_none() -> None:
    assert dedupe.near_pairs([]).shape == (0, 2)


def test_near_pairs_are_found_in_every_block() -> None:
    words = np.random.default_rng(0).integers(0, 256, (8_000, 32), dtype=np.uint8)
    words[7_999] = words[10]
    words[6_002] = words[6_001]
    assert dedupe.near_pairs([row.tobytes().hex() for row in words]).tolist() == [[10, 7_999], [6_001, 6_002]]


def test_near_between_are_all_pairs_of_two_lists_within_the_distance() -> None:
    words = np.random.default_rng(1).integers(0, 256, (9_000, 32), dtype=np.uint8)
    hashes, others = words[:1_000].copy(), words[1_000:].copy()
    for one, other, byte, bits in ((3, 7_990, 5, 0b1), (998, 4, 31, 0b111), (999, 4_000, 0, 0b1111)):
        hashes[one] = others[other]
        hashes[one, byte] ^= bits
    found = dedupe.near_between(
        [row.tobytes().hex() for row in hashes], [row.tobytes().hex() for row in others], max_distance=3
    )
    assert found.tolist() == [[3, 7_990], [998, 4]]


def test_near_between_nothing_and_something_is_none() -> None:
    assert dedupe.near_between([], ["00" * 32]).shape == (0, 2)
    assert dedupe.near_between(["00" * 32], []).shape == (0, 2)


def test_join_follows_chains_and_names_a_group_after_its_first() -> None:
    assert dedupe.join(["d", "b", "c", "a", "e"], [(0, 1), (1, 2)]) == ["b", "b", "b", "a", "e"]
    assert dedupe.join(["x", "x", "y", "z"], [(1, 2)]) == ["x", "x", "x", "z"]
