"""The picture in the body of a challenge."""

from typing import Any, cast

import orjson
import pybase64

from streetvision.errors import WireError


def picture(body: bytes) -> bytes:
    """The encoded picture under `image`, of unknown content: nothing here decodes pixels.

    Raises:
        WireError: 400, the body is no JSON object with a base64 text under `image`.
    """
    try:
        value = orjson.loads(body)
    except ValueError as err:
        raise WireError("body is no JSON text", reason="bad_json") from err
    image = cast(dict[str, Any], value).get("image") if isinstance(value, dict) else None
    if not isinstance(image, str) or not image:
        raise WireError("body has no text under `image`, expected a picture in base64", reason="no_image")
    try:
        return pybase64.b64decode(image, validate=True)
    except ValueError as err:
        raise WireError("text under `image` is no base64", reason="bad_base64") from err
