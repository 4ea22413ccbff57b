"""What a real Kubeflow asks of a compiled pipeline, beyond what kfp's compiler and local runner ask.

Everything is read from the intermediate representation, the YAML that is committed. A rule yields one sentence for each
thing that it finds; `complaints` is all of them.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pipelines import placement
from pipelines.parameters import LARGEST

Json = dict[str, Any]

GPU_STEPS = ("synthesize", "train")
# A parameter that a step takes, and the environment that it then needs from Secrets.
SECRETS = {
    "models_uri": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"},
    "tracking_uri": {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"},
    "hub": {"HF_TOKEN"},
}
_CREDENTIAL = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)", re.IGNORECASE)
_IMAGE = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?/[a-z0-9._/-]+(:(?P<tag>[\w.-]+)|@sha256:[0-9a-f]{64})")
_HERE = re.compile(r"~|\.{1,2}/|file:|sqlite:")
_UNTYPED = {"list", "dict", "List", "Dict", "Mapping", "Sequence"}
_LEAST_SHARED_MIB = 1024  # a loader's batches are handed over there; a container has 64 MiB of its own
_LEAST_TRIES = 5


@dataclass(frozen=True)
class Step:
    """One task that runs a container, in whatever part of the pipeline.

    Attributes:
        name: of the task.
        task: how it is called.
        component: what it takes and gives.
        container: what runs.
        platform: what Kubernetes adds.
    """

    name: str
    task: Json
    component: Json
    container: Json
    platform: Json

    @property
    def parameters(self) -> set[str]:
        """Names of what it takes."""
        return set(self.component.get("inputDefinitions", {}).get("parameters", {}))

    @property
    def secrets(self) -> set[str]:
        """Names of the environment that comes from Secrets."""
        given = self.platform.get("secretAsEnv", [])
        return {pair["envVar"] for secret in given for pair in secret["keyToEnv"]}

    @property
    def environment(self) -> dict[str, str]:
        """Environment that is written into the pipeline."""
        return {one["name"]: one["value"] for one in self.container.get("env", [])}

    @property
    def mounts(self) -> dict[str, str]:
        """Claims by the folder that they are mounted at."""
        return {one["mountPath"]: one.get("constant", "") for one in self.platform.get("pvcMount", [])}

    @property
    def function(self) -> ast.FunctionDef:
        """What the step runs, as kfp wrote it into the command."""
        (name,) = self.container["args"][self.container["args"].index("--function_to_execute") + 1 :]
        module = ast.parse(self.container["command"][-1])
        return next(node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name)


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline: its two documents, the second empty where no step asks for anything of Kubernetes."""

    specification: Json
    platform: Json

    @classmethod
    def read(cls, path: Path) -> "Compiled":
        specification, platform = (*yaml.safe_load_all(path.read_text()), {})[:2]
        return cls(specification, platform)

    @cached_property
    def steps(self) -> list[Step]:
        """Every task of every part that runs a container."""
        components, deployed = self.specification["components"], self.specification["deploymentSpec"]["executors"]
        kubernetes = self.platform.get("platforms", {}).get("kubernetes", {})
        platforms = kubernetes.get("deploymentSpec", {}).get("executors", {})
        steps: list[Step] = []
        for part in (self.specification["root"], *components.values()):
            for name, task in part.get("dag", {}).get("tasks", {}).items():
                component = components[task["componentRef"]["name"]]
                label = component.get("executorLabel", "")
                if container := deployed.get(label, {}).get("container"):
                    steps.append(Step(name, task, component, container, platforms.get(label, {})))
        return steps


def complaints(compiled: Compiled) -> list[str]:
    """What a real backend would refuse, or do other than meant."""
    return [sentence for rule in RULES for sentence in rule(compiled)]


