"""`streetvision engine`: TensorRT engines of a model, built ahead into the cache of a predictor."""

import argparse
import re
from pathlib import Path

from streetvision.commands.arguments import Commands, add_command, print_json


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    engine = add_command(commands, "engine", _engine, "a TensorRT engine, built ahead into the cache of a predictor")
    engine.add_argument("--model-dir", type=Path, required=True, help="the model directory")
    engine.add_argument("--engine-cache", type=Path, help="folder of built engines; default: in the user's cache")
    engine.add_argument("--gpu", help="compute capability to build for, as 8.6; default: the GPU of this machine")
    engine.add_argument("--precision", default="fp16", choices=("fp16", "bf16", "fp32"), help="default: fp16")


def _engine(arguments: argparse.Namespace) -> int:
    from streetvision.inference.cuda import Gpu
    from streetvision.inference.engine_cache import EngineCache
    from streetvision.inference.model_directory import ModelDirectory
    from streetvision.inference.tensorrt import Platform, cached_plan

    directory = ModelDirectory.open(arguments.model_dir)
    platform = Platform.find(Gpu("", _compute_capability(arguments.gpu)) if arguments.gpu else None)
    cache = EngineCache(arguments.engine_cache or EngineCache.default_folder())
    plan = cached_plan(directory, platform, arguments.precision, cache)
    key = platform.key(directory, arguments.precision)
    if arguments.json:
        print_json({"name": key.name, "bytes": len(plan), **key.model_dump(mode="json")})
    else:
        print(f"engine {key.name}: {len(plan) / 1e6:.1f} MB, {key.builder}")
    return 0


def _compute_capability(text: str) -> tuple[int, int]:
    from streetvision.errors import SettingsError

    match = re.fullmatch(r"(\d+)\.(\d)", text)
    if match is None:
        raise SettingsError(f"--gpu is `{text}`, expected a compute capability such as 8.6")
    return int(match[1]), int(match[2])
