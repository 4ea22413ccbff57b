"""BentoML with adaptive batching; `bentoml serve bentoml_batched:Batched` runs it."""

import bentoml
import simulated


@bentoml.service(workers=1, traffic={"timeout": 30, "max_concurrency": 256}, metrics={"enabled": False})
class Batched:
    @bentoml.api(batchable=True, max_batch_size=simulated.LARGEST)
    def predict(self, image: list[str]) -> list[float]:
        for text in image:
            simulated.decode(text)
        return simulated.engine(len(image))
