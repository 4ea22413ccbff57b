"""A custom predictor as KServe's documentation writes one: Pillow and ONNX Runtime inside `async def predict`."""

import argparse
import base64
import io
import os

import numpy as np
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server
from PIL import Image


class Stock(Model):
    def __init__(self, name: str, model_dir: str) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self.session = onnxruntime.InferenceSession(
            f"{model_dir}/model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.size_px = self.session.get_inputs()[0].shape[1]
        self.session.run(None, {"image": np.zeros((1, self.size_px, self.size_px, 3), np.uint8)})
        self.load()

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        pictures = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in payload.inputs[0].data
        ]
        (probability,) = self.session.run(None, {"image": np.stack(pictures)})
        output = InferOutput("probability", [len(pictures)], "FP32", data=probability.tolist())
        return InferResponse(payload.id or "1", payload.model_name, [output])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("--model_dir")
    given = parser.parse_args()
    ModelServer().start([Stock(given.model_name, given.model_dir)])
