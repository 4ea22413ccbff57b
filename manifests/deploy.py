"""`python -m manifests.deploy kind | gpu`: brings StreetVision up on a cluster, or says what the cluster lacks.

The profile `kind` is for a local cluster (`make kind-up`): keys, hotkeys, a small S3 server and a first model are made
for it. The profile `gpu` is for a cluster of your own: Secrets are never made up there, and everything that is missing
is named with the command that brings it. Running it again changes nothing that is as it should be.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests import charts, third_party
from manifests.cluster import OVERLAYS, Cluster
from manifests.local_cluster import MADE, models_uri, prepare, register
from manifests.needs import Kubeflow, Need, Reference, annotations, needs
from manifests.release import MODEL_URI, UNNAMED, Release, at
from streetvision.errors import SettingsError, StreetvisionError

PROFILES = ("kind", "gpu")
OBJECT_STORE_KEYS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"})
MLFLOW_KEYS = frozenset({"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"})
MISSING = 3


@dataclass
class Steps:
    """What was done, and how long it took."""

    rows: list[tuple[str, str, float]] = field(default_factory=list[tuple[str, str, float]])

    @contextmanager
    def step(self, name: str) -> Generator["Step"]:
        """Times the block; the step's `outcome` is what it came to."""
        begun = time.monotonic()
        step = Step()
        print(f"{name} ...", flush=True)
        try:
            yield step
        except BaseException:
            step.outcome = "FAILED"
            raise
        finally:
            self.rows.append((name, step.outcome, time.monotonic() - begun))

    def table(self) -> str:
        """A line for each step, and their sum."""
        width = max(len(name) for name, _, _ in self.rows)
        lines = [f"{name:<{width}}  {seconds:>6.1f} s  {outcome}" for name, outcome, seconds in self.rows]
        return "\n".join([*lines, f"{'in all':<{width}}  {sum(seconds for _, _, seconds in self.rows):>6.1f} s"])


@dataclass
class Step:
    """One step while it runs."""

    outcome: str = "done"

    def changed(self, *, yes: bool) -> None:
        """Says whether it changed anything."""
        self.outcome = "done" if yes else "unchanged"


def main(argv: list[str] | None = None) -> int:
    """Deploys; returns the exit code: 0 well, 1 failed, 2 bad input, 3 the cluster lacks something, 130 interrupted."""
    arguments = parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    steps = Steps()
    try:
        return deploy(arguments, steps)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2 if isinstance(err, ValueError) else 1
    except KeyboardInterrupt:
        print("interrupted: what is done stays, the next run goes on from there", file=sys.stderr)
        return 130
    finally:
        if steps.rows:
            print(f"\n{steps.table()}", flush=True)


def deploy(arguments: argparse.Namespace, steps: Steps) -> int:
    """All steps in order; the exit code."""
    with steps.step("cluster") as step:
        cluster = Cluster.connect(context=arguments.context, namespace=arguments.namespace)
        step.outcome = f"{cluster.name()}, Kubernetes {'.'.join(map(str, cluster.server_version()))}"
    with tempfile.TemporaryDirectory() as scratch:
        release = _release(arguments, Path(scratch, "charts"))
        if not arguments.check:
            release = _prepare(arguments, cluster, release, steps)
        with steps.step("what the cluster has") as step:
            found = _needs(arguments, cluster, release)
            step.outcome = f"{sum(need.missing is None for need in found)} of {len(found)}"
        if arguments.install_third_party and not arguments.check and _install(cluster, found, steps):
            found = _needs(arguments, cluster, release)
        missing = [need for need in found if need.missing]
        if missing or arguments.check:
            print(listed(found))
            return MISSING if missing else 0
        with steps.step(f"release {release.name}") as step:
            if release.is_current(cluster):
                step.outcome = f"unchanged, revision {release.revision(cluster)}"
            else:
                release.upgrade(
                    cluster, timeout_s=arguments.timeout_s, say=lambda words: print(f"  waiting for {words}")
                )
                step.outcome = f"revision {release.revision(cluster)}"
        if arguments.profile == "kind":
            register(cluster, release, steps.step, named=_names_a_model(arguments))
    print(f"\nprove it: helm test {release.name} --namespace {cluster.namespace} --logs")
    return 0


def _release(arguments: argparse.Namespace, scratch: Path) -> Release:
    for file in arguments.values:
        if not file.is_file():
            raise SettingsError(f"`{file}` is no file of values")
    umbrella = charts.build(scratch) / charts.UMBRELLA
    return Release(
        name=arguments.release,
        chart=umbrella,
        files=(umbrella / f"values-{arguments.profile}.yaml", *arguments.values),
        settings=tuple(arguments.set),
    )


