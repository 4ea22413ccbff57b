"""KServe as its documentation has it: a custom predictor with a plain `async def predict`."""

import argparse
import sys
from pathlib import Path

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server

sys.path.insert(0, str(Path(__file__).parent))
import simulated


class Stock(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        pictures = [simulated.decode(text) for text in payload.inputs[0].data]
        output = InferOutput("probability", [len(pictures)], "FP32", data=simulated.engine(len(pictures)))
        return InferResponse(payload.id or "1", payload.model_name, [output])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    ModelServer().start([Stock(parser.parse_args().model_name)])
