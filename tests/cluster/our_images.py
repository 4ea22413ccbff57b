"""Our own images, as the charts take them; STREETVISION_IMAGE_PREFIX and STREETVISION_IMAGE_TAG name others."""

from components.images import PREFIX, TAG


def image(name: str) -> str:
    """The full name of one of our images, such as `docker.io/streetvision/miner:0.1.0`."""
    return f"{PREFIX}/{name}:{TAG}"


def image_values(name: str) -> dict[str, str]:
    """The same as values of a chart: `image`."""
    registry, _, folder = PREFIX.partition("/")
    return {"registry": registry, "repository": f"{folder}/{name}", "tag": TAG}
