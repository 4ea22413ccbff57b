"""TCP ports of this machine that nobody listens on."""

import socket
from contextlib import ExitStack, suppress
from random import SystemRandom

# Below those that Linux gives to connections: one of these could be taken again before a server has started.
_PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """As many different ports."""
    ports: list[int] = []
    candidates = iter(SystemRandom().sample(_PORTS, len(_PORTS)))
    with ExitStack() as held:
        while len(ports) < count:
            port = next(candidates)
            with suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports


def free_port() -> int:
    return free_ports(1)[0]


def unused_url() -> str:
    """Where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"
