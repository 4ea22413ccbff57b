"""Every chart in every supported way, rendered once for all tests."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from manifests.charts import CHARTS, UMBRELLA
from tests.charts.render import NAMES, Object, Rendered, render, scenarios

PROFILES = tuple(CHARTS / UMBRELLA / f"values-{name}.yaml" for name in ("kind", "gpu"))


@dataclass(frozen=True, order=True)
class Case:
    """A chart and the values it is installed with; what a person must name lies below a profile."""

    chart: str
    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Values files, the later over the earlier."""
        return (CHARTS / UMBRELLA / "ci" / "default-values.yaml", self.file) if self.file in PROFILES else (self.file,)

    def __str__(self) -> str:
        return f"{self.chart}-{self.file.name.removesuffix('.yaml').removesuffix('-values')}"

    @property
    def arguments(self) -> list[str]:
        """The same for helm."""
        return [argument for file in self.files for argument in ("--values", str(file))]

    def rendered(self, *, release: str = "sv", major: Literal[3, 4] = 4) -> Rendered:
        """What helm makes of it."""
        return _rendered(self, release, major)

    @property
    def values(self) -> dict[str, Any]:
        """The content of the files."""
        return merged([yaml.safe_load(file.read_text()) or {} for file in self.files])


CASES = sorted(
    Case(chart, file)
    for chart in NAMES
    for file in (*scenarios(chart), *(PROFILES if chart == UMBRELLA else ()))
    if file.exists()
)


@cache
def _rendered(case: Case, release: str, major: Literal[3, 4]) -> Rendered:
    return render(case.chart, files=case.files, release=release, major=major)


def merged(values: list[dict[str, Any]]) -> dict[str, Any]:
    """The later over the earlier, as helm does it."""
    result: dict[str, Any] = {}
    for one in values:
        for key, value in one.items():
            below = result.get(key)
            result[key] = merged([below, value]) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def cases(chart: str) -> list[Case]:
    """Those of one chart."""
    return [case for case in CASES if case.chart == chart]


def pods(rendered: Rendered) -> list[tuple[str, Object, Object]]:
    """Name, metadata and spec of every pod that comes of the objects, KServe's included."""
    found = [pod for one in rendered if (pod := _pod(one)) is not None]
    runtimes = {one["metadata"]["name"]: one["spec"] for one in rendered.of("ServingRuntime")}
    return found + [_predictor(service, runtimes) for service in rendered.of("InferenceService")]


def _pod(one: Object) -> tuple[str, Object, Object] | None:
    name = f"{one['kind']} {one['metadata']['name']}"
    match one["kind"]:
        case "Pod":
            return name, one["metadata"], one["spec"]
        case "CronJob":
            template = one["spec"]["jobTemplate"]["spec"]["template"]
        case "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job":
            template = one["spec"]["template"]
        case _:
            return None
    return name, template.get("metadata", {}), template["spec"]


def _predictor(service: Object, runtimes: dict[str, Object]) -> tuple[str, Object, Object]:
    """The pod of an InferenceService as KServe merges it from the runtime and the service's own fields."""
    predictor = dict(service["spec"]["predictor"])
    model = predictor.pop("model")
    runtime = runtimes[model["runtime"]]
    main, *others = sorted(runtime["containers"], key=lambda one: one["name"] != "kserve-container")
    fields = {key: value for key, value in model.items() if key in _CONTAINER_FIELDS}
    spec = {**runtime, **predictor, "containers": [{**main, **fields}, *others]}
    name = service["metadata"]["name"]
    own = {"app": f"isvc.{name}-predictor", "component": "predictor", "serving.kserve.io/inferenceservice": name}
    metadata = {
        "labels": {**service["metadata"].get("labels", {}), **predictor.get("labels", {}), **own},
        "annotations": {**service["metadata"].get("annotations", {}), **predictor.get("annotations", {})},
    }
    return f"InferenceService {name}", metadata, spec


_CONTAINER_FIELDS = {
    "image",
    "args",
    "env",
    "resources",
    "securityContext",
    "volumeMounts",
    "readinessProbe",
    "livenessProbe",
}


def unique(objects: list[Object]) -> list[Object]:
    """Each different object once."""
    return list({json.dumps(one, sort_keys=True): one for one in objects}.values())