def no_local_path(compiled: Compiled) -> Iterator[str]:
    mounts = {mount for step in compiled.steps for mount in step.mounts}
    for where, value in _values(compiled):
        if not isinstance(value, str):
            continue
        path = PurePosixPath(value)
        if _HERE.match(value) or (path.is_absolute() and not any(path.is_relative_to(mount) for mount in mounts)):
            yield f"{where} is the path `{value}`, which no step has"
    text = yaml.safe_dump([compiled.specification, compiled.platform])
    for folder in {str(Path.home()), str(Path(__file__).parents[2])}:
        if f"{folder}/" in text:
            yield f"it holds `{folder}`, a folder of this machine"


def every_image_by_its_full_name(compiled: Compiled) -> Iterator[str]:
    for step in compiled.steps:
        image = step.container["image"]
        found = _IMAGE.fullmatch(image)
        if not found or found["tag"] == "latest":
            yield f"{step.name}: the image `{image}` names no registry, or no one version"


def every_list_typed(compiled: Compiled) -> Iterator[str]:
    # an untyped list reaches ParallelFor as text, which the real driver refuses and the local runner does not
    for step in compiled.steps:
        arguments = step.function.args
        annotations = [one.annotation for one in (*arguments.args, *arguments.kwonlyargs)]
        for annotation in (*annotations, step.function.returns):
            if annotation and (name := _untyped(annotation)):
                yield f"{step.name}: `{name}` does not say of what"


def every_artifact_typed(compiled: Compiled) -> Iterator[str]:
    given = {(step.name, name): kind for step in compiled.steps for name, kind in _artifacts(step, "output").items()}
    for step in compiled.steps:
        for name, kind in (_artifacts(step, "input") | _artifacts(step, "output")).items():
            if not kind:
                yield f"{step.name}: the artifact `{name}` has no type"
        wanted = _artifacts(step, "input")
        for name, source in step.task.get("inputs", {}).get("artifacts", {}).items():
            producer = source.get("taskOutputArtifact")
            kind = given.get((producer["producerTask"], producer["outputArtifactKey"])) if producer else None
            if kind and wanted.get(name) not in (kind, "system.Artifact"):
                yield f"{step.name}: `{name}` is a {wanted.get(name)}, and what comes is a {kind}"


def no_large_parameter(compiled: Compiled) -> Iterator[str]:
    for where, value in _values(compiled):
        if (length := len(value if isinstance(value, str) else yaml.safe_dump(value))) > LARGEST:
            yield f"{where} has {length:,} characters"


def every_secret_by_reference(compiled: Compiled) -> Iterator[str]:
    for step in compiled.steps:
        for name in step.environment:
            if _CREDENTIAL.search(name):
                yield f"{step.name}: `{name}` is written into the pipeline"
        for parameter, wanted in SECRETS.items():
            if parameter in step.parameters and (missing := wanted - step.secrets):
                yield f"{step.name}: it takes `{parameter}` and lacks {', '.join(sorted(missing))}"
        for secret in step.platform.get("secretAsEnv", []):
            if not secret.get("optional"):
                yield f"{step.name}: without Secret `{secret['secretName']}` it never starts"


def every_step_as_nobody(compiled: Compiled) -> Iterator[str]:
    for step in compiled.steps:
        settings = step.platform.get("securityContext", {})
        if not (settings.get("runAsNonRoot") and int(settings.get("runAsUser", 0)) > 0):
            yield f"{step.name}: Pod Security `restricted` refuses it, as it may run as root"


def every_step_tries_again(compiled: Compiled) -> Iterator[str]:
    # the backend tries again where a node fails; where the program does, nobody but the program
    for step in compiled.steps:
        if not step.task.get("retryPolicy", {}).get("maxRetryCount"):
            yield f"{step.name}: where its node fails, it is not run again"
        tries = step.environment.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        if "tracking_uri" in step.parameters and int(tries) < _LEAST_TRIES:
            yield f"{step.name}: it asks MLflow again {tries} times, expected {_LEAST_TRIES} or more"


