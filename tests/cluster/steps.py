"""Steps of a compiled pipeline as pods of this cluster, without Kubeflow.

A pod gets what Kubeflow 2.17's driver and launcher were seen to make of a step: the image, command and arguments as
they are compiled, `{{$}}` replaced by the executor input, environment from Secrets, claims, and the security context
that they add to the pipeline's own. What differs: artifacts lie on a claim at the folder where the launcher would put
what it fetched from S3, nothing is cached, a pod asks for little of the node, and what a step gave is read from a
container that runs after it.
"""

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.cluster import ClusterError, Object
from pipelines.catalogue import packages
from tests.cluster import wait
from tests.cluster.client import RESTRICTED, Client
from tests.cluster.our_images import image
from tests.pipelines.ir import Compiled, Step

CLAIM = "artifacts"
FOLDER = "/s3/artifacts"  # where kfp looks for s3://artifacts
GIVEN = "/tmp/kfp_outputs/output_metadata.json"
MODEL = {"schemaTitle": "system.Model", "schemaVersion": "0.0.1"}

_ADDED = RESTRICTED | {"seccompProfile": {"type": "RuntimeDefault"}}


@dataclass(frozen=True)
class Given:
    """What a step left.

    Attributes:
        parameters: its output parameters, by name.
        artifacts: its output artifacts, as the next step is told of them.
        log: everything that it said.
    """

    parameters: Mapping[str, Any]
    artifacts: Mapping[str, Object]
    log: str


class Run:
    """One run of a compiled pipeline, its steps started one by one.

    Args:
        client: of the namespace.
        name: of the pipeline.
        scratch: an empty folder.
        account: ServiceAccount of the steps.
        parameters: of the run; the pipeline's defaults fill in.
    """

    def __init__(
        self, client: Client, name: str, scratch: Path, *, account: str, parameters: Mapping[str, Any]
    ) -> None:
        self._client, self._account = client, account
        compiled = Compiled.read(packages(scratch)[name].path)
        self._steps = {step.name: step for step in compiled.steps}
        declared = compiled.specification["root"]["inputDefinitions"]["parameters"]
        defaults = {key: one["defaultValue"] for key, one in declared.items() if "defaultValue" in one}
        self._parameters = defaults | dict(parameters)
        self._root = f"s3://{CLAIM}/{name}/{secrets.token_hex(4)}"
        self._asked: dict[str, Object] = {}
        self.given: dict[str, Given] = {}

    def step(self, name: str, *, image: str | None = None, timeout_s: float = 400.0, **instead: Object) -> Given:
        """What the step left, once its pod is done; later steps are told of it.

        Args:
            name: of the step.
            image: another one than the compiled one.
            timeout_s: the pod must have ended by then.
            instead: input artifacts in place of those that steps before left.

        Raises:
            ClusterError: the step failed, with the end of what it said.
        """
        return self.finish(name, self.start(name, image=image, **instead), timeout_s=timeout_s)

    def start(self, name: str, *, image: str | None = None, **instead: Object) -> str:
        """The name of the step's new pod."""
        pod = self.pod(name, image=image, **instead)
        self._client.apply(pod)
        return pod["metadata"]["name"]

    def finish(self, name: str, pod: str, *, timeout_s: float = 400.0) -> Given:
        """What the step left, once its pod is done; later steps are told of it.

        Raises:
            ClusterError: the step failed, with the end of what it said.
        """
        said = _end(self._client, pod, container="main", timeout_s=timeout_s)
        output = json.loads(self._client.kubectl("logs", pod, "--container=tell"))
        told = {key: one["artifacts"][0] for key, one in output.get("artifacts", {}).items()}
        asked = self._asked[pod]["artifacts"]
        artifacts = {key: one["artifacts"][0] | told.get(key, {}) for key, one in asked.items()}
        self.given[name] = Given(output.get("parameterValues", {}), artifacts, said)
        return self.given[name]

    def put(self, name: str, files: Mapping[str, bytes]) -> Object:
        """An artifact of a step that does not run here: a folder with these files."""
        uri = f"{self._root}/{name}/{secrets.token_hex(4)}"
        pod = _pod(f"put-{secrets.token_hex(4)}")
        place = pod["metadata"]["name"]
        contents = {path: base64.b64encode(content).decode() for path, content in files.items()}
        self._client.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": place}, "binaryData": contents}
        )
        command = ["sh", "-ec", 'mkdir -p "$0" && cp -L /given/* "$0"', _local(uri)]
        mounts = [_ARTIFACTS, {"name": "given", "mountPath": "/given"}]
        pod["spec"]["containers"] = [_container("main", command, mounts)]
        pod["spec"]["volumes"].append({"name": "given", "configMap": {"name": place}})
        self._client.apply(pod)
        _end(self._client, place, container="main", timeout_s=120)
        return {"name": name, "uri": uri, "type": MODEL, "metadata": {}}

    def read(self, artifact: Object) -> bytes:
        """The content of an artifact that is one file."""
        pod = _pod(f"read-{secrets.token_hex(4)}")
        pod["spec"]["containers"] = [_container("main", ["base64", "-w0", _local(artifact["uri"])], [_ARTIFACTS])]
        self._client.apply(pod)
        return base64.b64decode(_end(self._client, pod["metadata"]["name"], container="main", timeout_s=120))

    def write(self, artifact: Object, content: bytes) -> Object:
        """The artifact, the same but for what its one file holds."""
        folder = self.put(artifact["name"], {"content": content})
        return artifact | {"uri": f"{folder['uri']}/content"}

    def pod(self, name: str, *, image: str | None = None, **instead: Object) -> Object:
        """What Kubeflow would run of a step."""
        step = self._steps[name]
        executor_input = self._executor_input(step, instead)
        pod = _pod(f"{name}-{secrets.token_hex(4)}")
        self._asked[pod["metadata"]["name"]] = executor_input["outputs"]
        claims = [
            {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim}}
            for index, claim in enumerate(step.mounts.values())
        ]
        mounts = [
            _ARTIFACTS,
            _OUTPUTS,
            *({"name": f"claim-{index}", "mountPath": path} for index, path in enumerate(step.mounts)),
        ]
        user = {key: value if key == "runAsNonRoot" else int(value) for key, value in _security(step).items()}
        text = json.dumps(executor_input)
        limits = {"memory": step.container["resources"]["resourceMemoryLimit"]}
        main = {
            "name": "main",
            "image": image or step.container["image"],
            "command": step.container["command"],
            "args": [text if argument == "{{$}}" else argument for argument in step.container["args"]],
            "env": [*_from_secrets(step), *step.container.get("env", [])],
            "securityContext": _ADDED | user,
            "resources": {"limits": limits, "requests": {"cpu": "50m", "memory": "128Mi"}},
            "volumeMounts": mounts,
        }
        outputs = [one["artifacts"][0] for one in executor_input["outputs"]["artifacts"].values()]
        folders = [str(Path(_local(one["uri"])).parent) for one in outputs]
        pod["spec"] |= {
            "serviceAccountName": self._account,
            "initContainers": [_container("launcher", ["mkdir", "-p", *folders], [_ARTIFACTS]), main],
            "containers": [_container("tell", ["cat", GIVEN], [_OUTPUTS])],
        }
        pod["spec"]["volumes"] += [{"name": "outputs", "emptyDir": {}}, *claims]
        return pod

    def _executor_input(self, step: Step, instead: Mapping[str, Object]) -> Object:
        declared = step.component["inputDefinitions"]
        sources = step.task["inputs"]
        parameters = {
            name: self._parameter(sources["parameters"][name], kind["parameterType"])
            for name, kind in declared.get("parameters", {}).items()
        }
        inputs = {
            name: instead.get(name) or self._artifact(sources["artifacts"][name])
            for name in declared.get("artifacts", {})
        }
        made = step.component["outputDefinitions"]
        folder = f"{self._root}/{step.name}/{secrets.token_hex(4)}"
        outputs = {
            name: {"name": name, "uri": f"{folder}/{name}", "type": one["artifactType"], "metadata": {}}
            for name, one in made.get("artifacts", {}).items()
        }
        return {
            "inputs": {
                "parameterValues": parameters,
                "artifacts": {name: {"artifacts": [one]} for name, one in inputs.items()},
            },
            "outputs": {
                "parameters": {name: {"outputFile": f"/tmp/kfp/outputs/{name}"} for name in made.get("parameters", {})},
                "artifacts": {name: {"artifacts": [one]} for name, one in outputs.items()},
                "outputFile": GIVEN,
            },
        }

    def _parameter(self, source: Object, kind: str) -> Any:
        if "runtimeValue" in source:
            return source["runtimeValue"]["constant"]
        if "taskOutputParameter" in source:
            producer = source["taskOutputParameter"]
            return self.given[producer["producerTask"]].parameters[producer["outputParameterKey"]]
        value = self._parameters[source["componentInputParameter"]]
        return int(value) if kind == "NUMBER_INTEGER" else value

    def _artifact(self, source: Object) -> Object:
        producer = source["taskOutputArtifact"]
        return self.given[producer["producerTask"]].artifacts[producer["outputArtifactKey"]]


