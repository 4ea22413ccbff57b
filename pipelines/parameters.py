"""A pipeline's parameters: read from options and files, checked before anything is started."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from components import images
from pipelines import versions
from streetvision.data.procedural import ProceduralSource
from streetvision.errors import SettingsError
from streetvision.models.presets import PRESETS

LARGEST = 10_000  # characters of one parameter: Kubeflow keeps them in Kubernetes objects, and 70 kB failed there

_KINDS: dict[str, tuple[type, ...]] = {
    "Integer": (int,),
    "Float": (float, int),
    "Boolean": (bool,),
    "Dict": (dict,),
    "List": (list,),
}


def read_settings(texts: Sequence[str]) -> dict[str, str]:
    """The values of `NAME=VALUE` options, as text.

    Raises:
        SettingsError: one has no `=`.
    """
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals:
            raise SettingsError(f"`--set {name}` has no `=`, expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises:
        SettingsError: the file is missing, or holds something else.
    """
    document = read_yaml(path)
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in cast(dict[Any, Any], document)):
        raise SettingsError(f"`{path}` holds no parameters, expected a mapping of names to values")
    return cast(dict[str, Any], document)


def read_yaml(path: Path) -> Any:
    """The one document in a YAML or JSON file.

    Raises:
        SettingsError: the file is missing or neither of the two.
    """
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as err:
        raise SettingsError(f"`{path}` cannot be read: {err}") from err
    except yaml.YAMLError as err:
        raise SettingsError(f"`{path}` is neither YAML nor JSON: {' '.join(str(err).split())}") from err


def for_cluster(given: Mapping[str, Any]) -> dict[str, Any]:
    """These parameters and those that a cluster's run takes from here where they are not given.

    Raises:
        SettingsError: `data_fingerprint` is not given and the pictures cannot be seen from here.
    """
    filled = {
        "source": "procedural",
        "code_version": versions.image_version(tag=images.TAG),
        "git_sha": versions.git_sha(),
        "hub": "",
        **given,
    }
    if "data_fingerprint" not in filled and filled["source"] != "procedural":
        raise SettingsError(
            f"pictures come from `{filled['source']}`, which only the cluster sees, and `data_fingerprint` is missing",
            hint="set it to any text that changes when they do; in a schedule "
            "`[[ScheduledTime]]` reads them anew at every run",
        )
    return filled


def typed(pipeline: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the types that the pipeline declares, defaults filled in.

    Args:
        pipeline: a `dsl.pipeline`.
        given: text from options, or values of the right type from a file.

    Raises:
        SettingsError: a name is unknown, or a value is of another type or too large.
    """
    declared = pipeline.component_spec.inputs
    if unknown := sorted(set(given) - set(declared)):
        raise SettingsError(
            f"pipeline has no parameter `{unknown[0]}`, expected one of {', '.join(f'`{name}`' for name in declared)}"
        )
    values = {name: specification.default for name, specification in declared.items() if specification.optional}
    return values | {name: _value(name, value, declared[name].type) for name, value in given.items()}


def complete(pipeline: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a run on a cluster, checked; a procedural source's fingerprint is filled in.

    Raises:
        SettingsError: one is missing, unknown, of another type, or refused by the step that takes it.
    """
    values = typed(pipeline, for_cluster(given))
    check(values)
    if values["source"] == "procedural":
        pictures = ProceduralSource(scenes=values["scenes"], seed=values["seed"])
        values = {"data_fingerprint": pictures.fingerprint(), **values}
    if missing := [name for name in pipeline.component_spec.inputs if name not in values]:
        raise SettingsError(
            f"parameter {', '.join(f'`{name}`' for name in missing)} is missing",
            hint="give it by `--set NAME=VALUE`, in the file of `--parameters`, or in the schedule",
        )
    return values


def check(values: Mapping[str, Any]) -> None:
    """Refuses at once what a step would refuse minutes later.

    Raises:
        SettingsError: a value is out of its range.
    """
    if values["preset"] not in PRESETS:
        known = ", ".join(f"`{name}`" for name in PRESETS)
        raise SettingsError(f"preset is `{values['preset']}`, expected one of {known}")
    for name, least in (("views", 1), ("scenes", 1), ("challenges", 101), ("seed", 0)):
        if values[name] < least:
            raise SettingsError(f"parameter `{name}` is {values[name]}, expected at least {least}")
    if values["gpus"] and not values["gpus"].isdecimal():
        raise SettingsError(f"parameter `gpus` is `{values['gpus']}`, expected a number, or nothing for none")
    labels = values["node_selector"]
    if not all(isinstance(value, str) for value in labels.values()):
        raise SettingsError(f"parameter `node_selector` is {labels}, expected labels with text values")


def _value(name: str, value: Any, declared: str) -> Any:
    kind = declared.partition("[")[0]
    refused = SettingsError(f"parameter `{name}` is `{value}`, expected {declared}")
    if isinstance(value, str) and kind != "String":
        try:
            value = _FROM_TEXT[kind](value)
        except (KeyError, ValueError) as err:
            raise refused from err
    allowed = _KINDS.get(kind, (str,))
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise refused
    if isinstance(value, (int, float)) and not math.isfinite(value):
        raise refused
    if (length := len(value if isinstance(value, str) else json.dumps(value))) > LARGEST:
        raise SettingsError(
            f"parameter `{name}` has {length:,} characters, expected at most {LARGEST:,}",
            hint="pass the address of a file instead",
        )
    return float(value) if kind == "Float" else value


_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "Integer": int,
    "Float": float,
    "Boolean": lambda text: {"true": True, "false": False}[text.lower()],
    "Dict": json.loads,
    "List": json.loads,
}
