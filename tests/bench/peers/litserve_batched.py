"""LitServe with batching: as many as 64, as long as 2 ms."""

import sys
from pathlib import Path

import litserve

sys.path.insert(0, str(Path(__file__).parent))
import simulated


class Batched(litserve.LitAPI):
    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: dict[str, str]) -> object:
        return simulated.decode(request["image"])

    def batch(self, inputs: list[object]) -> list[object]:
        return inputs

    def predict(self, batch: list[object]) -> list[float]:
        return simulated.engine(len(batch))

    def unbatch(self, output: list[float]) -> list[float]:
        return output

    def encode_response(self, output: float) -> dict[str, float]:
        return {"probability": output}


if __name__ == "__main__":
    api = Batched(max_batch_size=simulated.LARGEST, batch_timeout=0.002)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        generate_client_file=False, port=int(sys.argv[1]), num_api_servers=1
    )
