"""What happens to challenges while things break: every drill sends five a second through the miner all the while.

A challenge may be answered, or answered with an abstention; inside 9 s in any case, and none may go missing from the
prediction log. Each drill shows that its fault really happened.
"""

import json
import secrets
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from manifests import credentials
from streetvision.curation.prediction_log import Log, read_log
from streetvision.subnet.wallet import create_hotkey, hotkey_file
from tests.cluster import wait
from tests.cluster.client import Client
from tests.cluster.our_images import image
from tests.cluster.stack import BUCKET, FIRST, MINER, RELEASE, SECOND, VALIDATOR, Stack, stack
from tests.cluster.traffic import DEADLINE_S, Seen, Traffic, traffic

pytestmark = [
    pytest.mark.needs("kserve", "storage", *(f"image:{image(name)}" for name in ("miner", "predictor", "mlflow"))),
    pytest.mark.timeout(1200),
]

MINER_PODS = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/name=miner"
SETTLE = 25  # answers after a disruption: five seconds


@pytest.fixture(scope="module")
def release(cluster: Client) -> Iterator[Stack]:
    with stack(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def counted(release: Stack) -> dict[str, int]:
    """How many challenges of all drills so far were answered, and how many ended in an error on the way."""
    return {"answered": 0, "unclear": 0}


@pytest.fixture
def challenges(release: Stack, counted: dict[str, int]) -> Iterator[Traffic]:
    """Traffic while the test runs; what holds in every drill is asserted after it."""
    with traffic(
        release.client, url=release.miner_url, miner=release.miner_address, validator_secret=VALIDATOR
    ) as running:
        yield running
        seen = running.stop()
    count(counted, seen)
    unanswered = [one for one in seen if one.error]
    assert not unanswered, f"{len(unanswered)} of {len(seen)} challenges had no reply: {unanswered[:3]}"
    slowest = max(one.latency_ms for one in seen) / 1e3
    assert slowest < DEADLINE_S, f"the slowest of {len(seen)} answers took {slowest:.1f} s"
    wrong = [one for one in seen if not (one.is_abstention or one.is_of(FIRST) or one.is_of(SECOND))]
    assert not wrong, f"{len(wrong)} of {len(seen)} answers are of no model: {wrong[:3]}"


def count(counted: dict[str, int], seen: Sequence[Seen]) -> None:
    unclear = sum(bool(one.error) for one in seen)
    counted["answered"] += len(seen) - unclear
    counted["unclear"] += unclear


def abstentions(seen: Sequence[Seen]) -> int:
    return sum(one.is_abstention for one in seen)


def uids(client: Client, selector: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in client.pods(selector)}


def predictor_pods(name: str) -> str:
    return f"app=isvc.{name}"


def kill(client: Client, selector: str) -> set[str]:
    """Ends every such pod at once, without a farewell; returns their UIDs once all of them are gone."""
    killed = uids(client, selector)
    assert killed, f"no pod is `{selector}`"
    client.kubectl("delete", "pods", f"--selector={selector}", "--grace-period=0", "--force", "--wait=false")
    wait.until(lambda: not killed & uids(client, selector), what="the end of the pods", timeout_s=30)
    return killed


def await_empty(client: Client, service: str, *, for_s: float, then: Callable[[], None] = lambda: None) -> None:
    """Returns once the Service has led nowhere for that long.

    Raises:
        AssertionError: it led somewhere in between.
    """
    wait.until(lambda: not client.ready_addresses(service), what=f"no pod behind {service}", timeout_s=60)
    until_s = time.monotonic() + for_s
    while time.monotonic() < until_s:
        assert not client.ready_addresses(service), f"{service} led to a pod while it should be away"
        time.sleep(1)


@contextmanager
def away(client: Client, deployment: str, *, for_s: float) -> Iterator[None]:
    """A Deployment without pods for the time of the block, shown to be so; it is ready again afterwards."""
    client.kubectl("scale", f"deployment/{deployment}", "--replicas=0")
    try:
        await_empty(client, deployment, for_s=for_s)
        yield
    finally:
        client.kubectl("scale", f"deployment/{deployment}", "--replicas=1")
    client.await_rollout(f"deployment/{deployment}")
    wait.until(lambda: client.ready_addresses(deployment), what=f"a pod behind {deployment}", timeout_s=60)


def test_helm_test_sends_a_signed_challenge_and_gets_the_right_probability(release: Stack):
    said = release.client.helm("test", RELEASE, "--logs", "--timeout", "300s", timeout_s=330)
    assert "Phase:          Succeeded" in said
    assert "Phase:          Failed" not in said


def test_an_upgrade_to_the_next_model_and_the_way_back_lose_no_challenge(release: Stack, challenges: Traffic):
    before = uids(release.client, predictor_pods(f"{RELEASE}-roadwork-predictor"))
    next_uri = release.upload(release.model(SECOND))
    first_uri = release.uri(release.model(FIRST))
    challenges.await_answers(lambda seen: seen[-1].is_of(FIRST), what="the first model's answers", timeout_s=30)

    release.upgrade(f"predictor.model.uri={next_uri}")
    challenges.go_on(SETTLE)
    assert not before & uids(release.client, predictor_pods(f"{RELEASE}-roadwork-predictor")), "the pods are the same"
    upgraded = challenges.seen()
    assert all(one.is_of(SECOND) for one in upgraded[-10:]), "the second model does not answer after the upgrade"
    assert abstentions(upgraded) <= 1

    release.client.helm("rollback", RELEASE, "--wait=legacy", "--timeout", "600s", timeout_s=660)
    challenges.go_on(SETTLE)
    seen = challenges.seen()
    assert all(one.is_of(FIRST) for one in seen[-10:]), "the first model does not answer after the rollback"
    isvc = release.client.get("inferenceservice", f"{RELEASE}-roadwork")
    assert isvc["spec"]["predictor"]["model"]["storageUri"] == first_uri
    assert abstentions(seen[len(upgraded) :]) <= 1


def test_a_killed_predictor_costs_one_abstention_at_most(release: Stack, challenges: Traffic):
    killed = kill(release.client, predictor_pods(f"{RELEASE}-roadwork-predictor"))
    release.client.await_rollout(f"deployment/{release.predictor}")
    challenges.go_on(SETTLE)
    assert not killed & uids(release.client, predictor_pods(f"{RELEASE}-roadwork-predictor"))
    assert abstentions(challenges.seen()) <= 1


def test_without_a_predictor_the_fallback_answers(release: Stack, challenges: Traffic):
    with away(release.client, release.predictor, for_s=10):
        challenges.go_on(SETTLE)
    challenges.go_on(SETTLE)
    assert abstentions(challenges.seen()) <= 1


def test_the_miner_does_not_need_mlflow(release: Stack, challenges: Traffic):
    selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/name=mlflow,app.kubernetes.io/component=server"
    killed = kill(release.client, selector)
    challenges.go_on(SETTLE)
    release.client.await_rollout(f"deployment/{RELEASE}-mlflow")
    assert not killed & uids(release.client, selector)
    assert abstentions(challenges.seen()) == 0


def test_a_minute_without_s3_loses_neither_answers_nor_log(release: Stack, challenges: Traffic):
    with away(release.client, "streetvision-s3", for_s=60):
        challenges.go_on(SETTLE)
    challenges.go_on(SETTLE)
    assert abstentions(challenges.seen()) == 0


def test_new_keys_of_the_object_store_replace_the_old_ones(release: Stack):
    client = release.client
    with release.s3() as s3:
        s3.head_bucket(Bucket=BUCKET)
    old = credentials.object_store_keys(client.cluster)
    new = {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}
    patch = json.dumps({"stringData": new})
    client.kubectl("patch", "secret", credentials.OBJECT_STORE, "--type=merge", "--patch-file=/dev/stdin", stdin=patch)
    users = (f"{RELEASE}-mlflow", f"{RELEASE}-miner", release.predictor, release.fallback)
    for deployment in ("streetvision-s3", *users):
        client.kubectl("rollout", "restart", f"deployment/{deployment}")
    for deployment in ("streetvision-s3", *users):  # a predictor is ready when it has fetched its model anew
        client.await_rollout(f"deployment/{deployment}")

    def taken(keys: tuple[str, str] | None = None) -> bool:
        with release.s3(keys=keys) as s3:
            try:
                s3.head_bucket(Bucket=BUCKET)
            except ClientError:
                return False
        return True

    wait.until(taken, what="the new keys in force", timeout_s=60, every_s=2)
    assert not taken(old)


def test_a_new_hotkey_replaces_the_old_one_without_a_restart(release: Stack, counted: dict[str, int]):
    client = release.client
    pods = uids(client, MINER_PODS)
    old = release.miner_address
    new, file = hotkey()
    metagraph = client.get("configmap", "streetvision-metagraph")["data"]["metagraph.json"]
    client.kubectl(
        *("patch", "configmap", "streetvision-metagraph", "--type=merge", "--patch-file=/dev/stdin"),
        stdin=json.dumps({"data": {"metagraph.json": metagraph.replace(old, new)}}),
    )
    patch = json.dumps({"data": {credentials.HOTKEY: b64encode(file).decode()}})
    client.kubectl("patch", "secret", MINER, "--type=merge", "--patch-file=/dev/stdin", stdin=patch)

    def answers() -> bool:
        with traffic(client, url=release.miner_url, miner=new, validator_secret=VALIDATOR) as running:
            seen = running.stop()
        count(counted, seen)
        return not any(one.error for one in seen)

    wait.until(answers, what="an answer under the new hotkey", timeout_s=240, every_s=10)
    assert uids(client, MINER_PODS) == pods, "the miner was restarted"
    with traffic(client, url=release.miner_url, miner=old, validator_secret=VALIDATOR) as running:
        seen = running.stop()  # validators hear of a new hotkey later than the miner
    count(counted, seen)
    assert not any(one.error for one in seen), "the hotkey before is not answered for any more"


def hotkey() -> tuple[str, bytes]:
    """A new hotkey: its address, and the file as bittensor writes it."""
    with tempfile.TemporaryDirectory() as folder:
        address = create_hotkey(Path(folder), "wallet", "hotkey")
        return address, hotkey_file(Path(folder), "wallet", "hotkey").read_bytes()


def test_every_challenge_of_all_drills_is_in_the_prediction_log_once(
    release: Stack, counted: dict[str, int], tmp_path: Path
):
    assert counted["answered"] > 300, "the drills before this one did not run"

    def complete() -> Log | None:
        log = prediction_log(release, tmp_path)
        return log if len(log.rows) >= counted["answered"] else None

    log = wait.until(complete, what=f"{counted['answered']} rows in the bucket", timeout_s=180, every_s=10)
    rows = len(log.rows)
    assert len({row.request_id for row in log.rows}) == rows
    # A challenge may be accepted whose reply is lost; none is in the log that nobody sent.
    assert counted["answered"] <= rows <= counted["answered"] + counted["unclear"], counted


def prediction_log(release: Stack, folder: Path) -> Log:
    """Everything of the prediction log that is in the bucket."""
    files: list[Path] = []
    with release.s3() as s3:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="predictions/"):
            for one in page.get("Contents", []):
                if one["Key"].endswith(".jsonl"):
                    file = folder / one["Key"]
                    if not file.exists():
                        file.parent.mkdir(parents=True, exist_ok=True)
                        s3.download_file(BUCKET, one["Key"], str(file))
                    files.append(file)
    return read_log(files)
