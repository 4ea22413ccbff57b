"""The NVIDIA GPU: which one it is, a stream of work for it, and memory that both sides reach quickly."""

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings import runtime  # pyright: ignore[reportAttributeAccessIssue]
from numpy.typing import DTypeLike, NDArray

from streetvision.errors import EngineError

_DEVICE = 0  # Kubernetes hands a pod its GPUs; one predictor uses one


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model of GPU.

    Attributes:
        name: as the driver calls it; empty where an engine is built for one that is not here.
        compute_capability: major and minor, (8, 6) for RTX 30.
    """

    name: str
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.architecture} {self.name}".rstrip()

    @property
    def architecture(self) -> str:
        """As NVIDIA abbreviates the compute capability: sm86."""
        major, minor = self.compute_capability
        return f"sm{major}{minor}"


def find_gpu() -> Gpu:
    """The GPU of this machine.

    Raises:
        EngineError: there is none, or its driver is missing or too old.
    """
    try:
        if check(runtime.cudaGetDeviceCount()) == 0:
            raise EngineError("CUDA finds no device")
        properties = check(runtime.cudaGetDeviceProperties(_DEVICE))
    except EngineError as err:
        raise EngineError(
            f"no usable NVIDIA GPU: {err.message}",
            hint="give the pod a GPU (`nvidia.com/gpu`), and its node a driver for CUDA 13",
        ) from err
    return Gpu(properties.name.decode(), (properties.major, properties.minor))


def check(result: tuple[Any, ...]) -> Any:
    """What a call of the CUDA runtime returned, without its error code.

    Raises:
        EngineError: the call failed.
    """
    code, *values = result
    if code != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(code)
        raise EngineError(f"{text.decode()} (CUDA error {int(code)})")
    return values[0] if values else None


class Stream:
    """Work that the GPU does in order, while the CPU goes on."""

    def __init__(self) -> None:
        self._stream = check(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        weakref.finalize(self, runtime.cudaStreamDestroy, self._stream)

    @property
    def handle(self) -> int:
        """Its address, as TensorRT takes it."""
        return int(self._stream)

    def wait(self) -> None:
        """Returns once everything is done.

        Raises:
            EngineError: something failed on the GPU.
        """
        check(runtime.cudaStreamSynchronize(self._stream))


class SharedArray:
    """A numpy array in page-locked memory with a twin of the same size on the GPU.

    Attributes:
        host: the array; valid as long as this object.
        device: address of the twin.
    """

    host: NDArray[Any]
    device: int

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pinned = int(check(runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault)))
        weakref.finalize(self, runtime.cudaFreeHost, pinned)
        self.device = int(check(runtime.cudaMalloc(size)))
        weakref.finalize(self, runtime.cudaFree, self.device)
        memory = (ctypes.c_uint8 * size).from_address(pinned)
        self.host = np.frombuffer(memoryview(memory), dtype=dtype).reshape(shape)

    def upload(self, count: int, stream: Stream) -> None:
        """Copies the first `count` elements of the first axis to the GPU."""
        part = self.host[:count]
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        check(runtime.cudaMemcpyAsync(self.device, part.ctypes.data, part.nbytes, kind, stream.handle))

    def download(self, count: int, stream: Stream) -> None:
        """Copies the first `count` elements of the first axis from the GPU."""
        part = self.host[:count]
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        check(runtime.cudaMemcpyAsync(part.ctypes.data, self.device, part.nbytes, kind, stream.handle))
