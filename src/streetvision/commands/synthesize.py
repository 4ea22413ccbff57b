"""`streetvision synthesize`: synthetic pictures beside those of a manifest."""

import argparse
from pathlib import Path

from streetvision.commands.arguments import Commands, add_command, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    synthesize = add_command(commands, "synthesize", _synthesize, "synthetic pictures beside those of a manifest")
    synthesize.add_argument("--manifest", type=Path, required=True, help="its folder")
    synthesize.add_argument("--out", type=Path, required=True, help="the new manifest's folder")
    synthesize.add_argument("--backend", default="procedural", help="what makes the pictures")
    synthesize.add_argument("--share-t2i", type=float, default=0.25, help="share of text-to-image in every split")
    synthesize.add_argument("--share-i2i", type=float, default=0.25, help="share of image-to-image in every split")


def _synthesize(arguments: argparse.Namespace) -> int:
    from streetvision.data.manifest import Manifest
    from streetvision.data.summary import figures, markdown
    from streetvision.synthesis.backends import open_backend
    from streetvision.synthesis.run import synthesize

    report = synthesize(
        Manifest.read(arguments.manifest),
        open_backend(arguments.backend),
        arguments.out,
        seed=arguments.seed,
        share_t2i=arguments.share_t2i,
        share_i2i=arguments.share_i2i,
    )
    if arguments.json:
        print_json({"version": report.version, **figures(report.counts), "made": report.made, "notes": report.notes})
    else:
        print(markdown(Manifest.read(arguments.out)))
    return 0
