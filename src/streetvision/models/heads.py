"""Heads: feature vector -> logit of roadwork."""

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """Multilayer perceptron width -> 512 -> 128 -> 1 on standardised features.

    Mean and standard deviation of the training features are part of it, so that one learning rate suits the features
    of every backbone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Linear(width, 512),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(512, 128),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(128, 1),
        )

    def standardise(self, features: Tensor) -> None:
        """Takes mean and standard deviation from float32[N,width]; constant features are left unscaled."""
        self.mean.copy_(features.mean(dim=0))
        std = features.std(dim=0, correction=0)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, features: Tensor) -> Tensor:
        """Logits float32[N] from float32[N,width]."""
        return self.layers((features - self.mean) / self.std).squeeze(1)
