"""Batching under 64 clients, with an engine that is simulated, beside what else one could serve with."""

import base64
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from streetvision.imaging import encode_jpeg
from tests.bench.load import Load
from tests.bench.measure import Figure
from tests.bench.peers import simulated
from tests.bench.pictures import street
from tests.bench.servers import PEERS, ROOT, server

_INFER = "/v2/models/roadwork/infer"


@dataclass(frozen=True)
class _Contestant:
    """One server: how it is started, where it listens, and the shape of its request."""

    name: str
    command: tuple[str, ...]
    ready: str
    path: str
    body: str  # the base64 text goes where `%s` is
    packages: tuple[str, ...] = ()  # installed for it alone; none means our own environment
    folder: Path = ROOT


_V2 = '{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":["%s"]}]}'
_CONTESTANTS = (
    _Contestant(
        "ours",
        ("python", "-m", "tests.bench.peers.ours", "--http_port", "{port}", "--enable_grpc", "false"),
        "/v2/models/roadwork/ready",
        _INFER,
        _V2,
    ),
    _Contestant(
        "KServe, stock",
        (
            "python",
            str(PEERS / "kserve_stock.py"),
            "--http_port",
            "{port}",
            "--enable_grpc",
            "false",
            "--model_name=roadwork",
        ),
        "/v2/models/roadwork/ready",
        _INFER,
        _V2,
    ),
    _Contestant(
        "LitServe",
        ("python", str(PEERS / "litserve_batched.py"), "{port}"),
        "/health",
        "/predict",
        '{"image":"%s"}',
        ("litserve==0.2.19", "simplejpeg"),
    ),
    _Contestant(
        "BentoML",
        ("bentoml", "serve", "bentoml_batched:Batched", "--port", "{port}"),
        "/readyz",
        "/predict",
        '{"image":["%s"]}',
        ("bentoml==1.4.39", "simplejpeg"),
        PEERS,
    ),
)


def batching(repeat: int) -> Iterator[Figure]:
    """Answers a second at 64 clients, and the time of a lone request, of the servers in turn."""
    many: dict[str, list[Load]] = defaultdict(list)
    alone: dict[str, list[Load]] = defaultdict(list)
    installed = {one.name: _programs(one) for one in _CONTESTANTS}
    for one in _CONTESTANTS:
        if installed[one.name] is None:
            yield Figure(f"{one.name} cannot be installed here: not compared", "", 0.0, None, 0)
    with tempfile.TemporaryDirectory() as name:
        for _ in range(repeat):
            for one in _CONTESTANTS:
                programs = installed[one.name]
                if programs is not None:
                    _measure(one, programs, Path(name) / "body", many[one.name], alone[one.name])
    ours = statistics.median(load.rps for load in many["ours"])
    unused = 1 - ours / simulated.CEILING_RPS
    yield Figure("64 clients, answers a second", "", ours, None, repeat)
    yield Figure(f"  share of the ceiling of {simulated.CEILING_RPS:.0f} unused", "", unused, 0.2, repeat)
    yield Figure("  errors", "", sum(load.errors for load in (*many["ours"], *alone["ours"])), 0, repeat)
    p50_ms = statistics.median(load.p50_ms for load in alone["ours"])
    yield Figure("one client, half of the answers within", "ms", p50_ms, 1.3 * simulated.FLOOR_MS, repeat)
    for peer in [peer for peer in many if peer != "ours"]:
        rps = statistics.median(load.rps for load in many[peer])
        p50_ms = statistics.median(load.p50_ms for load in alone[peer])
        errors = sum(load.errors for load in (*many[peer], *alone[peer]))
        yield Figure(f"  {peer}: answers a second, as a share of ours", "", rps / ours, 1.0, repeat)
        yield Figure(f"  {peer}: one client ({errors} errors)", "ms", p50_ms, None, repeat)


def _measure(one: _Contestant, programs: Path, body: Path, many: list[Load], alone: list[Load]) -> None:
    body.write_text(one.body % base64.b64encode(encode_jpeg(street(224))).decode())
    command = (str(programs / one.command[0]), *one.command[1:])
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"  # of what it starts itself
    with server(command, one.ready, folder=one.folder, PATH=path) as running:
        running.load(one.path, body, connections=64, seconds=2)  # BentoML learns how long its engine takes
        many.append(running.load(one.path, body, connections=64, seconds=5))
        alone.append(running.load(one.path, body, connections=1, seconds=2.5))


def _programs(one: _Contestant) -> Path | None:
    """Folder of the programs a contestant runs with, installed if need be; none where that fails."""
    ours = Path(sys.executable).parent
    if not one.packages:
        return ours
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    environment = cache / "streetvision" / "bench" / "-".join(one.packages).replace("=", "")
    programs = environment / "bin"
    steps: Sequence[Sequence[str]] = (
        ("venv", "--quiet", "--allow-existing", "--python", sys.executable, str(environment)),
        ("pip", "install", "--quiet", "--python", str(programs / "python"), *one.packages),
    )
    for step in steps:
        if subprocess.run([str(ours / "uv"), *step], check=False).returncode:
            return None
    return programs
