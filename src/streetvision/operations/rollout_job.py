"""The rollout as a Job of the cluster: started from the CronJob that has the right to it, and waited for."""

import json
import logging
import time
import uuid
from dataclasses import dataclass
from typing import Self

from streetvision.cluster import Body, Cluster
from streetvision.errors import ClusterError, RolloutError, SettingsError

_EVERY_S = 2.0
_LONGEST_S = 3600.0  # where the Job itself has no deadline
_SLACK_S = 120.0  # for its pod to be placed and its image to come
_LOG_LINES = 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RolloutJob:
    """A CronJob whose Job rolls the champion out.

    Attributes:
        cluster: where it lies.
        namespace: of the CronJob and of the release.
        cron_job: its name.
    """

    cluster: Cluster
    namespace: str
    cron_job: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """The CronJob called `NAMESPACE/CRONJOB`.

        Raises:
            SettingsError: the name has another form, or no cluster can be reached from here.
        """
        namespace, _, cron_job = name.partition("/")
        if not namespace or not cron_job or "/" in cron_job:
            raise SettingsError(f"rollout is `{name}`, expected `NAMESPACE/CRONJOB`")
        return cls(Cluster.connect(), namespace, cron_job)

    def run(self) -> str:
        """What the Job said, once it has done its work.

        Raises:
            RolloutError: it failed or took too long; what its pod said last is in the message.
            ClusterError: the API refuses or is out of reach.
            SettingsError: there is no such CronJob.
        """
        name, timeout_s = self._start()
        _log.info("waiting for Job `%s/%s`", self.namespace, name)
        deadline = time.monotonic() + timeout_s
        while True:
            ended, reason = self._ended(name)
            if ended == "Complete":
                return self._said(name)
            if ended or time.monotonic() >= deadline:
                why = reason or (ended and "failed") or f"did not end within {timeout_s:.0f} s"
                raise RolloutError(
                    f"Job `{self.namespace}/{name}`: {why}: {self._said(name)}",
                    hint=f"kubectl --namespace {self.namespace} logs job/{name}",
                )
            time.sleep(_EVERY_S)

    def _start(self) -> tuple[str, float]:
        """Name of a new Job, and how long it may take."""
        path = f"/apis/batch/v1/namespaces/{self.namespace}"
        cron_job = self.cluster.find(f"{path}/cronjobs/{self.cron_job}")
        if cron_job is None:
            raise SettingsError(
                f"there is no CronJob `{self.namespace}/{self.cron_job}`",
                hint="the chart `pipelines` has it; name it by the pipeline's parameter `rollout`",
            )
        template: Body = cron_job["spec"]["jobTemplate"]
        metadata: Body = template.get("metadata") or {}
        job: Body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": f"{self.cron_job[:50].rstrip('-')}-{uuid.uuid4().hex[:8]}",
                "labels": metadata.get("labels") or {},
                "annotations": {**(metadata.get("annotations") or {}), "cronjob.kubernetes.io/instantiate": "manual"},
                # so that the CronJob's history limits count it, and it goes with the CronJob
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "CronJob",
                        "name": self.cron_job,
                        "uid": cron_job["metadata"]["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": template["spec"],
        }
        made = self.cluster.create(f"{path}/jobs", job)
        seconds = template["spec"].get("activeDeadlineSeconds")
        return str(made["metadata"]["name"]), float(seconds or _LONGEST_S) + _SLACK_S

    def _ended(self, name: str) -> tuple[str, str]:
        """`Complete`, `Failed` or nothing yet, and why."""
        try:
            job = self.cluster.find(f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{name}")
        except ClusterError as err:
            if err.status in {401, 403}:
                raise
            return "", ""  # it may answer the next time
        if job is None:
            return "Failed", "somebody deleted it"
        conditions: list[Body] = job.get("status", {}).get("conditions") or []
        for condition in conditions:
            if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
                return condition["type"], condition.get("message", "") if condition["type"] == "Failed" else ""
        return "", ""

    def _said(self, name: str) -> str:
        """The last words of its pod: the sentence of its JSON document, or the end of its log."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        try:
            pods: list[Body] = self.cluster.get(path, labelSelector=f"job-name={name}")["items"]
            if not pods:
                return "it had no pod"
            pod = max(pods, key=lambda one: str(one["metadata"]["creationTimestamp"]))
            text = self.cluster.text(f"{path}/{pod['metadata']['name']}/log", tailLines=str(_LOG_LINES))
        except ClusterError as err:
            return err.message
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            return str(json.loads(lines[-1])["sentence"])
        except (IndexError, ValueError, KeyError, TypeError):
            errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
            return "\n".join(lines[errors[-1] :] if errors else lines).removeprefix("error: ")
