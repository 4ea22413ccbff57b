"""The lock of a cluster: a Kubernetes Lease with a number that tells a late holder from the present one."""

import logging
import random
import socket
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from streetvision.cluster import Body, Cluster
from streetvision.errors import BusyError, ClusterError
from streetvision.registry.lock import Hold

PROMOTION = "streetvision-promotion"

_CONFLICT, _MISSING = 409, 404

_log = logging.getLogger(__name__)


def promotion_lock(namespace: str | None = None) -> "LeaseLock":
    """The lock that every promotion of a cluster holds.

    Raises:
        SettingsError: no cluster can be reached from here.
    """
    cluster = Cluster.connect()
    return LeaseLock(cluster, PROMOTION, namespace=namespace or cluster.namespace, what="promotion")


class LeaseLock:
    """The lock between pods: a Lease that its holder renews while it works.

    A Lease is taken only at the `resourceVersion` it was read at, so of several actors exactly one takes it, and its
    `leaseTransitions` rises each time. One that is held may be taken over when it has not been renewed for
    `duration_s` by the clock of the one who waits, whose clock alone is trusted.

    Args:
        cluster: where the Lease lies.
        name: of the Lease.
        namespace: of the Lease.
        what: what is locked, for the message.
        duration_s: how long a right outlasts its last renewal; renewed three times in it.
        timeout_s: how long to wait for another holder.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        *,
        namespace: str,
        what: str,
        duration_s: float = 15.0,
        timeout_s: float = 60.0,
    ) -> None:
        self._lease = _Lease(cluster, namespace, name)
        self._what = what
        self._duration_s = duration_s
        self._timeout_s = timeout_s

    @contextmanager
    def hold(self, actor: str, *, above: int = 0) -> Generator["LeaseHold"]:
        """Holds the lock for the block, renewing it meanwhile.

        Raises:
            BusyError: somebody else held it for longer than the timeout; the message says who.
            ClusterError: the API refuses or is out of reach.
        """
        holder = f"{actor} on {socket.gethostname()} {uuid.uuid4().hex[:8]}"
        hold = LeaseHold(self._lease, self._acquire(holder, above), holder, self._what, self._duration_s)
        thread = threading.Thread(target=hold.renew, name=f"lease {self._lease.name}", daemon=True)
        thread.start()
        try:
            yield hold
        finally:
            hold.ended.set()
            thread.join()
            hold.release()

    def _acquire(self, holder: str, above: int) -> "_Grant":
        deadline = time.monotonic() + self._timeout_s
        seen, seen_s = "", 0.0  # the state of the Lease that others have, and when we first saw it
        tried_s = 0.0
        while True:
            found = self._lease.read()
            now = time.monotonic()
            if found is not None and _version(found) != seen:
                seen, seen_s = _version(found), now
            spec: Body = found["spec"] if found else {}
            held = spec.get("holderIdentity")
            if found is not None and held == holder:  # it was granted, and only the answer was lost
                return _Grant(found, tried_s)
            if not held or now - seen_s > float(spec.get("leaseDurationSeconds") or 0):
                tried_s = now
                if held:
                    _log.warning("%s lock of `%s` was not renewed any more and is taken over", self._what, held)
                if grant := self._lease.take(found, holder, above=above, duration_s=self._duration_s):
                    return grant
                continue  # somebody was faster
            if now >= deadline:
                raise BusyError(
                    f"{self._what} lock is held by `{held}` for longer than {self._timeout_s:g} s: {self._lease}",
                    hint="wait for the other run to end, then run it again",
                )
            time.sleep(random.uniform(0.1, 0.4))  # noqa: S311  (so that waiting ones do not ask all at once)


class LeaseHold(Hold):
    """A right that ends when it could not be renewed in time."""

    def __init__(self, lease: "_Lease", grant: "_Grant", holder: str, what: str, duration_s: float) -> None:
        self.token = grant.token
        self.ended = threading.Event()
        self._lease = lease
        self._grant = grant
        self._holder = holder
        self._what = what
        self._duration_s = duration_s
        self._lost: str | None = None

    def check(self) -> None:
        """Returns while the right lasts.

        Raises:
            BusyError: it was taken over or could not be renewed.
        """
        if self._lost is None and time.monotonic() >= self._grant.asked_s + self._duration_s:
            self._lost = "it could not be renewed in time"
        if self._lost is not None:
            raise BusyError(
                f"{self._what} lock of `{self._holder}` was lost: {self._lost}: {self._lease}",
                hint="what was done until then is kept; run it again",
            )

    def renew(self) -> None:
        """Renews until told to end; runs in a thread of its own."""
        while not self.ended.wait(self._duration_s / 3) and self._lost is None:
            try:
                if renewed := self._lease.renew(self._grant):
                    self._grant = renewed
                else:
                    self._look_again()
            except ClusterError as err:  # the next try may do; until the right ends there is time for two
                _log.warning("%s lock could not be renewed: %s", self._what, err.message)

    def release(self) -> None:
        """Lets the next one have it at once, where it is ours still."""
        with suppress(ClusterError):  # then it ends by itself
            if self._lost is None:
                self._lease.free(self._grant)

    def _look_again(self) -> None:
        """Somebody wrote the Lease: another holder, or a person who put a label on it."""
        found = self._lease.read()
        if found is None:
            self._lost = "the Lease was deleted"
        elif _token(found) != self.token or found["spec"].get("holderIdentity") != self._holder:
            self._lost = f"`{found['spec'].get('holderIdentity') or 'nobody'}` has it"
        elif renewed := self._lease.renew(_Grant(found, self._grant.asked_s)):
            self._grant = renewed


@dataclass(frozen=True, slots=True)
class _Grant:
    """The Lease as we wrote it last, and when we asked for that, which is when the right is counted from."""

    lease: Body
    asked_s: float

    @property
    def token(self) -> int:
        return _token(self.lease)


@dataclass(frozen=True, slots=True)
class _Lease:
    """One object of the API, written only at the version it was read at."""

    cluster: Cluster
    namespace: str
    name: str
    _path: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_path", f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases")

    def __str__(self) -> str:
        return f"Lease `{self.namespace}/{self.name}`"

    def read(self) -> Body | None:
        return self.cluster.find(f"{self._path}/{self.name}")

    def take(self, found: Body | None, holder: str, *, above: int, duration_s: float) -> _Grant | None:
        """The Lease as ours, or nothing where somebody was faster."""
        now = _now()
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(duration_s)),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": max(_token(found) if found else 0, above) + 1,
        }
        if found is not None:
            return self._write({**found, "spec": spec})
        metadata = {
            "name": self.name,
            "namespace": self.namespace,
            "labels": {"app.kubernetes.io/part-of": "streetvision"},
        }
        return self._write(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}, new=True
        )

    def renew(self, grant: _Grant) -> _Grant | None:
        """The Lease renewed, or nothing where somebody wrote it meanwhile."""
        return self._write({**grant.lease, "spec": {**grant.lease["spec"], "renewTime": _now()}})

    def free(self, grant: _Grant) -> None:
        """Nobody's, unless somebody wrote it meanwhile."""
        self._write({**grant.lease, "spec": {**grant.lease["spec"], "holderIdentity": ""}})

    def _write(self, body: Body, *, new: bool = False) -> _Grant | None:
        asked_s = time.monotonic()
        try:
            if new:
                return _Grant(self.cluster.create(self._path, body), asked_s)
            return _Grant(self.cluster.replace(f"{self._path}/{self.name}", body), asked_s)
        except ClusterError as err:
            if err.status == _CONFLICT or (err.status == _MISSING and not new):
                return None
            raise


def _token(lease: Body) -> int:
    return int(lease.get("spec", {}).get("leaseTransitions") or 0)


def _version(lease: Body) -> str:
    return str(lease["metadata"]["resourceVersion"])


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # Kubernetes' MicroTime
