"""The proof that an InferenceService serves a model: what its Deployment and its pods say, not its own summary.

An InferenceService stays Ready while the pods of a model that cannot be loaded fail, as the old ones serve on, and its
`status.observedGeneration` is that of its Deployment. So three things are waited for, in this order: the Deployment's
pods are to have the model's address, all of them are new and available, and the InferenceService is Ready.
"""

import json
import logging
import time
from dataclasses import dataclass
from typing import Any

import urllib3

from streetvision.cluster import Body, Cluster
from streetvision.errors import ClusterError, RolloutError

MODEL = "roadwork"  # as KServe's protocol names it

# Source: github.com/kserve/kserve pkg/constants/constants.go StorageInitializerSourceUriInternalAnnotationKey @ v0.20.0
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
_EVERY_S = 1.0
_HOPELESS_RESTARTS = 5  # Kubernetes waits longer each time: by then the container failed for two and a half minutes
_LOG_LINES = 15

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Predictor:
    """One InferenceService, and the Deployment and the Service that KServe makes for it.

    Attributes:
        cluster: where it lies.
        namespace: of all three.
        name: of the InferenceService.
    """

    cluster: Cluster
    namespace: str
    name: str

    @property
    def workload(self) -> str:
        """Name of the Deployment and of the Service."""
        return f"{self.name}-predictor"

    def __str__(self) -> str:
        return f"InferenceService `{self.namespace}/{self.name}`"

    def prove(self, uri: str, *, timeout_s: float) -> None:
        """Returns once every pod has the model at `uri` and is ready.

        Args:
            uri: the model's address, as the chart was given it.
            timeout_s: for all of it.

        Raises:
            RolloutError: that did not happen in time, or a new pod failed again and again; the message holds what
                KServe says of the model and what the failing container said last.
            ClusterError: the API refuses, or was out of reach all the time.
        """
        deadline = time.monotonic() + timeout_s
        said = ""
        while True:
            late = time.monotonic() >= deadline
            try:
                waiting = self._waits_for(uri)
                reason = self._hopeless(uri) or (late and f"not within {timeout_s:g} s")
            except ClusterError as err:
                if late or err.status in {401, 403}:
                    raise
                waiting, reason = f"the Kubernetes API: {err.message}", ""
            if not waiting:
                return
            if waiting != said:
                _log.info("waiting for %s", waiting)
                said = waiting
            if reason:
                raise RolloutError(
                    f"{self} does not serve `{uri}`: {reason}, it waits for {waiting}{self._details(uri)}",
                    hint=f"kubectl --namespace {self.namespace} describe inferenceservice {self.name}",
                )
            time.sleep(_EVERY_S)

    def await_version(self, version: str, *, timeout_s: float) -> None:
        """Returns once the predictor itself says that it serves this version.

        Args:
            version: the first 12 digits of the model's sha256.
            timeout_s: for its Service to leave the old pods.

        Raises:
            RolloutError: it serves another one, or does not answer.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                found, reason = self.version(), ""
            except ClusterError as err:
                found, reason = "", err.message
            if found == version:
                return
            if time.monotonic() >= deadline:
                says = reason or f"it says `{found}`"
                raise RolloutError(f"{self} does not serve version `{version}` within {timeout_s:g} s: {says}")
            time.sleep(_EVERY_S)

    def version(self) -> str:
        """The version that the predictor says it serves.

        Raises:
            ClusterError: it does not answer, or names none.
        """
        path = f"/v2/models/{MODEL}"
        if self.cluster.inside:
            answer = _ask(f"http://{self.workload}.{self.namespace}.svc{path}")
        else:
            service = f"/api/v1/namespaces/{self.namespace}/services/{self.workload}:80"
            answer = self.cluster.get(f"{service}/proxy{path}")
        versions = answer.get("versions") or []
        if not versions:
            raise ClusterError(f"`{self.workload}` names no version of its model")
        return str(versions[0])

    def _waits_for(self, uri: str) -> str:
        """What is missing, or nothing."""
        workload = f"Deployment `{self.workload}`"
        deployment = self._deployment()
        if deployment is None:
            return f"{workload}, which KServe makes"
        if not _same(_annotation(deployment["spec"]["template"], SOURCE), uri):
            return f"{workload} to be given this model"
        wanted = deployment["spec"].get("replicas", 1)
        status: Body = deployment.get("status", {})
        if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
            return f"{workload} to be looked at"
        new, available, pods = (status.get(key, 0) for key in ("updatedReplicas", "availableReplicas", "replicas"))
        if not new == available == pods == wanted:
            return f"{workload}: {pods} pods, {new} of them new, {available} available, {wanted} wanted"
        service = self.cluster.find(self._inference_service()) or {}
        conditions: list[Body] = service.get("status", {}).get("conditions", [])
        if not any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
            return f"{self} to be Ready"
        return ""

    def _hopeless(self, uri: str) -> str:
        """Why more time will not help, or nothing."""
        for pod, container in self._failing(uri):
            if container["restartCount"] >= _HOPELESS_RESTARTS:
                return f"container `{container['name']}` of pod `{pod}` failed {container['restartCount'] + 1} times"
        return ""

    def _details(self, uri: str) -> str:
        """What KServe says of the model, and what the failing container said last."""
        lines = [""]
        try:
            service = self.cluster.find(self._inference_service())
            if service is None:
                lines.append(f"there is no {self}")
            elif model := service.get("status", {}).get("modelStatus"):
                lines.append(f"status.modelStatus: {json.dumps(model)}")
            if pod := self._youngest(uri):
                conditions: list[Body] = pod.get("status", {}).get("conditions", [])
                lines += [
                    f"pod `{pod['metadata']['name']}` has no node: {one.get('message', '')}"
                    for one in conditions
                    if one["type"] == "PodScheduled" and one["status"] == "False"
                ]
            for pod, container in self._failing(uri):
                state: Body = container.get("state", {})
                why = state.get("waiting") or state.get("terminated") or {}
                lines.append(f"pod `{pod}`, container `{container['name']}`: {why.get('reason', 'failed')}")
                lines += [f"  {line}" for line in self._tail(pod, container["name"])]
        except ClusterError as err:
            lines.append(err.message)
        return "\n".join(lines)

    def _failing(self, uri: str) -> list[tuple[str, Body]]:
        """Containers of the youngest pod with this model that ended in failure or cannot be started."""
        pod = self._youngest(uri)
        if pod is None:
            return []
        status: Body = pod.get("status", {})
        containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        return [(pod["metadata"]["name"], one) for one in containers if _failed(one)]

    def _youngest(self, uri: str) -> Body | None:
        """The youngest pod with this model."""
        pods: list[Body] = self.cluster.get(
            f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=f"app=isvc.{self.workload}"
        )["items"]
        ours = [pod for pod in pods if _same(_annotation(pod, SOURCE), uri)]
        return max(ours, key=lambda one: str(one["metadata"]["creationTimestamp"]), default=None)

    def _tail(self, pod: str, container: str) -> list[str]:
        try:
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
            text = self.cluster.text(path, container=container, tailLines=str(_LOG_LINES))
        except ClusterError as err:
            return [err.message]
        return text.splitlines()

    def _deployment(self) -> Body | None:
        return self.cluster.find(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.workload}")

    def _inference_service(self) -> str:
        return f"/apis/serving.kserve.io/v1beta1/namespaces/{self.namespace}/inferenceservices/{self.name}"


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _annotation(value: Body, name: str) -> str:
    return str((value["metadata"].get("annotations") or {}).get(name, ""))


def _failed(container: Body) -> bool:
    state: Body = container.get("state", {})
    if ended := state.get("terminated"):
        return ended.get("exitCode", 0) != 0
    waiting: Body = state.get("waiting") or {}
    return waiting.get("reason", "") not in {"", "PodInitializing", "ContainerCreating"}


def _ask(url: str) -> Any:
    try:
        answer = urllib3.request("GET", url, timeout=5.0, retries=False)
        if answer.status != 200:
            raise ClusterError(f"`{url}` answered {answer.status}", status=answer.status)
        return json.loads(answer.data)
    except (urllib3.exceptions.HTTPError, ValueError) as err:
        raise ClusterError(f"`{url}` does not answer: {err}") from err
