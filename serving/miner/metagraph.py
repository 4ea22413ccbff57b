"""Who is who on the subnet: the neurons a caller is checked against."""

import logging
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from serving.logs import event
from streetvision.errors import SettingsError

logger = logging.getLogger(__name__)


class Neuron(BaseModel):
    """One registered hotkey, its stake in alpha and whether it may validate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: int
    hotkey: str
    stake: float
    permit: bool
    ip: str
    port: int


class Metagraph(Protocol):
    """The registered neurons, at any time of the process."""

    def neuron(self, hotkey: str) -> Neuron | None:
        """The neuron of a hotkey, or None for a stranger; fast, and never waits for the chain."""
        ...


class FileMetagraph:
    """The network `mock`: a JSON list of neurons, read again whenever the file changes.

    A change that cannot be read is logged once, and the neurons stay as they were.

    Raises:
        SettingsError: the file cannot be read at the start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = _stamp(file)
        self._neurons = _read(file)

    def neuron(self, hotkey: str) -> Neuron | None:
        """The neuron of a hotkey, or None for a stranger."""
        stamp = _stamp(self._file)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._neurons = _read(self._file)
            except SettingsError as err:
                event(logger, "metagraph_unreadable", level=logging.ERROR, reason=err.message)
        return self._neurons.get(hotkey)


_NEURONS = TypeAdapter(list[Neuron])


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(file: Path) -> dict[str, Neuron]:
    try:
        return {neuron.hotkey: neuron for neuron in _NEURONS.validate_json(file.read_bytes())}
    except OSError as err:
        raise SettingsError(f"metagraph `{file}` cannot be read: {err.strerror}") from err
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SettingsError(f"metagraph `{file}` is unusable at {place}: {first['msg']}") from err
