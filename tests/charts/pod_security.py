"""What Pod Security "restricted" forbids, level by level as the standard lists it (as of Kubernetes 1.35).

Source: the Pod Security Standards of the Kubernetes documentation; the controls keep their names there.
"""

from collections.abc import Iterator, Mapping
from typing import Any

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
Pod = Mapping[str, Any]


def violations(pod: Pod, annotations: Mapping[str, str] | None = None) -> list[str]:
    """Every control that this pod (the `spec` of one) breaks, with where; empty for a pod that is let in."""
    return [*_pod(pod, annotations or {}), *(found for one in containers(pod) for found in _container(one, pod))]


def containers(pod: Pod) -> list[dict[str, Any]]:
    """Every container of the pod, those that run before it included."""
    return [one for kind in ("initContainers", "containers", "ephemeralContainers") for one in pod.get(kind) or []]


def _pod(pod: Pod, annotations: Mapping[str, str]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield f"Host Namespaces: {name}"
    for volume in pod.get("volumes") or []:
        for kind in set(volume) - {"name"} - VOLUMES:
            yield f"Volume Types: {kind} ({volume['name']})"
    context = pod.get("securityContext") or {}
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in SYSCTLS:
            yield f"Sysctls: {sysctl['name']}"
    for key, value in annotations.items():
        if key.startswith(APPARMOR) and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"AppArmor: annotation {value}"
    yield from _context(context, "pod")


def _container(container: Mapping[str, Any], pod: Pod) -> Iterator[str]:
    where = container["name"]
    context = container.get("securityContext") or {}
    shared = pod.get("securityContext") or {}
    yield from _context(context, where)
    if context.get("privileged"):
        yield f"Privileged Containers: {where}"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"Privilege Escalation: {where}"
    if context.get("procMount") not in (None, "Default"):
        yield f"/proc Mount Type: {where}"
    capabilities = context.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"Capabilities: {where} does not drop ALL"
    for added in set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"Capabilities: {where} adds {added}"
    if not context.get("runAsNonRoot", shared.get("runAsNonRoot")):
        yield f"Running as Non-root: {where}"
    if (context.get("seccompProfile") or shared.get("seccompProfile") or {}).get("type") is None:
        yield f"Seccomp: {where} has no profile"
    for port in container.get("ports") or []:
        if port.get("hostPort"):
            yield f"Host Ports: {where} {port['hostPort']}"
    for name, action in _actions(container):
        if any((action.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket")):
            yield f"Host Probes / Lifecycle Hooks: {where} {name}"


def _actions(container: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        yield name, container.get(name) or {}
    for name in ("postStart", "preStop"):
        yield name, (container.get("lifecycle") or {}).get(name) or {}


def _context(context: Mapping[str, Any], where: str) -> Iterator[str]:
    """What a pod and a container may both get wrong."""
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"HostProcess: {where}"
    options = context.get("seLinuxOptions") or {}
    if options.get("type") not in SELINUX_TYPES or options.get("user") or options.get("role"):
        yield f"SELinux: {where}"
    if (context.get("appArmorProfile") or {}).get("type") not in (None, "RuntimeDefault", "Localhost"):
        yield f"AppArmor: {where}"
    if (context.get("seccompProfile") or {}).get("type") not in (None, "RuntimeDefault", "Localhost"):
        yield f"Seccomp: {where}"
    if context.get("runAsUser") == 0:
        yield f"Running as Non-root user: {where}"
    if context.get("runAsNonRoot") is False:
        yield f"Running as Non-root: {where}"
