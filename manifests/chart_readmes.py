"""Each chart's README.md, written from its Chart.yaml, README.head.md and the comments in its values.yaml.

`python -m manifests.chart_readmes [--check]`. A value is described by the comment above it that begins with `# --`; a
block under such a comment, with none inside, is one value.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from manifests.charts import CHARTS
from streetvision import atomic
from streetvision.errors import SettingsError, StreetvisionError

_TYPES = {"bool": "bool", "int": "int", "float": "float", "str": "string", "list": "list", "dict": "object"}


@dataclass(frozen=True, slots=True)
class Value:
    """One row of the table."""

    key: str
    default: Any
    description: str


def values(text: str, *, where: str = "values.yaml") -> list[Value]:
    """Every value of a values.yaml with what its comment says, in the order of the file.

    Raises:
        SettingsError: a value has no comment, or the file is no mapping.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"`{where}` is no mapping")
    return list(_values(root, (), text.splitlines(), where))


def _values(node: yaml.MappingNode, path: tuple[str, ...], lines: list[str], where: str) -> Iterator[Value]:
    for key_node, value_node in node.value:
        key = (*path, str(key_node.value))
        comment = _comment(lines, key_node.start_mark.line)
        inside = isinstance(value_node, yaml.MappingNode) and not value_node.flow_style and bool(value_node.value)
        if inside and (comment is None or _documented(value_node, lines)):
            yield from _values(value_node, key, lines, where)
        elif comment is None:
            raise SettingsError(
                f"`{'.'.join(key)}` in line {key_node.start_mark.line + 1} of `{where}` has no comment",
                hint="write a line `# -- what it is` above it",
            )
        else:
            yield Value(".".join(key), yaml.SafeLoader("").construct_document(value_node), comment)


def _documented(node: yaml.MappingNode, lines: list[str]) -> bool:
    return any(
        _comment(lines, key.start_mark.line) is not None
        or (isinstance(value, yaml.MappingNode) and not value.flow_style and _documented(value, lines))
        for key, value in node.value
    )


def _comment(lines: list[str], line: int) -> str | None:
    """What stands above the line from the last `# --` on."""
    words: list[str] = []
    for above in reversed(lines[:line]):
        text = above.strip()
        if not text.startswith("#"):
            return None
        text = text.removeprefix("#").strip()
        if text.startswith("--"):
            return " ".join([text.removeprefix("--").strip(), *words])
        words.insert(0, text)
    return None


def readme(folder: Path) -> str:
    """The README of the chart in that folder.

    Raises:
        SettingsError: one of its values has no comment.
    """
    chart = yaml.safe_load((folder / "Chart.yaml").read_text())
    head = folder / "README.head.md"
    file = folder / "values.yaml"
    rows = values(file.read_text(), where=f"{folder.name}/values.yaml")
    parts = [
        "<!-- Written by `python -m manifests.chart_readmes` from values.yaml, Chart.yaml and README.head.md. -->",
        f"# {chart['name']}",
        chart["description"],
        f"Version {chart['version']}, for Kubernetes {chart['kubeVersion'].removesuffix('-0')}, helm 3 and 4.",
        *([head.read_text().strip()] if head.exists() else []),
    ]
    if dependencies := chart.get("dependencies"):
        parts += [
            "## Parts",
            _table(
                ("chart", "version", "installed where"),
                [
                    (f"[{d['name']}](../{d['name']}/README.md)", d["version"], f"`{d['condition']}`")
                    for d in dependencies
                ],
            ),
        ]
    parts += [
        "## Values",
        _table(
            ("key", "type", "default", "description"),
            [(f"`{row.key}`", _TYPES[type(row.default).__name__], _code(row.default), row.description) for row in rows],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Writes what is stale; returns 0, or with `--check` 1 where something is, or 2 for a value without a comment."""
    parser = argparse.ArgumentParser(prog="python -m manifests.chart_readmes", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a README is stale")
    arguments = parser.parse_args(argv)
    stale: list[Path] = []
    try:
        for folder in sorted(path.parent for path in CHARTS.glob("*/Chart.yaml")):
            file, fresh = folder / "README.md", readme(folder)
            if not file.exists() or file.read_text() != fresh:
                stale.append(file)
                if not arguments.check:
                    atomic.write_text(file, fresh)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    for file in stale:
        print(f"{'stale' if arguments.check else 'written'}: {file}")
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
