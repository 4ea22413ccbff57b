"""The compiled pipelines are what a real Kubeflow takes; each rule of `ir` finds what breaks it."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl

from pipelines.catalogue import COMPILED, PIPELINES
from tests.pipelines.ir import RULES, Compiled, complaints

RETRAIN = Compiled.read(COMPILED / "retrain.yaml")
UNTYPED = ("List", "Dict", "List[", "Dict[")


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_a_real_backend_has_nothing_to_complain_of(name: str):
    assert complaints(Compiled.read(COMPILED / f"{name}.yaml")) == []


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_every_list_and_mapping_that_a_run_is_given_is_typed(name: str):
    # their types are gone from what is compiled: it says LIST or STRUCT in any case
    assert not [key for key, one in PIPELINES[name].component_spec.inputs.items() if one.type in UNTYPED]


Break = Callable[[Any, Any], None]


def step(specification: Any, name: str) -> Any:
    return specification["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def task(specification: Any, name: str) -> Any:
    return specification["root"]["dag"]["tasks"][name]


def added(platform: Any, name: str) -> Any:
    return platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{name}"]


def default(specification: Any, name: str, value: Any) -> None:
    specification["root"]["inputDefinitions"]["parameters"][name]["defaultValue"] = value


def artifact(specification: Any, component: str, side: str, name: str) -> Any:
    return specification["components"][f"comp-{component}"][f"{side}Definitions"]["artifacts"][name]["artifactType"]


def source(specification: Any, name: str, old: str, new: str) -> None:
    command = step(specification, name)["command"]
    assert old in command[-1]
    command[-1] = command[-1].replace(old, new, 1)


MUTATIONS: dict[str, tuple[Break, str]] = {
    "a default is a folder of a laptop": (
        lambda spec, _: default(spec, "workspace", "/home/ada/.streetvision"),
        "the default of `workspace` is the path `/home/ada/.streetvision`, which no step has",
    ),
    "a default is a database beside the program": (
        lambda spec, _: default(spec, "tracking_uri", "sqlite:///mlflow.db"),
        "the default of `tracking_uri` is the path `sqlite:///mlflow.db`, which no step has",
    ),
    "a step is called with a path": (
        lambda spec, _: task(spec, "data")["inputs"]["parameters"].update(
            source={"runtimeValue": {"constant": "./photos"}}
        ),
        "data: `source` is the path `./photos`, which no step has",
    ),
    "a step's program names a folder of this machine": (
        lambda spec, _: source(spec, "data", "build(", f"build('{Path.home()}/photos', "),
        f"it holds `{Path.home()}`, a folder of this machine",
    ),
    "an image without its registry": (
        lambda spec, _: step(spec, "push").update(image="streetvision/pipeline-cpu:0.1.0"),
        "push: the image `streetvision/pipeline-cpu:0.1.0` names no registry, or no one version",
    ),
    "an image of whatever version": (
        lambda spec, _: step(spec, "push").update(image="docker.io/streetvision/pipeline-cpu:latest"),
        "push: the image `docker.io/streetvision/pipeline-cpu:latest` names no registry, or no one version",
    ),
    "an untyped list": (
        lambda spec, _: source(spec, "data", "source: str", "source: list"),
        "data: `list` does not say of what",
    ),
    "an untyped artifact": (
        lambda spec, _: artifact(spec, "data", "output", "manifest").clear(),
        "data: the artifact `manifest` has no type",
    ),
    "an artifact of another type than what comes": (
        lambda spec, _: artifact(spec, "train", "input", "manifest").update(schemaTitle="system.Model"),
        "train: `manifest` is a system.Model, and what comes is a system.Dataset",
    ),
    "a large parameter": (
        lambda spec, _: default(spec, "source", "x" * 70_000),
        "the default of `source` has 70,000 characters",
    ),
    "a key in plain sight": (
        lambda spec, _: step(spec, "push")["env"].append({"name": "HF_TOKEN", "value": "hf_x"}),
        "push: `HF_TOKEN` is written into the pipeline",
    ),
    "no keys of the object store": (
        lambda _, platform: added(platform, "evaluate")["secretAsEnv"].pop(0),
        "evaluate: it takes `models_uri` and lacks "
        "AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, AWS_SECRET_ACCESS_KEY",
    ),
    "a Secret that every cluster must have": (
        lambda _, platform: added(platform, "data")["secretAsEnv"][0].pop("optional"),
        "data: without Secret `streetvision-object-store` it never starts",
    ),
    "a step that may be root": (
        lambda _, platform: added(platform, "train")["securityContext"].pop("runAsNonRoot"),
        "train: Pod Security `restricted` refuses it, as it may run as root",
    ),
    "a step that is not run again": (
        lambda spec, _: task(spec, "train").pop("retryPolicy"),
        "train: where its node fails, it is not run again",
    ),
    "a step that does not try again itself": (
        lambda spec, _: step(spec, "push").pop("env"),
        "push: it asks MLflow again 0 times, expected 5 or more",
    ),
    "a push answered from the cache": (
        lambda spec, _: task(spec, "push")["cachingOptions"].update(enableCache=True),
        "push: it depends on the registry, and is answered from the cache",
    ),
    "a cache that does not see the code": (
        lambda spec, _: task(spec, "train")["inputs"]["parameters"].pop("code_version"),
        "train: other code has the same cache key",
    ),
    "a training without a GPU": (
        lambda spec, _: step(spec, "train")["resources"].pop("accelerator"),
        "train: it asks for no GPU",
    ),
    "a GPU that nobody uses": (
        lambda spec, _: step(spec, "push")["resources"].update(accelerator={"resourceType": "nvidia.com/gpu"}),
        "push: it holds a GPU and does not use it",
    ),
    "a training on any node": (
        lambda _, platform: added(platform, "train").pop("nodeSelector"),
        "train: a run cannot choose its nodes",
    ),
    "a training that GPU nodes refuse": (
        lambda _, platform: added(platform, "train").pop("tolerations"),
        "train: nodes with GPUs refuse it",
    ),
    "little shared memory": (
        lambda _, platform: added(platform, "train")["emptyDirMounts"][0].update(sizeLimit="128Mi"),
        "train: its loaders share less than 1024 MiB",
    ),
    "a workspace that is gone with the pod": (
        lambda _, platform: added(platform, "evaluate").pop("pvcMount"),
        "evaluate: what it keeps in `/workspace` is gone with its pod",
    ),
    "a step that may take the whole node": (
        lambda spec, _: step(spec, "data")["resources"].pop("resourceMemoryLimit"),
        "data: it has no resourceMemoryLimit",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_found(name: str):
    mutate, sentence = MUTATIONS[name]
    specification, platform = deepcopy((RETRAIN.specification, RETRAIN.platform))
    mutate(specification, platform)
    assert sentence in complaints(Compiled(specification, platform))


def test_every_rule_finds_something():
    found: set[str] = set()
    for mutate, _ in MUTATIONS.values():
        specification, platform = deepcopy((RETRAIN.specification, RETRAIN.platform))
        mutate(specification, platform)
        found |= {rule.__name__ for rule in RULES if list(rule(Compiled(specification, platform)))}
    assert found == {rule.__name__ for rule in RULES}


def test_an_untyped_list_in_a_loop_is_found_where_the_compiler_takes_it(tmp_path: Path):
    path = tmp_path / "loops.yaml"
    compiler.Compiler().compile(loops, str(path))
    assert "numbers: `list` does not say of what" in complaints(Compiled.read(path))
    assert "double: Pod Security `restricted` refuses it, as it may run as root" in complaints(Compiled.read(path))


@dsl.component(base_image="docker.io/streetvision/pipeline-cpu:0.1.0", install_kfp_package=False)
def numbers() -> list:
    return [1, 2]


@dsl.component(base_image="docker.io/streetvision/pipeline-cpu:0.1.0", install_kfp_package=False)
def double(number: int) -> int:
    return 2 * number


@dsl.pipeline(name="loops")
def loops():
    with dsl.ParallelFor(numbers().output) as number:
        double(number=number)
