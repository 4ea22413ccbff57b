"""The gate's policy as a file: YAML with the fields of `Policy`."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from streetvision.errors import SettingsError
from streetvision.registry.decision import Policy

_HINT = f"a policy is lines such as `min_gain: 0.01`; its fields are {', '.join(Policy.model_fields)}"


def read_policy(path: Path) -> Policy:
    """The policy in the file at `path`; what it leaves out is as by default.

    Raises:
        SettingsError: no YAML mapping there, a field twice or unknown, or a value of another type or out of range.
    """
    try:
        node, values = _parse(path.read_text())
    except (OSError, UnicodeDecodeError) as err:
        raise SettingsError(f"cannot read policy `{path}`: {err}") from err
    except yaml.YAMLError as err:
        raise SettingsError(f"policy `{path}` is no YAML: {' '.join(str(err).split())}", hint=_HINT) from err
    if values is None:  # nothing, or comments only
        return Policy()
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError(f"policy `{path}` is a {type(values).__name__}, expected fields and values", hint=_HINT)
    names = Counter(key.value for key, _ in node.value)
    if twice := [name for name, count in names.items() if count > 1]:
        raise SettingsError(f"policy `{path}` has `{twice[0]}` {names[twice[0]]} times, expected one")
    try:
        return Policy.model_validate({str(name): value for name, value in values.items()}, strict=True)
    except ValidationError as err:
        raise SettingsError(f"policy `{path}`: {_sentence(err)}", hint=_HINT) from err


def _parse(text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes, in which a field that stands there twice still does, and the values."""
    return yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)


def _sentence(err: ValidationError) -> str:
    problem = err.errors()[0]
    field = problem["loc"][0]
    if problem["type"] == "extra_forbidden":
        return f"there is no field `{field}`"
    expected = problem["msg"].removeprefix("Input should be ")
    return f"`{field}` is `{problem['input']}`, expected {expected}"
