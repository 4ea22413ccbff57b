"""`streetvision data`: manifests of labelled pictures."""

import argparse
from pathlib import Path

from streetvision.commands.arguments import Commands, add_command, add_group, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    data = add_group(commands, "data", "manifests of labelled pictures")
    build = add_command(data, "build", _data_build, "a manifest from a folder, a CSV or the procedural source")
    build.add_argument("source", help="`procedural`, a folder with roadwork/ and none/, or a CSV path,label[,group]")
    build.add_argument("--out", type=Path, required=True, help="the manifest's folder")
    build.add_argument("--scenes", type=int, default=575, help="scenes that the procedural source draws")


def _data_build(arguments: argparse.Namespace) -> int:
    from streetvision.data.build import build
    from streetvision.data.manifest import Manifest
    from streetvision.data.source import open_source
    from streetvision.data.summary import figures, markdown

    source = open_source(arguments.source, scenes=arguments.scenes, seed=arguments.seed)
    report = build(source, arguments.out, seed=arguments.seed)
    if arguments.json:
        rejected = [{"origin": item.origin, "reason": item.reason} for item in report.rejected]
        print_json({"version": report.version, **figures(report.counts), "rejected": rejected})
    else:
        print(markdown(Manifest.read(arguments.out), report))
    return 0
