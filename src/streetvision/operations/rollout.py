"""The rollout: what the registry says is to be served becomes what a release serves, or all is as it was before."""

import logging
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from streetvision.errors import BusyError, RolloutError, SettingsError, StreetvisionError
from streetvision.operations.helm import Helm, Release
from streetvision.operations.proof import Predictor
from streetvision.registry.lease import LeaseLock
from streetvision.registry.lock import Hold
from streetvision.registry.mlflow import CHAMPION, RegisteredVersion, Registry

_PREDICTOR = {"streetvision": "predictor.", "predictor": ""}  # where the predictor's values begin, by chart
_HELM_S = 300.0
_READ_BACK_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rollout came to.

    Attributes:
        outcome: `rolled out`, or `unchanged` where it was served already.
        version: of the registered model.
        uri: what is served now.
        before: what was served before.
        revision: of the release.
        seconds: how long it took.
    """

    outcome: str
    version: int
    sha256: str
    uri: str
    before: str
    revision: int
    seconds: float

    def __str__(self) -> str:
        model = f"version {self.version} ({self.sha256[:12]})"
        if self.outcome == "unchanged":
            return f"unchanged: {model} is served already, revision {self.revision}"
        return f"{self.outcome}: {model} is served after {self.seconds:.0f} s, revision {self.revision}"


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A release, its chart, its predictor, and the registry that says what it is to serve.

    Attributes:
        registry: of the models.
        helm: for the release's namespace.
        release: its name.
        chart: the very chart that the release was made from.
        predictor: the InferenceService of the release.
        lock: only one rollout of the release at a time.
        timeout_s: of the proof, and of the one after the way back.
    """

    registry: Registry
    helm: Helm
    release: str
    chart: Path
    predictor: Predictor
    lock: LeaseLock
    timeout_s: float

    def run(self, alias: str = CHAMPION) -> Outcome | None:
        """Serves the version of an alias, proven by the predictor's pods and by what the predictor says itself.

        Returns nothing where nobody was promoted yet.

        Raises:
            SettingsError: it is refused: no such alias, a version that nobody promoted or approved, a release of
                another chart.
            RolloutError: it failed. Release and alias are as they were before, and the message says so if they are not.
            BusyError: another rollout of this release takes too long, or somebody took the lock from us.
            ClusterError: the Kubernetes API refuses or is out of reach.
            RegistryError: MLflow refuses or is out of reach.
        """
        begun = datetime.now(UTC)
        with self.lock.hold(f"rollout of {alias}") as hold:
            # only now: the rollout that we waited for may have changed it
            if alias == CHAMPION and self.registry.champion() is None:
                return None
            version = self._wanted(alias)
            release = self._release()
            before = release.value(_key(release))
            outcome = "unchanged"
            if before.rstrip("/") == version.source.rstrip("/"):
                self._prove(version, release)
            else:
                outcome = "rolled out"
                self._move(version, release, before, hold, is_champion=alias == CHAMPION)
            return Outcome(
                outcome=outcome,
                version=version.version,
                sha256=version.sha256,
                uri=version.source,
                before=before,
                revision=self.helm.release(self.release).revision,
                seconds=round((datetime.now(UTC) - begun).total_seconds(), 1),
            )

    def _wanted(self, alias: str) -> RegisteredVersion:
        version = self.registry.to_be_served(alias)
        if not re.fullmatch(r"[a-z0-9]+://.*/[0-9a-f]{64}/?", version.source) or version.sha256 not in version.source:
            raise SettingsError(
                f"version {version.version} lies at `{version.source}`, expected an address that ends in its sha256, "
                "such as `s3://BUCKET/PREFIX/<sha256>/`",
                hint="register it in the bucket",
            )
        return version

    def _release(self) -> Release:
        """The release, which must be of our chart."""
        release = self.helm.release(self.release)
        name, version = self.helm.chart(self.chart)
        if (release.chart, release.version) != (name, version):
            raise SettingsError(
                f"release `{self.release}` is of chart {release.chart} {release.version}, expected {name} {version}, "
                f"the one at `{self.chart}`: the rollout would change more than the model",
                hint="upgrade the release to this version first, or use the image of that one",
            )
        if name not in _PREDICTOR:
            raise SettingsError(f"chart `{name}` serves no model, expected one of {', '.join(_PREDICTOR)}")
        if release.status != "deployed":
            raise RolloutError(
                f"release `{self.release}` is `{release.status}`, expected `deployed`",
                hint=f"wait for the helm that is at work; if there is none: helm rollback {self.release}",
            )
        return release

    def _move(
        self, version: RegisteredVersion, release: Release, before: str, hold: Hold, *, is_champion: bool
    ) -> None:
        _log.info("release %s: `%s` -> `%s`", self.release, before, version.source)
        hold.check()
        try:
            self.helm.upgrade(
                self.release,
                self.chart,
                key=_key(release),
                value=version.source,
                why=f"streetvision rollout: version {version.version}",
                timeout_s=_HELM_S,
            )
            self._prove(version, release)
            hold.check()
        except BusyError:  # another one is at work on the release now
            raise
        except (StreetvisionError, KeyboardInterrupt) as err:
            reason = err.message if isinstance(err, StreetvisionError) else "it was interrupted"
            left = self._take_back(version, release, before, hold, reason, is_champion=is_champion)
            hint = err.hint if isinstance(err, StreetvisionError) else None
            raise RolloutError(f"version {version.version} was not rolled out: {reason}\n{left}", hint=hint) from err

    def _take_back(
        self, version: RegisteredVersion, release: Release, before: str, hold: Hold, reason: str, *, is_champion: bool
    ) -> str:
        """Puts release and alias back; says what is so and what is not."""
        said: list[str] = []
        try:
            hold.check()
            self.helm.rollback(self.release, release.revision, timeout_s=_HELM_S)
            said.append(f"the release is given `{before}` again")
        except StreetvisionError as err:
            said.append(f"the release was not taken back: {err.message}")
        if is_champion:  # before the proof: where we are told to end, there is little time
            try:
                served = self.registry.by_source(before)
                number = served.version if served else None
                self.registry.take_back(version.version, champion=number, reason=reason)
                said.append(f"version {number} is champion again" if number else "there is no champion")
            except StreetvisionError as err:
                said.append(f"the alias was not taken back: {err.message}")
        try:
            for predictor in self._predictors(release):
                predictor.prove(before, timeout_s=self.timeout_s)
            said.append("what was served before is served")
        except StreetvisionError as err:
            said.append(f"what was served before is not: {err.message}")
        return "; ".join(said)

    def _prove(self, version: RegisteredVersion, release: Release) -> None:
        for predictor in self._predictors(release):
            predictor.prove(version.source, timeout_s=self.timeout_s)
            predictor.await_version(version.sha256[:12], timeout_s=_READ_BACK_S)

    def _predictors(self, release: Release) -> list[Predictor]:
        """The predictor, and the fallback that serves the same model."""
        fallback = replace(self.predictor, name=f"{self.predictor.name}-fallback")
        has_fallback = release.value(f"{_PREDICTOR[release.chart]}fallback.enabled")
        return [self.predictor, fallback] if has_fallback else [self.predictor]


def _key(release: Release) -> str:
    return f"{_PREDICTOR[release.chart]}model.uri"
