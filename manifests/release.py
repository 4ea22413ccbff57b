"""Our release on a cluster: what helm would make of it, what it is now, and getting from one to the other."""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml

from manifests.cluster import Cluster, ClusterError, Object

# helm 4 waits otherwise until an InferenceService's observedGeneration is its generation; KServe puts its Deployment's
# there, which another scale or label moves on for ever. The chart predictor proves InferenceServices by a hook.
WAIT = "--wait=legacy"
_POLL_S = 5.0
MODEL_URI = "predictor.model.uri"
UNNAMED = f"s3://unnamed/models/roadwork/{'0' * 64}/"  # in place of a model that is not chosen yet


@dataclass(frozen=True, slots=True)
class Plan:
    """What helm makes of a chart and its values.

    Attributes:
        values: all of them, the chart's defaults included.
        manifest: the objects as text, without hooks.
        hooks: the objects that helm runs before, after and for tests, as text.
        chart: name and version.
    """

    values: Mapping[str, Any]
    manifest: str
    hooks: str
    chart: str

    @property
    def objects(self) -> list[Object]:
        """Every object, hooks included."""
        return [one for text in (self.manifest, self.hooks) for one in yaml.safe_load_all(text) if one]


@dataclass(frozen=True, slots=True)
class Release:
    """A release by its name, and the chart and values that it is to have.

    Attributes:
        name: of the release.
        chart: folder with built dependencies.
        files: values files, the later over the earlier.
        settings: `key=value`, over the files.
    """

    name: str
    chart: Path
    files: tuple[Path, ...]
    settings: tuple[str, ...]

    def model(self, cluster: Cluster) -> str | None:
        """Address of the model to serve: as `--set` has it, else what is served now, else as a values file has it.

        A rollout moves the release on from what the files say, and an upgrade by hand must not go back to it.
        """
        named = [setting.partition("=")[2] for setting in self.settings if setting.startswith(f"{MODEL_URI}=")]
        if named:
            return named[-1]
        current = self.current(cluster)
        if current and (served := at(current.values, MODEL_URI)):
            return served
        found = (at(yaml.safe_load(file.read_text()) or {}, MODEL_URI) for file in reversed(self.files))
        return next(filter(None, found), None)

    def with_settings(self, *settings: str) -> "Release":
        """The same with further settings, over its own."""
        return replace(self, settings=(*self.settings, *settings))

    def plan(self, cluster: Cluster, *, on_server: bool = False) -> Plan:
        """What an install or upgrade would make.

        Args:
            cluster: whose helm is used.
            on_server: whether the cluster is asked too, which must then know every kind.

        Raises:
            ClusterError: helm refused the values, with its own words.
        """
        text = cluster.run_helm(
            *("upgrade", "--install", self.name, str(self.chart), "--output", "json", *self._values()),
            f"--dry-run={'server' if on_server else 'client'}",
        )
        return _plan(json.loads(text))

    def current(self, cluster: Cluster) -> Plan | None:
        """The deployed revision, or nothing where there is none or the last one failed."""
        history = self._history(cluster)
        if not history or history[-1]["status"] != "deployed":
            return None
        parts = {
            what: cluster.run_helm("get", what, self.name, *(("--output", "json", "--all") if what == "values" else ()))
            for what in ("values", "manifest", "hooks")
        }
        values = cast("Mapping[str, Any]", json.loads(parts["values"]))
        return Plan(values, parts["manifest"], parts["hooks"], history[-1]["chart"])

    def revision(self, cluster: Cluster) -> int:
        """Of the newest attempt; 0 where there is none."""
        history = self._history(cluster)
        return int(history[-1]["revision"]) if history else 0

    def is_current(self, cluster: Cluster) -> bool:
        """Whether an upgrade would change nothing, in the release or in the cluster."""
        now = self.current(cluster)
        if now is None:
            return False
        wanted = self.plan(cluster, on_server=True)
        same = _canonical(now.manifest) == _canonical(wanted.manifest) and _canonical(now.hooks) == _canonical(
            wanted.hooks
        )
        if not same or now.chart != wanted.chart:
            return False
        names = cluster.run_kubectl(
            "get", "--filename=-", "--ignore-not-found", "--output=name", stdin=now.manifest
        ).split()
        return len(names) == len([one for one in yaml.safe_load_all(now.manifest) if one])

    def upgrade(self, cluster: Cluster, *, timeout_s: int, say: Callable[[str], None]) -> None:
        """Installs or upgrades, and goes back to the revision before where that fails.

        Args:
            cluster: where.
            timeout_s: of each thing that helm waits for.
            say: is told now and then which pods are not ready, and why.

        Raises:
            ClusterError: it failed, with helm's own words and what the pods said before they were gone.
        """
        command = [
            *(str(cluster.helm), "upgrade", "--install", self.name, str(self.chart), "--namespace", cluster.namespace),
            *(("--kube-context", cluster.context) if cluster.context else ()),
            *(*self._values(), WAIT, "--rollback-on-failure", "--timeout", f"{timeout_s}s"),
        ]
        said = ""
        with (
            tempfile.TemporaryFile("w+") as output,  # no pipe: a failed hook's log may be longer than one holds
            subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True) as process,
        ):
            try:
                while not _ended(process):
                    if (waiting := self._waiting(cluster)) and waiting != said:
                        say(waiting)
                        said = waiting
            except BaseException:
                process.terminate()  # helm marks the release as failed and goes back
                process.wait(60)
                raise
            output.seek(0)
            words = output.read().strip()
        if process.returncode:
            raise ClusterError(
                f"helm could not bring release `{self.name}` up: {words}" + (f"\nlast seen: {said}" if said else ""),
                hint=f"helm history {self.name} --namespace {cluster.namespace}; "
                f"kubectl --namespace {cluster.namespace} get events --sort-by=.lastTimestamp",
            )

    def _waiting(self, cluster: Cluster) -> str:
        """The pods that are not ready, in a line."""
        try:
            text = cluster.run_kubectl(
                "get", "pods", f"--selector=app.kubernetes.io/instance={self.name}", "--output=json"
            )
        except ClusterError:
            return ""
        pods = cast("list[Object]", json.loads(text)["items"])
        return ", ".join(found for pod in pods if (found := _unready(pod)))

    def _history(self, cluster: Cluster) -> list[dict[str, Any]]:
        try:
            return json.loads(cluster.run_helm("history", self.name, "--output", "json"))
        except ClusterError as err:
            if "not found" in err.message:
                return []
            raise

    def _values(self) -> list[str]:
        files = [argument for file in self.files for argument in ("--values", str(file))]
        return [*files, *(argument for setting in self.settings for argument in ("--set", setting))]


