"""Why a step failed or does not start: Kubeflow's API does not say, the step's pod does."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from streetvision.errors import StreetvisionError

TAIL_LINES = 60

_TIMEOUT_S = (5, 30)
_RUN = "pipeline/runid"  # label of every pod of a run
_NODE = "workflows.argoproj.io/node-name"  # annotation: WORKFLOW.root.STEP.executor(ATTEMPT)
_ATTEMPT = re.compile(r"\(.*\)$")
_HARMLESS = ("ContainerCreating", "PodInitializing")


class PodsError(StreetvisionError, RuntimeError):
    """The cluster cannot be asked about pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What is wrong with one pod of a run.

    Attributes:
        pod: its name.
        step: whose pod it is.
        kind: in a word or two, the same for as long as it lasts.
        reason: one line.
        log: the last lines of the container that failed; empty where none did yet.
    """

    pod: str
    step: str
    kind: str
    reason: str
    log: str = ""


class Pods:
    """The pods of one namespace.

    Raises:
        PodsError: no cluster is known here, or it cannot be asked; so does every method.
    """

    def __init__(self, namespace: str) -> None:
        here, given = client.Configuration(), os.environ.get("KUBECONFIG")
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and not given:
                config.load_incluster_config(client_configuration=here)
            else:
                config.load_kube_config(config_file=given, client_configuration=here)
        except (ConfigException, OSError, TypeError, ValueError) as err:
            raise PodsError(f"no cluster is known here: {err}") from err
        self._core: Any = client.CoreV1Api(client.ApiClient(here))
        self._namespace = namespace

    def troubles(self, run_id: str) -> list[Trouble]:
        """What is wrong with this run's pods now: containers that failed, cannot start, or have no node."""
        try:
            pods = self._core.list_namespaced_pod(
                self._namespace, label_selector=f"{_RUN}={run_id}", _request_timeout=_TIMEOUT_S
            )
            return [trouble for pod in pods.items for trouble in self._of_pod(pod)]
        except ApiException as err:
            raise PodsError(
                f"pods of namespace `{self._namespace}` cannot be read: {err.status} {err.reason}",
                hint="pods, pods/log and events: get and list",
            ) from err
        except HTTPError as err:
            raise PodsError(f"the cluster is out of reach: {str(err).rpartition(': ')[2]}") from err

    def _of_pod(self, pod: Any) -> Iterator[Trouble]:
        name, step = str(pod.metadata.name), _step(pod)
        statuses = [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
        told = False
        for status in statuses:
            ended, waiting = status.state.terminated, status.state.waiting
            if ended and ended.exit_code:
                reason = (
                    f"container `{status.name}` ended with {ended.exit_code} ({ended.reason}){_colon(ended.message)}"
                )
                log = self._log(name, status.name)
                yield Trouble(pod=name, step=step, kind=f"{status.name} ended", reason=reason, log=log)
                told = True
            elif waiting and waiting.reason and waiting.reason not in _HARMLESS:
                reason = f"container `{status.name}` waits: {waiting.reason}{_colon(waiting.message)}"
                yield Trouble(pod=name, step=step, kind=f"{status.name} {waiting.reason}", reason=reason)
                told = True
        if told:
            return
        if pod.status.phase == "Failed":
            why = f"{pod.status.reason or 'failed'}{_colon(pod.status.message)}"
            yield Trouble(pod=name, step=step, kind="failed", reason=why)
        elif pod.status.phase == "Pending":
            for event in self._warnings(name):
                yield Trouble(pod=name, step=step, kind=event.reason, reason=f"{event.reason}{_colon(event.message)}")

    def _log(self, pod: str, container: str) -> str:
        try:
            return str(
                self._core.read_namespaced_pod_log(
                    pod, self._namespace, container=container, tail_lines=TAIL_LINES, _request_timeout=_TIMEOUT_S
                )
            )
        except ApiException as err:  # the rest is worth telling without it
            return f"(its log cannot be read: {err.status} {err.reason})"

    def _warnings(self, pod: str) -> list[Any]:
        selector = f"involvedObject.kind=Pod,involvedObject.name={pod},type=Warning"
        events = self._core.list_namespaced_event(
            self._namespace, field_selector=selector, _request_timeout=_TIMEOUT_S
        ).items
        return list({event.reason: event for event in events}.values())  # the last of each kind


def _step(pod: Any) -> str:
    """The innermost step that the pod belongs to, `data-driver` for its driver."""
    node = str((pod.metadata.annotations or {}).get(_NODE, ""))
    parts = [_ATTEMPT.sub("", part) for part in node.split(".")]
    inner = [part for part in parts[1:] if part not in ("executor", "root", "")]
    return inner[-1] if inner else "(unknown step)"


def _colon(message: str | None) -> str:
    return f": {' '.join(message.split())}" if message else ""
