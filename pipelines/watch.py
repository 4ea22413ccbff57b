"""A run until it ends: steps as they change, and the log of what fails."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pipelines.api import Kubeflow
from pipelines.pods import Pods, PodsError, Trouble

ENDS = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")

_LAST_LOOKS = 3  # a pod's status may come later than the run's
_DRIVER = "-driver"


class Watch:
    """What was told of one run already.

    Args:
        api: of Kubeflow.
        run_id: of the run.
        steps: names that people know; Kubeflow lists drivers, executors and iterations beside them.
        pods: of the run's namespace; without them no log is shown.
        say: takes lines.
    """

    def __init__(
        self, api: Kubeflow, run_id: str, *, steps: Collection[str], pods: Pods | None, say: Callable[[str], None]
    ) -> None:
        self._api, self._run_id, self._steps, self._pods, self._say = api, run_id, steps, pods, say
        self._states: dict[str, str] = {}
        self._troubles: set[tuple[str, str]] = set()

    def until_end(self, *, timeout_s: float, poll_s: float) -> str | None:
        """The state that the run ends in, None where it has not after this time.

        Raises:
            KubeflowError: the API refused, or was out of reach for too long.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            state = self.look()
            if state in ENDS:
                for _ in range(_LAST_LOOKS if state == "FAILED" and not self._troubles and self._pods else 0):
                    time.sleep(min(poll_s, 2.0))
                    self._look_at_pods()
                return state
            if time.monotonic() + poll_s > deadline:
                return None
            time.sleep(poll_s)

    def look(self) -> str | None:
        """The run's state now; what has changed since the last look is told."""
        run = self._api.run(self._run_id)
        for task in (run.run_details and run.run_details.task_details) or ():
            self._tell(task)
        self._look_at_pods()
        return str(run.state) if run.state else None

    def _tell(self, task: Any) -> None:
        name, state = str(task.display_name), str(task.state or "PENDING")
        if name.endswith(_DRIVER) and state == "FAILED":
            shown = f"{name.removesuffix(_DRIVER)}: FAILED before its own pod started"
        elif name in self._steps:
            shown = f"{name}: {state}{_remark(task, state)}"
        else:
            return
        if self._states.get(task.task_id) != state:
            self._states[task.task_id] = state
            self._say(shown)

    def _look_at_pods(self) -> None:
        if self._pods is None:
            return
        try:
            troubles = self._pods.troubles(self._run_id)
        except PodsError as err:
            self._pods = None
            self._say(f"logs of steps cannot be shown: {err}")
            return
        for trouble in troubles:
            if (key := (trouble.pod, trouble.kind)) not in self._troubles:
                self._troubles.add(key)
                self._tell_trouble(trouble)

    def _tell_trouble(self, trouble: Trouble) -> None:
        self._say(f"{trouble.step}: {trouble.reason} (pod {trouble.pod})")
        for line in trouble.log.splitlines():
            self._say(f"  | {line}")


def steps_of(compiled: Mapping[str, Any]) -> set[str]:
    """The names of all steps in a compiled pipeline, nested ones too."""
    dags = [compiled["root"], *compiled["components"].values()]
    return {name for one in dags for name in one.get("dag", {}).get("tasks", {})}


def _remark(task: Any, state: str) -> str:
    if state == "SKIPPED":
        return " (nothing it depends on has changed: taken from the cache)"
    if state in ENDS and task.start_time and task.end_time:
        return f" after {(task.end_time - task.start_time).total_seconds():.0f} s"
    return ""
