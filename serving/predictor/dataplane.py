"""What differs from KServe between its endpoints and the model."""

from typing import Any

from kserve.errors import InvalidInput
from kserve.model import BaseKServeModel
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from serving.predictor.model import PredictorModel


class PredictorDataPlane(DataPlane):
    """KServe's data plane with honest health and a model version in the metadata."""

    async def live(  # pyright: ignore[reportIncompatibleMethodOverride]  # kserve's is static
        self,
    ) -> dict[str, str]:
        """`alive` unless an engine hangs; kserve's own is always alive."""
        alive = all(model.alive for model in self._predictors())
        return {"status": "alive" if alive else "hung"}

    async def ready(self) -> bool:
        """True while every model is; kserve's own is always true, also while the server stops."""
        models = self._predictors()
        return bool(models) and all([await model.healthy() for model in models])

    async def get_model(self, name: str) -> BaseKServeModel:
        """The model; kserve's own would load one that is about to stop once more."""
        return self.get_model_from_registry(name)

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """KServe's metadata and the served version; its gRPC side leaves the version out."""
        metadata: dict[str, Any] = await super().model_metadata(model_name)
        model = self.get_model_from_registry(model_name)
        if isinstance(model, PredictorModel):
            metadata |= {"platform": "onnx", "versions": [model.version]}
        return metadata

    def _predictors(self) -> list[PredictorModel]:
        return [model for model in self.model_registry.get_models().values() if isinstance(model, PredictorModel)]


class FixedRepository(ModelRepositoryExtension):
    """A repository of one model that nobody may load or unload over the network."""

    async def load(self, model_name: str) -> None:
        """Refuses."""
        raise InvalidInput(f"`{model_name}` cannot be loaded: the model of this server is fixed when it starts")

    async def unload(self, model_name: str) -> None:
        """Refuses."""
        raise InvalidInput(f"`{model_name}` cannot be unloaded: the model of this server is fixed when it starts")
