"""What each step's pod gets on a cluster: identity, secrets, memory, disks and, if asked for, a GPU."""

from typing import Any

from kfp import kubernetes
from kfp.dsl import PipelineTask

UID = 10001  # of every image of ours
WORKSPACE = "/workspace"
WORKSPACE_CLAIM = "streetvision-workspace"  # feature cache, backbone weights and frozen challenge sets outlive a run
OBJECT_STORE_SECRET = "streetvision-object-store"  # noqa: S105  (the Secret's name, not a secret)
HUB_SECRET = "streetvision-hub"  # noqa: S105
MLFLOW_SECRET = "streetvision-mlflow"  # noqa: S105
GPU = "nvidia.com/gpu"

_OBJECT_STORE_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",  # the only one of the two that boto3 reads
)
_MLFLOW_KEYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_MLFLOW_RETRIES = 7  # four minutes: as long as its pod may take to come up on another node


def place(task: PipelineTask, *, cpu: tuple[str, str], memory: tuple[str, str]) -> None:
    """Gives a step what every step has: an unprivileged user, the object store's keys, requests and limits.

    Args:
        task: the step.
        cpu: what it asks for, and the most that it gets.
        memory: the same of memory.
    """
    task.set_cpu_request(cpu[0]).set_cpu_limit(cpu[1])
    task.set_memory_request(memory[0]).set_memory_limit(memory[1])
    # Kubeflow tries again where the node failed, not where the program did: steps try the network again themselves
    task.set_retry(2, backoff_duration="60s", backoff_factor=2.0)
    kubernetes.set_security_context(task, run_as_user=UID, run_as_group=UID, run_as_non_root=True)
    use_secret(task, OBJECT_STORE_SECRET, *_OBJECT_STORE_KEYS)


def use_registry(task: PipelineTask) -> None:
    """Gives a step MLflow's password, where it has one, and patience with an MLflow that is away."""
    task.set_env_variable("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(_MLFLOW_RETRIES))
    use_secret(task, MLFLOW_SECRET, *_MLFLOW_KEYS)


def use_secret(task: PipelineTask, name: str, *keys: str) -> None:
    """Passes these keys of a Secret as environment; a Secret or key that is not there is left out."""
    kubernetes.use_secret_as_env(task, name, {key: key for key in keys}, optional=True)


def use_workspace(task: PipelineTask) -> None:
    """Mounts the disk that outlives a run."""
    kubernetes.mount_pvc(task, WORKSPACE_CLAIM, WORKSPACE)


def use_gpu(task: PipelineTask, gpus: Any, node_selector: Any) -> None:
    """Gives a step this many GPUs of nodes with these labels, and memory that its loaders share.

    Args:
        task: the step.
        gpus: a pipeline parameter of type str: Kubeflow takes no number here, and none at all from an empty one.
        node_selector: a pipeline parameter of type dict.
    """
    task.set_accelerator_type(GPU).set_accelerator_limit(gpus)
    kubernetes.add_node_selector_json(task, node_selector)
    kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="2Gi")  # noqa: S108
