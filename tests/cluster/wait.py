"""Waiting with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

from streetvision.errors import StreetvisionError

_Found = TypeVar("_Found")


class LateError(StreetvisionError, RuntimeError):
    """Something that did not happen in time."""


def until(
    question: Callable[[], _Found],
    *,
    what: str,
    timeout_s: float,
    every_s: float = 0.5,
    hint: str | None = None,
) -> _Found:
    """The first answer that is true; a StreetvisionError of the question counts as none.

    Raises:
        LateError: there was none in time; the last reason is in the message.
    """
    deadline = time.monotonic() + timeout_s
    reason = ""
    while True:
        try:
            if answer := question():
                return answer
        except StreetvisionError as err:
            reason = f": {err.message}"
            hint = err.hint or hint
        if time.monotonic() > deadline:
            raise LateError(f"{what}: not within {timeout_s:.0f} s{reason}", hint=hint)
        time.sleep(every_s)
