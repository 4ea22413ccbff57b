"""Trains a head on cached features: seeded, stopped early, and resumed after a kill as if it had never happened."""

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from streetvision import atomic
from streetvision.models.heads import Head
from streetvision.training.settings import TrainingSettings

_log = logging.getLogger(__name__)

_CHECKPOINT_EPOCHS = 5
_SEED_STEP = 1_000_003  # keeps the random streams of neighbouring seeds apart


@dataclass(frozen=True, slots=True)
class Samples:
    """What a head learns from.

    Attributes:
        features: float32[N,width].
        label: uint8[N], 1 is roadwork.
        weight: float32[N], mean 1.
    """

    features: NDArray[np.float32]
    label: NDArray[np.uint8]
    weight: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the training features; losses are weighted log-losses in nats."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The head of the best epoch, in evaluation mode on the CPU, and how it came about."""

    head: Head
    history: tuple[Epoch, ...]
    best_epoch: int


def fit(
    train: Samples,
    validation: Samples,
    settings: TrainingSettings,
    *,
    checkpoint: Path | None = None,
    device: str = "cpu",
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Fit:
    """The head with the lowest validation log-loss.

    Every epoch draws from a random stream of its own, so a run that goes on from its checkpoint ends with the very
    same numbers as one that was never interrupted.

    Args:
        train: features to learn from.
        validation: features that decide when to stop.
        settings: seed, epochs, patience and optimiser.
        checkpoint: file that is written every few epochs, and gone on from if it belongs to this very run.
        device: torch's name of it.
        on_epoch: called after each epoch.

    Raises:
        StorageError: the checkpoint cannot be written.
    """
    run = _Run(train, validation, settings, device)
    if checkpoint is not None:
        run.resume(checkpoint)
    while run.epoch < settings.epochs and run.epoch - run.best_epoch < settings.patience:
        run.advance()
        if checkpoint is not None and run.epoch % _CHECKPOINT_EPOCHS == 0:
            run.save(checkpoint)
        if on_epoch is not None:
            on_epoch(run.history[-1])
    head = run.head.cpu().eval()
    head.load_state_dict(run.best)
    return Fit(head=head, history=tuple(run.history), best_epoch=run.best_epoch)


class _Run:
    def __init__(self, train: Samples, validation: Samples, settings: TrainingSettings, device: str) -> None:
        self.settings = settings
        self.fingerprint = _fingerprint(train, validation, settings)
        self.train, self.validation = _on(train, device), _on(validation, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed * _SEED_STEP)
            self.head = Head(train.features.shape[1]).to(device)
        self.head.standardise(self.train[0])
        self.optimiser = torch.optim.AdamW(
            self.head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.epoch = self.best_epoch = 0
        self.best_loss = float("inf")
        self.best = _cpu(self.head.state_dict())
        self.history: list[Epoch] = []

    def advance(self) -> None:
        self.epoch += 1
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed * _SEED_STEP + self.epoch)
            train_loss, train_accuracy = self._learn()
        validation_loss, validation_accuracy = self._validate()
        self.history.append(
            Epoch(
                epoch=self.epoch,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                validation_loss=validation_loss,
                validation_accuracy=validation_accuracy,
            )
        )
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, self.epoch
            self.best = _cpu(self.head.state_dict())

    def _learn(self) -> tuple[float, float]:
        features, label, weight = self.train
        self.head.train()
        loss_sum = hits = torch.zeros((), device=features.device)
        order = torch.randperm(len(label)).to(features.device)
        for rows in order.split(self.settings.batch_size):
            logits = self.head(features[rows])
            losses = binary_cross_entropy_with_logits(logits, label[rows], weight[rows], reduction="none")
            self.optimiser.zero_grad()
            losses.mean().backward()
            self.optimiser.step()
            loss_sum = loss_sum + losses.detach().sum()
            hits = hits + (weight[rows] * ((logits.detach() > 0) == (label[rows] > 0))).sum()
        return loss_sum.item() / len(label), hits.item() / weight.sum().item()

    @torch.no_grad()
    def _validate(self) -> tuple[float, float]:
        features, label, weight = self.validation
        self.head.eval()
        logits = self.head(features)
        loss = binary_cross_entropy_with_logits(logits, label, weight)
        hits = (weight * ((logits > 0) == (label > 0))).sum()
        return loss.item(), (hits / weight.sum()).item()

    def save(self, path: Path) -> None:
        tensors = {f"head.{name}": tensor for name, tensor in _cpu(self.head.state_dict()).items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": tensor for name, tensor in _cpu(moments).items()}
        progress = {
            "fingerprint": self.fingerprint,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "history": [asdict(epoch) for epoch in self.history],
        }
        content = safetensors.torch.save(tensors, {"progress": json.dumps(progress)})
        atomic.write_bytes(path, hashlib.sha256(content).digest() + content)

    def resume(self, path: Path) -> None:
        """Goes on from the checkpoint, if there is one and it belongs to this very run."""
        if not path.is_file():
            return
        stored = path.read_bytes()
        content = stored[32:]
        if hashlib.sha256(content).digest() != stored[:32]:
            _log.warning("checkpoint `%s` is damaged, training starts anew", path)
            return
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        progress: dict[str, Any] = json.loads(header["__metadata__"]["progress"])
        if progress["fingerprint"] != self.fingerprint:
            return
        tensors = safetensors.torch.load(content)
        self.head.load_state_dict(_part(tensors, "head."))
        self.best = _part(tensors, "best.")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "adam.").items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.epoch, self.best_epoch = progress["epoch"], progress["best_epoch"]
        self.best_loss = progress["best_loss"]
        self.history = [Epoch(**epoch) for epoch in progress["history"]]
        _log.info("training goes on after epoch %d", self.epoch)


def _fingerprint(train: Samples, validation: Samples, settings: TrainingSettings) -> str:
    digest = hashlib.sha256(settings.model_dump_json().encode())
    for samples in (train, validation):
        for array in (samples.features, samples.label, samples.weight):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _on(samples: Samples, device: str) -> tuple[Tensor, Tensor, Tensor]:
    features, label, weight = (torch.from_numpy(a) for a in (samples.features, samples.label, samples.weight))
    return features.to(device), label.float().to(device), weight.to(device)


def _cpu(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: copy.deepcopy(tensor.detach()).cpu() for name, tensor in tensors.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
