"""Our predictor, all of it but the engine, which is simulated."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.predictor.server import serve_classifier
from serving.predictor.settings import Settings
from streetvision.inference.classifier import Classifier
from streetvision.inference.model_directory import write_config
from tests.bench.peers import simulated


class SimulatedEngine:
    size_px = 224
    batch_sizes = (1, 2, 4, 8, 16, 32, simulated.LARGEST)

    def warm_up(self) -> None:
        """Nothing to warm."""

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array(simulated.engine(len(batch)), dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        return {"engine": "simulated", "version": "0", "provider": "none", "precision": "none"}


def classifier() -> Classifier:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(b"never loaded")
        facts = {"threshold": 0.25, "temperature": 1.0, "data_version": "", "code_version": "", "git_sha": ""}
        return Classifier(write_config(folder, preset="none", input_size_px=224, **facts), SimulatedEngine())


if __name__ == "__main__":
    if "--instant" in sys.argv:
        sys.argv.remove("--instant")
        simulated.FIXED_S = simulated.PICTURE_S = 0.0
    settings = Settings.from_arguments(sys.argv[1:])
    settings = settings.model_copy(update={"grpc_port": settings.http_port + 1})
    serve_classifier(settings, classifier(), begun_s=time.monotonic())
