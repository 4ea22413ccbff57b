"""The charts with their dependencies: `python -m manifests.charts build FOLDER | package FOLDER`.

The umbrella names its parts as `file://` dependencies, and helm wants them as archives in its folder `charts/`. They
are never committed: they are made in a copy, so that two builds at once cannot meet.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from manifests.tools import helm
from streetvision import atomic
from streetvision.errors import SettingsError, StreetvisionError

CHARTS = Path(__file__).parents[1] / "charts"
UMBRELLA = "streetvision"


def build(folder: Path, *, source: Path = CHARTS) -> Path:
    """The folder, now a copy of all charts that helm can install without a registry.

    Args:
        folder: new, or of an earlier build.
        source: the charts.

    Raises:
        SettingsError: helm refused, as where the umbrella asks for another version of a part than there is.
    """
    with atomic.directory(folder, replaces=f"{UMBRELLA}/Chart.yaml") as fresh:
        shutil.copytree(source, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns("charts", "*.tgz"))
        _helm("dependency", "build", "--skip-refresh", str(fresh / UMBRELLA))
    return folder


def package(folder: Path) -> list[Path]:
    """The archives of all charts in the folder, as a registry takes them by `helm push`.

    Raises:
        SettingsError: helm refused.
    """
    built = build(folder / "build")
    for chart in sorted(path.parent for path in built.glob("*/Chart.yaml")):
        _helm("package", str(chart), "--destination", str(folder))
    shutil.rmtree(built)
    return sorted(folder.glob("*.tgz"))


def _helm(*arguments: str) -> None:
    done = subprocess.run([str(helm()), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SettingsError(
            f"helm refused: {done.stderr.strip()}",
            hint="the umbrella's Chart.yaml names the versions of its parts: those of their own Chart.yaml",
        )


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 well, 2 helm refused."""
    parser = argparse.ArgumentParser(prog="python -m manifests.charts", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("build", "copies the charts, dependencies included"), ("package", "writes their archives")):
        command = commands.add_parser(name, help=what)
        command.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    try:
        made = [build(arguments.folder)] if arguments.command == "build" else package(arguments.folder)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2 if isinstance(err, ValueError) else 1
    print("\n".join(map(str, made)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
