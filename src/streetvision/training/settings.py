"""What a training run is asked for."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from streetvision.models.presets import DEFAULT_PRESET

_TOKEN_ENV = "HF_TOKEN"  # noqa: S105  (the variable's name, not a token)


class TrainingSettings(BaseModel):
    """One training run: the same settings on the same manifest give the same head, bit for bit, on one machine.

    Attributes:
        preset: name of the backbone's preset.
        weights: other weights of the preset's class: a local folder, or a repository id of the Hub.
        revision: commit of that repository.
        token_env: environment variable that holds the Hub's token.
        regime: regime of the subnet whose transforms the views are drawn with.
        views: augmented views K of each picture; with a multiple of 4 every level gets as many.
        seed: of the head's start, the order of its batches and its dropout. Views do not depend on it.
        epochs: passes over the features, at most.
        patience: epochs without a better validation log-loss after which training stops.
        batch_size: views per step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = DEFAULT_PRESET
    weights: str | None = None
    revision: str | None = None
    token_env: str = _TOKEN_ENV
    regime: str = "R1"
    views: Annotated[int, Field(ge=1, le=64)] = 4
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: Annotated[int, Field(ge=1)] = 60
    patience: Annotated[int, Field(ge=1)] = 8
    batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