_ARTIFACTS = {"name": CLAIM, "mountPath": FOLDER}
_OUTPUTS = {"name": "outputs", "mountPath": str(Path(GIVEN).parent)}


def _pod(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "step"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"fsGroup": 10001},  # for the claim of artifacts, which Kubeflow has not
            "volumes": [{"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}}],
        },
    }


def _container(name: str, command: list[str], mounts: list[Object]) -> Object:
    security = _ADDED | {"runAsNonRoot": True, "runAsUser": 10001}
    return {
        "name": name,
        "image": image("pipeline-cpu"),
        "command": command,
        "securityContext": security,
        "volumeMounts": mounts,
    }


def _security(step: Step) -> Object:
    return step.platform.get("securityContext", {})


def _from_secrets(step: Step) -> list[Object]:
    return [
        {
            "name": pair["envVar"],
            "valueFrom": {
                "secretKeyRef": {
                    "name": secret["secretName"],
                    "key": pair["secretKey"],
                    "optional": secret.get("optional", False),
                }
            },
        }
        for secret in step.platform.get("secretAsEnv", [])
        for pair in secret["keyToEnv"]
    ]


def _local(uri: str) -> str:
    """Where the launcher puts what it fetches from there, and kfp looks for it."""
    return uri.replace("s3://", "/s3/")


def _end(client: Client, name: str, *, container: str, timeout_s: float) -> str:
    """What a container said, once its pod is done.

    Raises:
        ClusterError: the pod failed, with the end of what it said.
    """
    phase = wait.until(
        lambda: {"Succeeded", "Failed"} & {client.get("pod", name)["status"]["phase"]},
        what=f"the end of pod {name}",
        timeout_s=timeout_s,
    )
    said = client.kubectl("logs", name, f"--container={container}", "--tail=-1")
    if phase == {"Failed"}:
        raise ClusterError(f"pod {name} failed: {said[-3000:]}")
    return said
