"""StreetVision: train, gate, serve and operate a roadwork classifier for Bittensor subnet 72."""

__version__ = "0.1.0"