def _ended(process: subprocess.Popen[str]) -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def at(values: Mapping[str, Any], path: str) -> Any:
    """The value at `a.b.c`, or nothing."""
    found: Any = values
    for key in path.split("."):
        found = cast("Mapping[str, Any]", found).get(key) if isinstance(found, Mapping) else None
    return found


def _plan(release: Mapping[str, Any]) -> Plan:
    about = release["chart"]["metadata"]
    return Plan(
        values=_over(release["chart"].get("values") or {}, release.get("config") or {}),
        manifest=release["manifest"],
        hooks="\n---\n".join(hook["manifest"] for hook in release.get("hooks") or []),
        chart=f"{about['name']}-{about['version']}",
    )


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        merged[key] = _over(cast("Mapping[str, Any]", under), cast("Mapping[str, Any]", value)) if both else value
    return merged


def _canonical(text: str) -> list[str]:
    """The objects in an order of their own."""
    return sorted(json.dumps(one, sort_keys=True) for one in yaml.safe_load_all(text) if one)


def _unready(pod: Object) -> str | None:
    status = pod["status"]
    if status.get("phase") == "Succeeded":
        return None
    states = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    if states and all(one.get("ready") or "terminated" in one["state"] for one in states):
        return None
    reasons = [one["state"]["waiting"].get("reason", "") for one in states if "waiting" in one["state"]]
    conditions = [
        one.get("message", "") for one in status.get("conditions", []) if one.get("reason") == "Unschedulable"
    ]
    why = next(iter([*conditions, *filter(None, reasons)]), "not ready yet")
    return f"{pod['metadata']['name']} ({re.sub(r'[.]$', '', why)})"
