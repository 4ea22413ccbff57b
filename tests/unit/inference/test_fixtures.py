import numpy as np

from streetvision.inference.fixtures import fixture_images


def test_fixtures_are_always_the_same():
    assert np.array_equal(fixture_images(64), fixture_images(64))


def test_fixtures_differ_among_each_other_and_cover_the_range():
    images = fixture_images(96)
    assert images.shape == (16, 96, 96, 3)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 16
    means = images.mean(axis=(1, 2, 3))
    assert means.min() == 0
    assert means.max() == 255


def test_every_other_scene_shows_orange():
    orange = [np.all(np.abs(image.astype(int) - (255, 110, 20)) < 40, axis=-1).mean() for image in fixture_images(224)]
    assert all(share > 0.01 for share in orange[1:8:2])
    assert all(share < 0.001 for share in orange[0:8:2])
