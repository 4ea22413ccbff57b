"""What differs from KServe between its endpoints and the model."""

from typing import Any

from kserve import InferRequest
from kserve.errors import InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_datamodels import InferenceRequest

from serving.predictor.model import PredictorModel
from serving.predictor.wire import binary_request


class PredictorDataPlane(DataPlane):
    """KServe's data plane with honest readiness, a model version in the metadata and bytes over REST."""

    async def ready(self) -> bool:
        """True while every model is; kserve's own is always true, also while the server stops."""
        models = self.model_registry.get_models()
        return bool(models) and all([await model.healthy() for model in models.values()])

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """KServe's metadata and the served version; its gRPC side leaves the version out."""
        metadata: dict[str, Any] = await super().model_metadata(model_name)
        model = self.get_model_from_registry(model_name)
        if isinstance(model, PredictorModel):
            metadata |= {"platform": "onnx", "versions": [model.version]}
        return metadata

    def decode_inference_request(
        self, body: bytes | InferenceRequest, headers: dict[str, str], model_name: str
    ) -> InferRequest:
        """The request, whichever of REST's two forms it came in."""
        if isinstance(body, InferenceRequest):
            return super().decode_inference_request(body, headers, model_name)
        length = headers.get("inference-header-content-length")
        if length is None:
            raise InvalidInput(
                f"body is `{headers.get('content-type', 'untyped')}`, expected `application/json`, "
                "or a binary tensor with Inference-Header-Content-Length"
            )
        return binary_request(body, length, model_name)


class FixedRepository(ModelRepositoryExtension):
    """A repository of one model that nobody may load or unload over the network."""

    async def load(self, model_name: str) -> None:
        """Refuses."""
        raise InvalidInput(f"`{model_name}` cannot be loaded: the model of this server is fixed when it starts")

    async def unload(self, model_name: str) -> None:
        """Refuses."""
        raise InvalidInput(f"`{model_name}` cannot be unloaded: the model of this server is fixed when it starts")
