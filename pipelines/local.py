"""A pipeline on this machine, by kfp's own local runner: no cluster, no containers."""

import re
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from kfp import dsl, local

from streetvision.errors import StreetvisionError

_RAISED = re.compile(r"^\s*streetvision\.errors\.\w+: (.+)$")
_HINT = re.compile(r"^\s*hint: (.+)$")


class StepError(StreetvisionError, RuntimeError):
    """A step failed; the message is the step's own sentence where it gave one."""


def run(pipeline: Any, arguments: dict[str, Any], *, root: Path) -> dict[str, Any]:
    """The pipeline's outputs: parameters as they are, artifacts as their local paths.

    Steps run as processes of this interpreter. A step that ran before on the same inputs and source is not run again.

    Raises:
        StepError: a step failed.
    """
    root.mkdir(parents=True, exist_ok=True)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), enable_caching=True)
    with warnings.catch_warnings(), _listening() as heard:
        warnings.filterwarnings(
            "ignore", "You may be attemping to run a task", RuntimeWarning
        )  # steps need no container
        warnings.filterwarnings("ignore", category=UserWarning, module="kfp")  # Kubernetes settings mean nothing here
        try:
            task = pipeline(**arguments)
        except RuntimeError as err:
            if heard.sentence is None:
                raise StepError(f"{_plain(str(err))}", hint="its own words stand above") from err
            raise StepError(heard.sentence, hint=heard.hint) from err
    return {name: value.path if isinstance(value, dsl.Artifact) else value for name, value in task.outputs.items()}


class _Heard:
    """Standard output that remembers the last of our errors that passed through."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.sentence: str | None = None
        self.hint: str | None = None

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if raised := _RAISED.match(line):
                self.sentence, self.hint = raised[1], None
            elif self.sentence and self.hint is None and (hint := _HINT.match(line)):
                self.hint = hint[1]
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _listening() -> Generator[_Heard]:
    stdout = sys.stdout
    heard = _Heard(stdout)
    sys.stdout = cast(TextIO, heard)
    try:
        yield heard
    finally:
        sys.stdout = stdout


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
