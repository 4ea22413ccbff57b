"""JSON that a person or another program wrote: read strictly, with a sentence where it is unusable."""

import json
from typing import Any

from streetvision.errors import DataError

_SHOWN = 40


def parse(data: bytes, place: str, *, hint: str | None = None) -> Any:
    """The one JSON value of UTF-8 text; all its numbers are floats, NaN and Infinity among them.

    Args:
        data: with or without a byte-order mark.
        place: where it stands, the beginning of every message.
        hint: what to do where it is unusable.

    Raises:
        DataError: no UTF-8, no JSON, a key that stands twice in an object, or brackets nested too deep.
    """
    try:
        return json.loads(data.decode("utf-8-sig"), parse_int=float, object_pairs_hook=_unique)
    except UnicodeDecodeError as err:
        reason = f"byte {err.start + 1} is not UTF-8"
    except RecursionError:
        reason = "brackets are nested too deep"
    except json.JSONDecodeError as err:
        reason = f"no JSON, {err.msg} at character {err.pos + 1}"
    except ValueError as err:
        reason = str(err)
    raise DataError(f"{place}: {reason}", hint=hint)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {shorten(key)} stands there twice")
        values[key] = value
    return values


def number(value: Any) -> float | None:
    """The float that a parsed value is, or that Python's `float` reads from its text; None where it is neither."""
    if isinstance(value, float):
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def shorten(value: Any) -> str:
    """The value as JSON again, cut off where it is long."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
