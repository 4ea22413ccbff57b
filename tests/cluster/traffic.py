"""Five challenges a second to the miner of a release, from a pod beside it, and what a validator records of them."""

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streetvision.inference.threshold import ThresholdMap
from streetvision.subnet.protocol import NO_ANSWER
from tests.brightness import THRESHOLD
from tests.cluster import wait
from tests.cluster.client import RESTRICTED, Client
from tests.cluster.our_images import image

PROGRAM = Path(__file__).with_name("traffic_program.py")
PER_SECOND = 5.0
DEADLINE_S = 9.0
_LONGEST_S = 1800
_UID = 10001  # as the miner's image has it, so that the key is readable


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the validator recorded for one challenge."""

    number: int
    sent_s: float
    colour: tuple[int, int, int]
    prediction: float
    error: str
    latency_ms: float

    @property
    def is_abstention(self) -> bool:
        """A reply in time that says nothing."""
        return not self.error and self.prediction == NO_ANSWER

    def is_of(self, channels: Sequence[int]) -> bool:
        """Whether the brightness model of these channels gives this answer."""
        mean = np.float32(np.mean([self.colour[channel] for channel in channels]) / 255)
        return abs(self.prediction - float(ThresholdMap(THRESHOLD)(np.array([mean], dtype=np.float32))[0])) < 1e-4


class Traffic:
    """A pod that sends challenges until it is told to stop."""

    def __init__(self, client: Client, pod: str) -> None:
        self._client, self._pod = client, pod
        self._ended: list[Seen] | None = None

    def seen(self) -> list[Seen]:
        """What has come back so far, in the order of sending."""
        if self._ended is not None:
            return self._ended
        lines = self._client.kubectl("logs", self._pod, "--tail=-1", timeout_s=60).splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        answers = [Seen(**{**one, "colour": tuple(one["colour"])}) for one in found]
        return sorted(answers, key=lambda one: one.number)

    def await_answers(self, condition: Callable[[Sequence[Seen]], bool], *, what: str, timeout_s: float) -> None:
        """Returns once the condition holds for what has come back.

        Raises:
            LateError: it does not in time.
        """
        wait.until(lambda: condition(self.seen()), what=what, timeout_s=timeout_s, every_s=2.0)

    def go_on(self, answers: int, *, timeout_s: float = 60.0) -> None:
        """Returns once that many more have come back."""
        enough = len(self.seen()) + answers
        self.await_answers(lambda seen: len(seen) >= enough, what=f"{answers} more answers", timeout_s=timeout_s)

    def stop(self) -> list[Seen]:
        """Everything, once the last answer is there; none of the numbers is missing."""
        if self._ended is None:
            self._client.kubectl("exec", self._pod, "--", "touch", "/tmp/stop")
            self._client.await_condition(
                f"pod/{self._pod}", "jsonpath={.status.phase}=Succeeded", timeout_s=DEADLINE_S + 30
            )
            self._ended = self.seen()
        assert [one.number for one in self._ended] == list(range(len(self._ended)))
        return self._ended


@contextmanager
def traffic(client: Client, *, url: str, miner: str, validator_secret: str) -> Iterator[Traffic]:
    """Yields the traffic once ten challenges have been answered.

    Args:
        client: of the namespace.
        url: of the miner, as pods of the namespace reach it.
        miner: ss58 address of its hotkey.
        validator_secret: Secret that holds the validator's hotkey file under the key `hotkey`.
    """
    name = f"traffic-{secrets.token_hex(4)}"
    meta = {"name": name, "labels": {"app": name}}
    command = ["python", "/program/traffic.py", "--url", url, "--miner", miner, "--wallets", "/wallets"]
    command += ["--wallet", "validator", "--hotkey", "default"]
    command += ["--per-second", str(PER_SECOND), "--longest-s", str(_LONGEST_S)]
    key = {"key": "hotkey", "path": "validator/hotkeys/default"}
    volumes = {
        "program": {"configMap": {"name": name}},
        "wallets": {"secret": {"secretName": validator_secret, "items": [key], "defaultMode": 0o440}},
        "tmp": {"emptyDir": {}},
    }
    mounts = {"program": "/program", "wallets": "/wallets", "tmp": "/tmp"}
    container = {
        "name": "traffic",
        "image": image("miner"),
        "command": command,
        "securityContext": {**RESTRICTED, "readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in mounts.items()],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UID,
            "fsGroup": _UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": volume, **source} for volume, source in volumes.items()],
    }
    client.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"traffic.py": PROGRAM.read_text()}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod},
    )
    try:
        client.await_condition(f"pod/{name}", "condition=Ready", timeout_s=120)
        running = Traffic(client, name)
        running.go_on(10)
        yield running
    finally:
        client.kubectl("delete", f"pod/{name}", f"configmap/{name}", "--ignore-not-found", "--wait=false", "--now")
