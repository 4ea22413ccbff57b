"""What a cluster needs beside our charts, pinned by versions.env, with the very commands that install it.

Nothing of it is kept in this repository. These commands want a cluster and a person that reach the internet; the local
cluster brings the same versions from package registries instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.cluster import Cluster
from manifests.versions import versions

FOLDER = Path(__file__).parent / "third-party"
_INSTALL_S = 900


@dataclass(frozen=True, slots=True)
class Command:
    """`helm` or `kubectl` with its arguments."""

    program: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.program, *self.arguments))

    def run(self, cluster: Cluster) -> None:
        """Runs it on the cluster.

        Raises:
            ClusterError: it failed, with its own words.
        """
        if self.program == "helm":
            cluster.run_helm(*self.arguments, timeout_s=_INSTALL_S)
        else:
            cluster.run_kubectl(*self.arguments, timeout_s=_INSTALL_S, in_namespace=False)


@dataclass(frozen=True, slots=True)
class Part:
    """One program of others that a cluster needs.

    Attributes:
        name: of its folder in third-party.
        brings: what it gives the cluster.
        commands: what installs it, in order.
    """

    name: str
    brings: str
    commands: tuple[Command, ...]


def parts() -> dict[str, Part]:
    """Every part by its name, in the order in which they are installed."""
    pins = versions()
    found = (
        Part(
            "cert-manager",
            "certificates for KServe's webhooks",
            (_chart("cert-manager", "oci://quay.io/jetstack/charts/cert-manager", pins["CERT_MANAGER_VERSION"]),),
        ),
        Part(
            "kserve",
            "InferenceServices",
            (
                _chart(
                    "kserve-crd",
                    "oci://ghcr.io/kserve/charts/kserve-crd",
                    pins["KSERVE_VERSION"],
                    "kserve",
                    values=None,
                ),
                _chart("kserve", "oci://ghcr.io/kserve/charts/kserve-resources", pins["KSERVE_VERSION"]),
            ),
        ),
        Part(
            "nvidia-device-plugin",
            "`nvidia.com/gpu` on the nodes",
            (
                _chart(
                    "nvidia-device-plugin",
                    "nvidia-device-plugin",
                    pins["NVIDIA_DEVICE_PLUGIN_VERSION"],
                    repository="https://nvidia.github.io/k8s-device-plugin",
                ),
            ),
        ),
        Part(
            "prometheus-operator",
            "Prometheus and the kinds ServiceMonitor and PrometheusRule",
            (
                _chart(
                    "prometheus-operator",
                    "oci://ghcr.io/prometheus-community/charts/kube-prometheus-stack",
                    pins["KUBE_PROMETHEUS_STACK_VERSION"],
                    "monitoring",
                ),
            ),
        ),
        Part(
            "kfp",
            "Kubeflow Pipelines",
            (
                _kubectl("apply", "--server-side", "--kustomize", str(FOLDER / "kfp" / "cluster-scoped")),
                _kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/applications.app.k8s.io"),
                _kubectl("apply", "--server-side", "--kustomize", str(FOLDER / "kfp")),
                _kubectl(*("--namespace", "kubeflow", "rollout", "status", "deployment/ml-pipeline", "--timeout=600s")),
            ),
        ),
    )
    return {part.name: part for part in found}


def install(needed: Sequence[Part], cluster: Cluster) -> None:
    """Runs the commands of these parts, in the order of `parts`.

    Raises:
        ClusterError: one of them failed, with its own words.
    """
    for part in parts().values():
        if part in needed:
            for command in part.commands:
                command.run(cluster)


def _chart(
    name: str,
    chart: str,
    version: str,
    namespace: str | None = None,
    *,
    repository: str | None = None,
    values: str | None = "values.yaml",
) -> Command:
    """`helm upgrade --install` of a published chart with the values of its folder."""
    arguments = ["upgrade", "--install", name, chart, "--version", version]
    arguments += ["--repo", repository] if repository else []
    arguments += ["--namespace", namespace or name, "--create-namespace"]
    arguments += ["--values", str(FOLDER / name / values)] if values else []
    return Command("helm", (*arguments, "--wait", "--timeout", "10m"))


def _kubectl(*arguments: str) -> Command:
    return Command("kubectl", arguments)
