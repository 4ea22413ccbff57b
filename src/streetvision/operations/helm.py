"""Releases as helm 3 and 4 keep and change them."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from streetvision.errors import RolloutError, SettingsError

_ANSWER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release as it is now.

    Attributes:
        chart: name of its chart.
        version: of its chart.
        revision: counts its changes.
        status: `deployed`, `failed`, or `pending-...` while helm is at work.
        values: all of them, those of the chart too.
    """

    chart: str
    version: str
    revision: int
    status: str
    values: Mapping[str, Any]

    def value(self, key: str) -> str:
        """The value called `a.b.c`, or nothing."""
        found: Any = self.values
        for name in key.split("."):
            found = cast("dict[str, Any]", found).get(name) if isinstance(found, dict) else None
        return str(found or "")


@dataclass(frozen=True, slots=True)
class Helm:
    """One helm and the namespace whose releases it changes; its hooks never run.

    Attributes:
        program: name or path.
        namespace: of the releases.
    """

    program: str
    namespace: str

    def release(self, name: str) -> Release:
        """The release as it is now.

        Raises:
            RolloutError: there is none, or helm failed.
        """
        metadata = json.loads(self._run("get", "metadata", name, "--output=json"))
        values = json.loads(self._run("get", "values", name, "--all", "--output=json"))
        return Release(
            chart=str(metadata["chart"]),
            version=str(metadata["version"]),
            revision=int(metadata["revision"]),
            status=str(metadata["status"]),
            values=values,
        )

    def chart(self, path: Path) -> tuple[str, str]:
        """Name and version of a chart.

        Raises:
            SettingsError: there is none.
        """
        try:
            chart = yaml.safe_load(self._run("show", "chart", str(path)))
            return str(chart["name"]), str(chart["version"])
        except (RolloutError, yaml.YAMLError, KeyError, TypeError) as err:
            reason = getattr(err, "message", str(err))
            raise SettingsError(f"there is no usable chart at `{path}`: {reason}", hint="name it by --chart") from err

    def upgrade(self, name: str, chart: Path, *, key: str, value: str, why: str, timeout_s: float) -> None:
        """Sets one value of a release, which keeps all others; its pods are not waited for.

        Raises:
            RolloutError: helm failed.
        """
        self._run(
            *("upgrade", name, str(chart), "--reuse-values", "--set-string", f"{key}={_escaped(value)}"),
            *("--description", why, "--no-hooks", f"--timeout={timeout_s:.0f}s"),
            timeout_s=timeout_s,
        )

    def rollback(self, name: str, revision: int, *, timeout_s: float) -> None:
        """Makes a release what it was at an earlier revision; its pods are not waited for.

        Raises:
            RolloutError: helm failed.
        """
        self._run("rollback", name, str(revision), "--no-hooks", f"--timeout={timeout_s:.0f}s", timeout_s=timeout_s)

    def _run(self, *arguments: str, timeout_s: float = _ANSWER_S) -> str:
        command = [self.program, *arguments, f"--namespace={self.namespace}"]
        what = f"`helm {arguments[0]} {arguments[1]}`"
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it in order
            )
        except OSError as err:
            raise SettingsError(
                f"`{self.program}` cannot be run: {err.strerror}", hint="install helm 3 or 4, or name it by --helm"
            ) from err
        try:
            output, errors = process.communicate(timeout=timeout_s + _ANSWER_S)
        except subprocess.TimeoutExpired as err:
            raise RolloutError(f"{what} did not end within {timeout_s + _ANSWER_S:.0f} s") from err
        finally:
            with process:  # closes its pipes
                _end(process)
        if process.returncode:
            raise RolloutError(f"{what} failed: {_last_words(errors)}")
        return output


def _end(process: subprocess.Popen[str]) -> None:
    """Has helm take note that it is to stop, which it does; a release would be pending for ever otherwise."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                continue


def _escaped(value: str) -> str:
    """For --set-string, whose values end at a comma."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _last_words(errors: str) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("Error: ")] or lines[-1:] or ["it said nothing"]
    return said[-1].removeprefix("Error: ")