def no_effect_from_cache(compiled: Compiled) -> Iterator[str]:
    for step in compiled.steps:
        cached = step.task.get("cachingOptions", {}).get("enableCache", False)
        if cached and "tracking_uri" in step.parameters:
            yield f"{step.name}: it depends on the registry, and is answered from the cache"
        if "code_version" not in step.task.get("inputs", {}).get("parameters", {}):
            yield f"{step.name}: other code has the same cache key"


def every_gpu_step_on_gpus(compiled: Compiled) -> Iterator[str]:
    for step in compiled.steps:
        kind = step.container.get("resources", {}).get("accelerator", {}).get("resourceType")
        if step.name not in GPU_STEPS:
            if kind:
                yield f"{step.name}: it holds a GPU and does not use it"
            continue
        if kind != placement.GPU:
            yield f"{step.name}: it asks for no GPU"
        if "nodeSelectorJson" not in step.platform.get("nodeSelector", {}):
            yield f"{step.name}: a run cannot choose its nodes"
        if not any(one.get("key") == placement.GPU for one in step.platform.get("tolerations", [])):
            yield f"{step.name}: nodes with GPUs refuse it"
        shared = [one for one in step.platform.get("emptyDirMounts", []) if one["mountPath"] == "/dev/shm"]
        if not any(one.get("medium") == "Memory" and _mib(one["sizeLimit"]) >= _LEAST_SHARED_MIB for one in shared):
            yield f"{step.name}: its loaders share less than {_LEAST_SHARED_MIB} MiB"


def every_workspace_mounted(compiled: Compiled) -> Iterator[str]:
    parameters = compiled.specification["root"].get("inputDefinitions", {}).get("parameters", {})
    default = parameters.get("workspace", {}).get("defaultValue")
    for step in compiled.steps:
        if "workspace" in step.parameters and step.mounts.get(default) != placement.WORKSPACE_CLAIM:
            yield f"{step.name}: what it keeps in `{default}` is gone with its pod"


def every_step_limited(compiled: Compiled) -> Iterator[str]:
    wanted = {f"resource{what}{bound}" for what in ("Cpu", "Memory") for bound in ("Request", "Limit")}
    for step in compiled.steps:
        if missing := wanted - set(step.container.get("resources", {})):
            yield f"{step.name}: it has no {', '.join(sorted(missing))}"


RULES: tuple[Callable[[Compiled], Iterator[str]], ...] = (
    no_local_path,
    every_image_by_its_full_name,
    every_list_typed,
    every_artifact_typed,
    no_large_parameter,
    every_secret_by_reference,
    every_step_as_nobody,
    every_step_tries_again,
    no_effect_from_cache,
    every_gpu_step_on_gpus,
    every_workspace_mounted,
    every_step_limited,
)


def _values(compiled: Compiled) -> Iterator[tuple[str, Any]]:
    """Defaults of parameters, and constants that tasks are called with."""
    for part in (compiled.specification["root"], *compiled.specification["components"].values()):
        for name, parameter in part.get("inputDefinitions", {}).get("parameters", {}).items():
            if "defaultValue" in parameter:
                yield f"the default of `{name}`", parameter["defaultValue"]
        for task, call in part.get("dag", {}).get("tasks", {}).items():
            for name, source in call.get("inputs", {}).get("parameters", {}).items():
                if "runtimeValue" in source:
                    yield f"{task}: `{name}`", source["runtimeValue"]["constant"]
    for step in compiled.steps:
        for name, value in step.environment.items():
            yield f"{step.name}: environment `{name}`", value


def _artifacts(step: Step, side: str) -> dict[str, str]:
    artifacts = step.component.get(f"{side}Definitions", {}).get("artifacts", {})
    return {name: one.get("artifactType", {}).get("schemaTitle", "") for name, one in artifacts.items()}


def _untyped(annotation: ast.expr) -> str | None:
    inside = {id(node.value) for node in ast.walk(annotation) if isinstance(node, ast.Subscript)}
    for node in ast.walk(annotation):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
        if name in _UNTYPED and id(node) not in inside:
            return name
    return None


def _mib(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]
