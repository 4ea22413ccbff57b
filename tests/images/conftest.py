"""Images that were built before (`make images`); what is not there is skipped by name.

With STREETVISION_NEEDS_IMAGES=1, as in CI, only the images for GPUs may be missing: a test that lacks another fails.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from manifests.docker import Docker, find_docker
from manifests.image_contents import Contents
from manifests.images import Image
from streetvision.errors import SettingsError
from tests.images.containers import BY_NAME


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and "docker" in item.fixturenames:
            item.add_marker(pytest.mark.images)


@pytest.fixture(scope="session")
def docker() -> Docker:
    try:
        return find_docker()
    except SettingsError as err:
        _lacking(f"no container engine: {err.message}")


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest, docker: Docker) -> Image:
    """The image that a test names; one that several tests name comes to all of them in a row."""
    image = BY_NAME[request.param]
    if not docker.has(image.reference):
        reason = f"image {image.name} is not built (`make images ARGS={image.name}`)"
        if image.is_for_gpus:
            pytest.skip(reason)
        _lacking(reason)
    return image


@pytest.fixture(scope="session")
def contents(docker: Docker) -> Callable[[str], Contents]:
    """The contents of an image or a base, read once."""
    return cache(docker.contents)


def _lacking(reason: str) -> NoReturn:
    if os.environ.get("STREETVISION_NEEDS_IMAGES"):
        pytest.fail(reason)
    pytest.skip(reason)
