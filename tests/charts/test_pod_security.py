import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.charts.pod_security import APPARMOR, violations

GOOD = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
    "initContainers": [
        {
            "name": "first",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
    "containers": [
        {
            "name": "main",
            "ports": [{"containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
            "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                "seLinuxOptions": {"type": "container_t", "level": "s0"},
            },
        }
    ],
    "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "key", "secret": {"secretName": "key"}}],
}
Pod = dict[str, Any]


def _main(pod: Pod) -> dict[str, Any]:
    return pod["containers"][0]


def _context(pod: Pod) -> dict[str, Any]:
    return _main(pod)["securityContext"]


BROKEN: dict[str, Callable[[Pod], object]] = {
    "HostProcess": lambda pod: pod["securityContext"].update(windowsOptions={"hostProcess": True}),
    "Host Namespaces: hostNetwork": lambda pod: pod.update(hostNetwork=True),
    "Host Namespaces: hostPID": lambda pod: pod.update(hostPID=True),
    "Host Namespaces: hostIPC": lambda pod: pod.update(hostIPC=True),
    "Privileged Containers": lambda pod: _context(pod).update(privileged=True),
    "Capabilities: main does not drop ALL": lambda pod: _context(pod).update(capabilities={"drop": ["NET_RAW"]}),
    "Capabilities: main adds NET_ADMIN": lambda pod: _context(pod)["capabilities"].update(add=["NET_ADMIN"]),
    "Volume Types: hostPath": lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "Volume Types: nfs": lambda pod: pod["volumes"].append({"name": "net", "nfs": {"server": "a", "path": "/"}}),
    "Host Ports: main 8080": lambda pod: _main(pod)["ports"][0].update(hostPort=8080),
    "Host Probes / Lifecycle Hooks: main readinessProbe": lambda pod: _main(pod)["readinessProbe"]["httpGet"].update(
        host="10.0.0.1"
    ),
    "Host Probes / Lifecycle Hooks: main preStop": lambda pod: _main(pod)["lifecycle"].update(
        preStop={"tcpSocket": {"host": "10.0.0.1", "port": 1}}
    ),
    "AppArmor: main": lambda pod: _context(pod).update(appArmorProfile={"type": "Unconfined"}),
    "SELinux: main": lambda pod: _context(pod)["seLinuxOptions"].update(type="spc_t"),
    "SELinux: pod": lambda pod: pod["securityContext"].update(seLinuxOptions={"user": "root"}),
    "/proc Mount Type": lambda pod: _context(pod).update(procMount="Unmasked"),
    "Seccomp: main": lambda pod: _context(pod).update(seccompProfile={"type": "Unconfined"}),
    "Seccomp: main has no profile": lambda pod: pod["securityContext"].pop("seccompProfile"),
    "Sysctls: kernel.msgmax": lambda pod: pod["securityContext"].update(
        sysctls=[{"name": "kernel.msgmax", "value": "1"}]
    ),
    "Privilege Escalation: main": lambda pod: _context(pod).pop("allowPrivilegeEscalation"),
    "Privilege Escalation: first": lambda pod: pod["initContainers"][0]["securityContext"].update(
        allowPrivilegeEscalation=True
    ),
    "Running as Non-root: main": lambda pod: pod["securityContext"].pop("runAsNonRoot"),
    "Running as Non-root user: main": lambda pod: _context(pod).update(runAsUser=0),
    "Running as Non-root user: pod": lambda pod: pod["securityContext"].update(runAsUser=0),
}


def test_a_restricted_pod_is_let_in():
    assert violations(GOOD, {APPARMOR + "main": "runtime/default"}) == []


@pytest.mark.parametrize("control", BROKEN)
def test_each_broken_control_is_named(control):
    pod = copy.deepcopy(GOOD)
    BROKEN[control](pod)
    assert any(found.startswith(control) for found in violations(pod)), violations(pod)


def test_an_unconfined_apparmor_annotation_is_named():
    assert violations(GOOD, {APPARMOR + "main": "unconfined"}) == ["AppArmor: annotation unconfined"]


def test_a_container_may_say_itself_what_the_pod_does_not():
    pod = copy.deepcopy(GOOD)
    shared = pod.pop("securityContext")
    for one in (*pod["initContainers"], *pod["containers"]):
        one["securityContext"] |= shared
    assert violations(pod) == []
