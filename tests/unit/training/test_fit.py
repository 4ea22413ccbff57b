import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from streetvision.training.fit import Epoch, Fit, Samples, fit
from streetvision.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=14, batch_size=32)


def samples(n: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    label = np.arange(n, dtype=np.uint8) % 2
    features = rng.normal(size=(n, 8)).astype(np.float32)
    features[:, 0] += 1.5 * label
    return Samples(features, label, np.ones(n, dtype=np.float32))


TRAIN, VALIDATION = samples(128, 0), samples(64, 1)


@pytest.fixture(scope="module")
def unbroken() -> Fit:
    return fit(TRAIN, VALIDATION, SETTINGS)


def is_same(one: Fit, other: Fit) -> bool:
    mine, theirs = one.head.state_dict(), other.head.state_dict()
    return one.history == other.history and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_head_learns_and_the_best_epoch_is_kept(unbroken: Fit) -> None:
    best = unbroken.history[unbroken.best_epoch - 1]
    assert best.validation_loss == min(epoch.validation_loss for epoch in unbroken.history)
    assert best.validation_loss < 0.6
    assert best.validation_accuracy > 0.7
    with torch.no_grad():
        logits = unbroken.head(torch.from_numpy(VALIDATION.features)).numpy()
    assert ((logits > 0) == VALIDATION.label).mean() == pytest.approx(best.validation_accuracy)


def test_the_same_seed_gives_the_same_head_and_another_another(unbroken: Fit) -> None:
    assert is_same(unbroken, fit(TRAIN, VALIDATION, SETTINGS))
    assert not is_same(unbroken, fit(TRAIN, VALIDATION, SETTINGS.model_copy(update={"seed": 1})))


def test_training_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(TRAIN, VALIDATION, SETTINGS.model_copy(update={"epochs": 1}))
    assert torch.equal(torch.rand(3), expected)


def test_training_stops_when_patience_ends() -> None:
    stopped = fit(TRAIN, VALIDATION, SETTINGS.model_copy(update={"epochs": 200, "patience": 2, "learning_rate": 0.01}))
    assert len(stopped.history) == stopped.best_epoch + 2 < 200


def test_weights_decide_what_an_error_costs() -> None:
    contradiction = Samples(
        np.zeros((40, 8), dtype=np.float32),
        np.arange(40, dtype=np.uint8) % 2,
        np.where(np.arange(40) % 2, 1.8, 0.2).astype(np.float32),
    )
    fitted = fit(contradiction, contradiction, SETTINGS.model_copy(update={"epochs": 40, "learning_rate": 0.01}))
    with torch.no_grad():
        probability = torch.sigmoid(fitted.head(torch.zeros(1, 8))).item()
    assert probability == pytest.approx(0.9, abs=0.05)


class Killed(Exception):
    pass


def killed_after(epoch: int, checkpoint: Path) -> None:
    def kill(done: Epoch) -> None:
        if done.epoch == epoch:
            raise Killed

    with pytest.raises(Killed):
        fit(TRAIN, VALIDATION, SETTINGS, checkpoint=checkpoint, on_epoch=kill)


def test_a_killed_run_goes_on_and_ends_with_the_very_same_head(unbroken: Fit, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"
    killed_after(12, checkpoint)
    epochs: list[int] = []
    resumed = fit(TRAIN, VALIDATION, SETTINGS, checkpoint=checkpoint, on_epoch=lambda epoch: epochs.append(epoch.epoch))
    assert epochs[0] == 11  # after the last checkpoint
    assert is_same(resumed, unbroken)


def test_a_checkpoint_of_another_run_is_not_gone_on_from(unbroken: Fit, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"
    fit(dataclasses.replace(TRAIN, label=1 - TRAIN.label), VALIDATION, SETTINGS, checkpoint=checkpoint)
    assert is_same(fit(TRAIN, VALIDATION, SETTINGS, checkpoint=checkpoint), unbroken)


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty"])
def test_a_damaged_checkpoint_means_a_new_start(unbroken: Fit, tmp_path: Path, damage: str) -> None:
    checkpoint = tmp_path / "run.safetensors"
    killed_after(7, checkpoint)
    content = bytearray(checkpoint.read_bytes())
    content[-1] ^= 1
    checkpoint.write_bytes({"flipped bit": content, "truncated": content[:500], "empty": b""}[damage])
    assert is_same(fit(TRAIN, VALIDATION, SETTINGS, checkpoint=checkpoint), unbroken)
