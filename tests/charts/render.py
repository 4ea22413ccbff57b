"""Charts as helm renders them, and the typed Kubernetes objects in what it renders."""

import atexit
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import yaml
from kubernetes import client

from manifests.charts import CHARTS, UMBRELLA, build
from manifests.tools import helm

NAMES = ("mlflow", "predictor", "miner", "pipelines", "monitoring", "streetvision")
NAMESPACE = "streetvision"
RELEASE = "sv"

Model = TypeVar("Model")
Object = dict[str, Any]
_api = client.ApiClient()


class RenderError(Exception):
    """helm refused to render; the text is its own."""


@dataclass(frozen=True)
class Rendered:
    """The objects of one release, hooks and tests included."""

    objects: tuple[Object, ...]
    notes: str = ""

    def __iter__(self) -> Iterator[Object]:
        return iter(self.objects)

    def of(self, kind: str) -> list[Object]:
        """Every object of this kind, in the order of the output."""
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        """The only object of this kind (and name)."""
        found = [one for one in self.of(kind) if name in (None, one["metadata"]["name"])]
        assert len(found) == 1, (
            f"{len(found)} objects {kind} {name or ''} of {[o['metadata']['name'] for o in self.of(kind)]}"
        )
        return found[0]

    def typed(self, model: type[Model], name: str | None = None) -> Model:
        """The only object of the kind that `model` stands for, such as `client.V1Deployment`."""
        return as_model(self.one(model.__name__.removeprefix("V1").removeprefix("V2"), name), model)


def as_model(value: Object, model: type[Model]) -> Model:
    """The object as the Kubernetes client's class."""
    return _api.deserialize(SimpleNamespace(data=json.dumps(value)), model.__name__)


def render(
    chart: str,
    values: Mapping[str, Any] | None = None,
    *,
    files: tuple[Path, ...] = (),
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    major: Literal[3, 4] = 4,
    api_versions: tuple[str, ...] = ("serving.kserve.io/v1beta1", "monitoring.coreos.com/v1"),
    flags: tuple[str, ...] = (),
) -> Rendered:
    """What `helm template` makes of a chart with these values files and, over them, these values.

    Raises:
        RenderError: helm refused; its text says why.
    """
    command = [str(helm(major)), "template", release, str(folder(chart)), "--namespace", namespace, *flags]
    for version in api_versions:
        command += ["--api-versions", version]
    for file in files:
        command += ["--values", str(file)]
    done = subprocess.run(
        [*command, "--values", "-"],
        input=yaml.safe_dump(dict(values or {})),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RenderError(done.stderr)
    return Rendered(tuple(one for one in yaml.safe_load_all(done.stdout) if one))


def folder(chart: str) -> Path:
    """Where helm finds the chart, its dependencies built."""
    return _built() / chart if chart == UMBRELLA else CHARTS / chart


@cache
def _built() -> Path:
    scratch = Path(tempfile.mkdtemp(prefix="streetvision-charts-"))  # of this process: parallel tests cannot meet
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return build(scratch / "charts")


@cache
def scenarios(chart: str) -> tuple[Path, ...]:
    """The chart's `ci/*-values.yaml`: every supported way to install it."""
    return tuple(sorted((CHARTS / chart / "ci").glob("*-values.yaml")))
