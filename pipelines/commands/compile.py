"""`python -m pipelines compile`: writes the compiled pipelines, or says which are stale."""

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipelines import catalogue
from streetvision import atomic


def add(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("compile", help="write pipelines/compiled/*.yaml")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a committed file is stale")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes, or with `--check` compares; 1 where something is stale."""
    stale: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, fresh in catalogue.compile_into(Path(folder)).items():
            committed = catalogue.COMPILED / fresh.name
            if not arguments.check:
                atomic.write_bytes(committed, fresh.read_bytes())
                sys.stdout.write(f"{committed}\n")
            elif not (committed.is_file() and filecmp.cmp(fresh, committed, shallow=False)):
                stale.append(name)
    for name in stale:
        sys.stderr.write(f"`{catalogue.COMPILED.name}/{name}.yaml` is stale: run `make compile`\n")
    return 1 if stale else 0
