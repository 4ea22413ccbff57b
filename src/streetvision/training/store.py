"""The cache of features: shards on disk that are only ever added.

A shard is one safetensors file named by the sha256 of its content, so that it proves itself: a kill loses at most the
shard in the making, a damaged one is noticed, dropped and computed again, and two processes may add at once.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from streetvision import atomic

_log = logging.getLogger(__name__)

KEY_BYTES = 32


class FeatureStore:
    """Feature vectors by key (32 bytes), in one folder of shards."""

    def __init__(self, folder: Path, *, width: int) -> None:
        self.folder = folder
        self.width = width

    def read(self, keys: Sequence[bytes]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """float32[N,width] in the order of `keys`, and bool[N]: which of them were found."""
        features = np.zeros((len(keys), self.width), dtype=np.float32)
        found = np.zeros(len(keys), dtype=np.bool_)
        row_of = {key: row for row, key in enumerate(keys)}
        for path in sorted(self.folder.glob("*.safetensors")):
            shard = self._read_shard(path)
            if shard is None:
                continue
            rows = np.array([row_of.get(key.tobytes(), -1) for key in shard["keys"]], dtype=np.int64)
            wanted = rows >= 0
            features[rows[wanted]] = shard["features"][wanted]
            found[rows[wanted]] = True
        return features, found

    def add(self, keys: Sequence[bytes], features: NDArray[np.float32]) -> None:
        """Keeps float32[N,width] under their keys as one shard.

        Raises:
            StorageError: the disk is full, read-only or failing.
        """
        table = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)
        content = safetensors.numpy.save({"keys": table, "features": np.ascontiguousarray(features)})
        atomic.write_bytes(self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors", content)

    def _read_shard(self, path: Path) -> dict[str, NDArray[np.generic]] | None:
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == path.stem:
                shard = safetensors.numpy.load(content)
                if shard["features"].shape == (len(shard["keys"]), self.width):
                    return shard
        except (OSError, KeyError, safetensors.SafetensorError) as err:
            _log.warning("cannot read feature shard `%s`: %s", path, err)
        _log.warning("feature shard `%s` is damaged, its features are computed again", path)
        path.unlink(missing_ok=True)
        return None