def _prepare(arguments: argparse.Namespace, cluster: Cluster, release: Release, steps: Steps) -> Release:
    """The release with its model, after all that may be made without asking was made."""
    if arguments.profile == "kind":
        return prepare(cluster, release, steps.step, model_dir=arguments.model_dir, state=arguments.state)
    with steps.step("namespace") as step:
        step.changed(yes=cluster.apply(cluster.kustomized(OVERLAYS / arguments.profile)))
    uri = release.model(cluster)
    return release.with_settings(f"{MODEL_URI}={uri}") if uri else release


def _needs(arguments: argparse.Namespace, cluster: Cluster, release: Release) -> list[Need]:
    uri = release.model(cluster)
    plan = release.with_settings(f"{MODEL_URI}={uri or UNNAMED}").plan(cluster)
    found = needs(cluster, plan.objects, kubeflow=kubeflow(plan.values))
    if arguments.profile == "kind":
        return [need for need in found if not (need.reference and need.reference.name in MADE)]
    store = plan.values["global"]["objectStore"]
    if store["existingSecret"] and store["endpoint"] and at(plan.values, "predictor.enabled"):
        there = {"endpoint": store["endpoint"], "region": store["region"]}
        found.append(annotations(cluster, store["existingSecret"], **there))
    if not uri and UNNAMED in plan.manifest:
        found.insert(0, Need(f"a model: `{MODEL_URI}`", "it is not set", _HOW_MODEL.format(models_uri(plan.values))))
    return found


_HOW_MODEL = """\
aws s3 cp --recursive MODEL_DIRECTORY {0}/SHA256/
         --set predictor.model.uri={0}/SHA256/   (`make run` leaves model directories in .streetvision/models/SHA256)"""


def kubeflow(values: Mapping[str, Any]) -> Kubeflow | None:
    """What a release with these values asks of Kubeflow, or nothing where it uploads no pipelines."""
    pipelines = values["pipelines"]
    if not (pipelines["enabled"] and at(pipelines, "upload.enabled")):
        return None
    secrets = {
        "streetvision-object-store": (at(values, "global.objectStore.existingSecret"), OBJECT_STORE_KEYS),
        "streetvision-mlflow": (at(pipelines, "mlflow.existingSecret"), MLFLOW_KEYS),
    }
    wanted = tuple(Reference("Secret", name, keys) for name, (used, keys) in secrets.items() if used)
    return Kubeflow(at(pipelines, "kfp.host"), at(pipelines, "kfp.namespace"), wanted)


def _names_a_model(arguments: argparse.Namespace) -> bool:
    return bool(arguments.model_dir) or any(setting.startswith(f"{MODEL_URI}=") for setting in arguments.set)


def _install(cluster: Cluster, found: Sequence[Need], steps: Steps) -> bool:
    """Installs the programs of others that are missing; returns whether there were any."""
    wanted = {need.part.name for need in found if need.missing and need.part}
    for name, part in third_party.parts().items():
        if name in wanted:
            with steps.step(f"install {name}"):
                third_party.install([part], cluster)
    return bool(wanted)


def listed(found: Sequence[Need]) -> str:
    """A line for each need; under what is missing, how to come by it."""
    lines: list[str] = []
    for need in found:
        lines.append(
            f"{'MISSING' if need.missing else 'ok':<8} {need.what}" + (f": {need.missing}" if need.missing else "")
        )
        if need.missing:
            lines += [f"         {command}" for command in (need.part.commands if need.part else ())]
            lines += [f"         {need.how}"] if need.how else []
    if any(need.missing and need.part for need in found):
        lines.append("\n--install-third-party runs these commands; they fetch charts and images from the internet.")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked; a malformed one ends the process as argparse does."""
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m manifests.deploy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("profile", choices=PROFILES, help="what kind of cluster it is")
    parser.add_argument("--namespace", default="streetvision", help="where everything of ours goes")
    parser.add_argument("--release", default="sv", help="name of the release; objects are called after it")
    parser.add_argument("--context", help="of the kubeconfig; the current one where none is named")
    parser.add_argument("--check", action="store_true", help="change nothing; say what the cluster lacks")
    parser.add_argument(
        "--values", action="append", default=[], type=Path, metavar="FILE", help="your own, over the profile's"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one of them")
    parser.add_argument("--install-third-party", action="store_true", help="install what others make and is missing")
    parser.add_argument(
        "--model-dir", type=Path, help=f"model directory to upload and serve ({MODEL_URI} names one that is there)"
    )
    parser.add_argument("--state", type=Path, default=Path(".streetvision"), help="where `make run` keeps its champion")
    parser.add_argument("--timeout-s", type=int, default=900, help="of each thing that is waited for")
    return parser


if __name__ == "__main__":
    sys.exit(main())
