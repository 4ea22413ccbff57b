"""A pipeline on this machine, by kfp's own local runner: no cluster, no containers."""

import contextlib
import logging
import sys
import warnings
from pathlib import Path
from typing import IO, Any, cast

from kfp import dsl, local

from pipelines.console import COLOUR, Console
from streetvision import errors
from streetvision.errors import StreetvisionError


class StepError(StreetvisionError, RuntimeError):
    """A step failed without a sentence of its own."""


def run(pipeline: Any, arguments: dict[str, Any], *, root: Path, log: Path) -> dict[str, Any]:
    """The pipeline's outputs: parameters as they are, artifacts as their local paths.

    Steps run as processes of this interpreter. A step that ran before on the same inputs and source is not run again.

    Args:
        pipeline: a `dsl.pipeline`.
        arguments: its parameters.
        root: folder of the artifacts and of the cache.
        log: file of everything that the runner and the steps say.

    Raises:
        StepError: a step failed; where it failed with an error of ours, that error.
    """
    root.mkdir(parents=True, exist_ok=True)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), enable_caching=True)
    console = Console(sys.stdout, log)
    with (
        contextlib.closing(console),
        contextlib.redirect_stdout(cast(IO[str], console)),
        warnings.catch_warnings(),
    ):
        # the runner looks up standard output when it logs, and says what it took from the cache to the root logger
        logging.basicConfig(
            stream=cast(IO[str], console), level=logging.INFO, format="00 - INFO - %(message)s", force=True
        )
        warnings.filterwarnings("ignore", "You may be attemping to run a task", RuntimeWarning)  # no container needed
        warnings.filterwarnings("ignore", category=UserWarning, module="kfp")  # Kubernetes settings mean nothing here
        try:
            task = pipeline(**arguments)
        except RuntimeError as err:
            hint = f"everything it said is in `{log}`"
            if console.sentence is None:  # not one of ours
                raise StepError(f"a step failed: {_first_line(err)}", hint=hint) from err
            kind: type[StreetvisionError] = getattr(errors, console.kind or "", StepError)
            raise kind(console.sentence, hint=console.hint or hint) from err
        finally:
            logging.basicConfig(stream=sys.__stderr__, level=logging.WARNING, force=True)
    return {name: value.path if isinstance(value, dsl.Artifact) else value for name, value in task.outputs.items()}


def _first_line(err: Exception) -> str:
    return COLOUR.sub("", (str(err).splitlines() or [type(err).__name__])[0])
