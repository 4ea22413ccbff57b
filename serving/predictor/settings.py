"""Everything the predictor can be told on its command line."""

import argparse
import os
from pathlib import Path
from typing import Literal

from kserve.model_server import parser as kserve_parser
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streetvision.errors import SettingsError
from streetvision.imaging import DECODE_LIMIT_MAX_PX, DECODE_LIMIT_PX, DECODE_LIMIT_S
from streetvision.inference.classifier import EngineName
from streetvision.inference.engine import Precision

_WITHOUT_EFFECT = ("access_log_format", "enable_docs_url", "log_config_file", "predictor_host")  # of KServe's options
_MIB = 2**20
_BODY_LIMIT_MIB = 64
_GRPC_MESSAGE_MIB = 20  # nothing bounds how many are in memory


class Settings(BaseModel):
    """The options that have an effect here: KServe's, under its names, and our own."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model_dir: Path
    model_name: str
    host: str | None
    http_port: int = Field(ge=1, le=65535)
    grpc_port: int = Field(ge=1, le=65535)
    enable_grpc: bool
    workers: Literal[1]
    event_loop: Literal["auto", "asyncio", "uvloop"]
    timeout_keep_alive: int = Field(ge=1)
    ssl_certfile: Path | None
    ssl_keyfile: Path | None
    grpc_max_send_message_length: int = Field(ge=1)
    grpc_max_receive_message_length: int = Field(ge=1)
    engine: EngineName
    engine_cache: Path | None
    precision: Precision | None
    threads: int | None = Field(ge=1)
    decode_workers: int = Field(ge=1, le=64)
    decode_limit_px: int = Field(ge=1, le=DECODE_LIMIT_MAX_PX)
    decode_limit_s: float = Field(gt=0)
    queue_limit: int = Field(ge=32)
    body_limit_mib: int = Field(ge=1, le=1024)
    drain_s: float = Field(ge=0)
    grace_period_s: int = Field(ge=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]

    @property
    def body_limit(self) -> int:
        """The most bytes of one REST body."""
        return self.body_limit_mib * _MIB

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> "Settings":
        """The settings of a command line; a malformed one ends the process as argparse does.

        Raises:
            SettingsError: a value is out of its range, or the option means nothing here.
        """
        values = vars(_parser().parse_args(arguments))
        for name in _WITHOUT_EFFECT:
            if values[name]:
                raise SettingsError(f"option --{name} has no effect on this predictor", hint="leave it out")
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            problem = err.errors()[0]
            raise SettingsError(
                f"option --{'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                hint="see `python -m serving.predictor --help`",
            ) from err


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.predictor",
        description="Serve a model directory by the Open Inference Protocol v2 over REST and gRPC.",
        parents=[kserve_parser],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    message = _GRPC_MESSAGE_MIB * _MIB
    parser.set_defaults(
        model_name="roadwork", grpc_max_send_message_length=message, grpc_max_receive_message_length=message
    )
    cores = len(os.sched_getaffinity(0))
    own = parser.add_argument_group("streetvision")
    own.add_argument("--model-dir", "--model_dir", type=Path, default=Path("/mnt/models"), help="the model directory")
    own.add_argument("--host", help="address to listen on; default: every one of this machine")
    own.add_argument("--engine", default="onnx", help="what runs the model: onnx, onnx-cuda, tensorrt or auto")
    own.add_argument("--engine-cache", type=Path, help="folder of built TensorRT engines; default: the user's cache")
    own.add_argument("--precision", help="of TensorRT: fp16, bf16, fp32; default: the first that is exact enough")
    own.add_argument("--threads", type=int, help="cores one inference may use; default: all this process may use")
    own.add_argument("--decode-workers", "--request-workers", type=int, default=cores, help="pictures decoded at once")
    own.add_argument("--decode-limit-px", type=int, default=DECODE_LIMIT_PX, help="the most pixels of one picture")
    own.add_argument(
        "--decode-limit-s", type=float, default=DECODE_LIMIT_S, help="the most processor time to decode one picture"
    )
    own.add_argument("--queue-limit", type=int, default=128, help="pictures that may wait before 503 is answered")
    own.add_argument("--body-limit-mib", type=int, default=_BODY_LIMIT_MIB, help="the largest REST request")
    own.add_argument("--drain-s", type=float, default=0.0, help="seconds it still serves, unready, once told to stop")
    own.add_argument("--grace-period-s", type=int, default=10, help="seconds that requests in flight have at the end")
    own.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR")
    return parser
