"""Everything that can go wrong, as one tree.

    StreetvisionError
    ├── InputError(ValueError)               what a person or a file gave us is unusable
    │   ├── ImageError                       bytes that are no usable picture
    │   ├── DataError                        a folder, CSV, manifest or challenge set
    │   ├── ModelDirectoryError              a model directory with a missing or altered file
    │   ├── WeightsError                     backbone weights missing, gated or altered
    │   ├── SettingsError                    a setting, option or wallet
    │   └── EvidenceError                    two evaluations that cannot be compared
    ├── WireError(ValueError)                a request that breaks the subnet's protocol
    ├── BusyError(RuntimeError)              somebody else holds the lock, port or directory
    ├── StorageError(OSError)                a disk that is full, read-only or failing
    ├── RegistryError(RuntimeError)          MLflow answered something unusable, or a read-back differed
    ├── HubError(RuntimeError)               the model hub refused, or a read-back differed
    ├── EngineError(RuntimeError)            an inference engine failed or answered nonsense
    ├── RolloutError(RuntimeError)           a release did not come to serve the model it was given
    ├── PredictorError(ConnectionError)      the predictor is out of reach, late or wrong
    ├── ClusterError(ConnectionError)        the Kubernetes API is out of reach, or refuses
    └── ChainError(ConnectionError)          the chain is out of reach, silent, or refuses

A message says what was got, what was expected and where; `hint` is the next thing to do, on a line of its own.
"""


class StreetvisionError(Exception):
    """A failure with one clear sentence and, where there is one, the next thing to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class InputError(StreetvisionError, ValueError):
    """What a person or a file gave us is unusable."""


class ImageError(InputError):
    """Bytes that are no usable picture."""


class DataError(InputError):
    """A folder, CSV, manifest or challenge set that cannot be used."""


class ModelDirectoryError(InputError):
    """A model directory with a missing or altered file."""


class WeightsError(InputError):
    """Backbone weights that are missing, gated or altered."""


class SettingsError(InputError):
    """A setting, option or wallet that cannot be used."""


class EvidenceError(InputError):
    """Two evaluations that cannot be compared."""


class WireError(StreetvisionError, ValueError):
    """A request that breaks the subnet's protocol; `status` is the HTTP answer it earns."""

    def __init__(self, message: str, *, status: int = 400, reason: str = "malformed") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class BusyError(StreetvisionError, RuntimeError):
    """Somebody else holds the lock, port or directory."""


class StorageError(StreetvisionError, OSError):
    """A disk that is full, read-only or failing."""


class RegistryError(StreetvisionError, RuntimeError):
    """MLflow answered something unusable, or a read-back differed."""


class HubError(StreetvisionError, RuntimeError):
    """The model hub refused, or a read-back differed."""


class EngineError(StreetvisionError, RuntimeError):
    """An inference engine failed or answered nonsense."""


class RolloutError(StreetvisionError, RuntimeError):
    """A release did not come to serve the model it was given."""


class PredictorError(StreetvisionError, ConnectionError):
    """The predictor is out of reach, late or wrong."""


class ClusterError(StreetvisionError, ConnectionError):
    """The Kubernetes API is out of reach, or refuses; `status` is its HTTP answer, where it gave one."""

    def __init__(self, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class ChainError(StreetvisionError, ConnectionError):
    """The chain is out of reach, silent, or refuses."""
