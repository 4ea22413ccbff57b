"""`streetvision train`: a head on a frozen backbone, exported as one ONNX."""

import argparse
from pathlib import Path

from streetvision import __version__
from streetvision.commands.arguments import Commands, add_command, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    train = add_command(commands, "train", _train, "a head on a frozen backbone, exported as one ONNX")
    train.add_argument("--manifest", type=Path, required=True, help="its folder")
    train.add_argument("--out", type=Path, required=True, help="the model directory")
    train.add_argument("--cache", type=Path, default=Path(".streetvision/cache"), help="features and weights")
    train.add_argument("--preset", default="efficientnet-lite0", help="backbone")
    train.add_argument("--views", type=int, default=4, help="augmented views of each picture")


def _train(arguments: argparse.Namespace) -> int:
    from streetvision.data.manifest import Manifest
    from streetvision.training.train import TrainingSettings, train

    result = train(
        Manifest.read(arguments.manifest),
        arguments.out,
        TrainingSettings(preset=arguments.preset, views=arguments.views, seed=arguments.seed),
        cache_dir=arguments.cache,
        code_version=f"streetvision {__version__}",
        git_sha="",
    )
    if arguments.json:
        print_json({"model_dir": str(result.model_dir), "sha256": result.model_sha256, **result.metrics})
    else:
        print(f"model {result.model_sha256[:12]} in `{result.model_dir}`")
        for name, number in result.metrics.items():
            print(f"{name:<28} {number:.4g}")
    return 0
