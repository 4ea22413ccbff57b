"""The registry of models: MLflow versions with their verdicts, and the aliases that say which one is served."""

import json
import logging
import re
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self, cast

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from streetvision import atomic
from streetvision.errors import RegistryError, SettingsError
from streetvision.inference.model_directory import ModelDirectory
from streetvision.registry.database import check_database, database_file
from streetvision.registry.decision import Decision
from streetvision.registry.lock import Hold, LocalLock, Lock, open_lock
from streetvision.registry.s3_store import S3Store
from streetvision.registry.store import FolderStore, ModelStore, cache_folder, models_folder

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

FENCE = "promotion_fence"  # tag of the registered model: the number of the last holder of the lock that moved an alias

_BATCH = 100  # parameters a request; of metrics MLflow takes 1000

logging.getLogger("mlflow").setLevel(logging.WARNING)  # it announces every table it makes
logging.getLogger("alembic").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUse:
    """A data set of a run; `version` is its content hash, `context` what it was used for."""

    name: str
    version: str
    source: str
    context: str  # "training" or "evaluation"
    summary: Mapping[str, int | str] = field(default_factory=dict[str, int | str])


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """One version of the registered model; `source` is the immutable address of its model directory."""

    version: int
    run_id: str
    source: str
    sha256: str
    tags: Mapping[str, str]

    @property
    def may_be_served(self) -> bool:
        """Whether the gate decided so, or a person did."""
        return self.tags.get("verdict") == "promote" or "approved_by" in self.tags


class Registry:
    """The registered model in one MLflow, a database (`sqlite:///...`) or a server (`http://...`).

    Args:
        tracking_uri: address of the MLflow.
        models_root: folder of the stored models; the promotion lock lies in it too.
        model_name: name of the registered model.
        experiment: name of the experiment that runs go to.
        store: where models are stored instead, such as a bucket. A server accepts no model in a local folder.
        lock: what serialises promotions instead, such as a Lease.

    Raises:
        RegistryError: the database is of a newer MLflow, is none, or the server is out of reach.
    """

    def __init__(
        self,
        tracking_uri: str,
        models_root: Path,
        *,
        model_name: str = "roadwork",
        experiment: str = "roadwork",
        store: ModelStore | None = None,
        lock: Lock | None = None,
    ) -> None:
        self.model_name = model_name
        self._uri = tracking_uri
        self._experiment = experiment
        self._store = store or FolderStore(models_root)
        self._lock = lock or LocalLock(models_root / ".promotion.lock")
        check_database(tracking_uri)
        with self._one_sentence():
            self._client = MlflowClient(tracking_uri, tracking_uri)

    @classmethod
    def open(
        cls, tracking_uri: str, models_uri: str, *, lock_namespace: str | None = None, cache: Path | None = None
    ) -> Self:
        """The registry whose models lie in a folder or a bucket, with the lock that fits.

        Args:
            tracking_uri: address of the MLflow.
            models_uri: a folder or `s3://BUCKET/PREFIX`.
            lock_namespace: of the Lease that serialises promotions on a cluster; our own by default.
            cache: folder of models fetched from a bucket; in the user's cache by default.

        Raises:
            SettingsError: the models lie in neither, or the cluster cannot be used.
            RegistryError: the database is of a newer MLflow, is none, or the server is out of reach.
        """
        lock = open_lock(models_uri, namespace=lock_namespace)
        if folder := models_folder(models_uri):
            return cls(tracking_uri, folder, lock=lock)
        cache = cache or cache_folder() / "models"
        return cls(tracking_uri, cache, store=S3Store(models_uri, cache=cache), lock=lock)

    def register(
        self,
        model_dir: Path,
        *,
        decision: Decision,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        epochs: Sequence[Mapping[str, float]] = (),
        artifacts: Mapping[str, Path | bytes] | None = None,
        datasets: Sequence[DatasetUse] = (),
    ) -> RegisteredVersion:
        """The version of this model, with its run, its verdict and the alias `challenger`.

        A model that is registered already (the same sha256) keeps its version and run: only its verdict is renewed,
        and the champion keeps even that, as it names what it was promoted for.

        Args:
            model_dir: what was trained; a copy is stored under its sha256.
            decision: the gate's.
            params: settings of the training.
            metrics: figures of the evaluation.
            epochs: metrics of each epoch, first epoch first.
            artifacts: further files of the run (report, plots), by their path in it.
            datasets: what it was trained and evaluated on.

        Raises:
            RegistryError: MLflow refused or is out of reach.
            BusyError: somebody else holds the lock for too long.
        """
        model = ModelDirectory.open(model_dir)
        source = self._store.put(model)
        with self._locked("register") as hold:
            aliases = self._aliases()
            known = self._find(model.sha256)
            if known is None:
                run_id = self._log_run(model, decision, params, metrics, epochs, artifacts or {}, datasets)
                tags = {**_model_tags(model), **_verdict_tags(decision)}
                known = self._client.create_model_version(
                    self.model_name, source, run_id, tags=tags, description=_first(decision.reasons)
                )
            elif int(known.version) != aliases.get(CHAMPION):
                for key, value in _verdict_tags(decision).items():
                    self._client.set_model_version_tag(self.model_name, known.version, key, value)
            if int(known.version) != aliases.get(CHAMPION):
                self._point(CHALLENGER, int(known.version), hold)
            elif aliases.get(CHALLENGER) == aliases[CHAMPION]:  # a promotion was cut off here
                self._point(CHALLENGER, None, hold)
            return self.version(int(known.version))

    def promote(self, version: int, *, expected_champion: int | None) -> RegisteredVersion:
        """The new champion, read back; the old one becomes `previous`. Promoting the champion changes nothing.

        Args:
            version: what the gate decided to promote.
            expected_champion: the champion it was compared with, or nothing where there was none.

        Raises:
            RegistryError: another champion was promoted meanwhile, the version has no verdict `promote` and is not
                tagged `approved_by`, or what is read back differs.
            BusyError: somebody else holds the lock for too long, or took it over from us.
        """
        with self._locked(f"promote version {version}") as hold:
            aliases = self._aliases()
            champion = aliases.get(CHAMPION)
            if champion not in {expected_champion, version}:
                raise RegistryError(
                    f"champion of `{self.model_name}` is {_name(champion)}, expected {_name(expected_champion)}, "
                    f"which {_name(version)} was compared with",
                    hint="evaluate it against the champion of today",
                )
            promoted = self.version(version)
            if not promoted.may_be_served:
                raise RegistryError(
                    f"{_name(version)} of `{self.model_name}` has the verdict `{promoted.tags.get('verdict')}`, "
                    "expected `promote`",
                    hint="a person who knows better tags it `approved_by`",
                )
            if champion != version:
                if champion is not None:  # first, so that a crash in between loses no way back
                    self._point(PREVIOUS, champion, hold)
                self._point(CHAMPION, version, hold)
                self._client.set_model_version_tag(self.model_name, str(version), "promoted_at", _now())
            if aliases.get(CHALLENGER) == version:
                self._point(CHALLENGER, None, hold)
            self._read_back(_after_promotion(aliases, version))
            return self.version(version)

    def take_back(self, version: int, *, champion: int | None, reason: str) -> None:
        """Makes the champion before this one champion again, read back, and notes why.

        Args:
            version: the champion that failed.
            champion: the version that is served; nothing where it is of no version, and there is no champion then.
            reason: what becomes the failed version's tag `rollout_failed`.

        Raises:
            RegistryError: this version is not champion any more, or what is read back differs.
            BusyError: somebody else holds the lock for too long, or took it over from us.
        """
        with self._locked(f"take back version {version}") as hold:
            self._client.set_model_version_tag(
                self.model_name, str(version), "rollout_failed", f"{_now()} {reason}"[:5000]
            )
            aliases = self._aliases()
            if aliases.get(CHAMPION) != version:
                raise RegistryError(
                    f"champion of `{self.model_name}` is {_name(aliases.get(CHAMPION))}, expected {_name(version)}, "
                    "which is taken back: the alias is left alone"
                )
            self._point(CHAMPION, champion, hold)
            if champion is not None and aliases.get(PREVIOUS) == champion:
                self._point(PREVIOUS, None, hold)
            self._read_back(_after_taking_back(aliases, champion))

    def tag(self, version: int, key: str, value: str) -> None:
        """Notes a fact about a version.

        Raises:
            RegistryError: there is no such version, or MLflow is out of reach.
        """
        with self._one_sentence():
            self._client.set_model_version_tag(self.model_name, str(version), key, value)

    def champion(self) -> RegisteredVersion | None:
        """The version that is served, or nothing where none was promoted yet."""
        return self.by_alias(CHAMPION)

    def by_alias(self, alias: str) -> RegisteredVersion | None:
        """The version an alias points to, or nothing."""
        with self._one_sentence():
            version = self._aliases().get(alias)
        return None if version is None else self.version(version)

    def to_be_served(self, alias: str = CHAMPION) -> RegisteredVersion:
        """The version of an alias, which the gate or a person let through.

        Raises:
            SettingsError: nothing has the alias, or what has it was neither promoted nor approved.
            RegistryError: MLflow is out of reach.
        """
        version = self.by_alias(alias)
        if version is None:
            raise SettingsError(f"no version of `{self.model_name}` has the alias `{alias}`", hint="promote one first")
        if not version.may_be_served:
            raise SettingsError(
                f"{_name(version.version)} of `{self.model_name}` has the alias `{alias}`, but the verdict "
                f"`{version.tags.get('verdict', 'none')}`, expected `promote`: it is not served",
                hint="a person who knows better tags it `approved_by`; else give the alias back to the version before",
            )
        return version

    def by_source(self, source: str) -> RegisteredVersion | None:
        """The newest version whose model directory has this address, or nothing."""
        sha256 = source.rstrip("/").rpartition("/")[2]
        with self._one_sentence():
            found = self._find(sha256) if re.fullmatch(r"[0-9a-f]{64}", sha256) else None
        version = None if found is None else self.version(int(found.version))
        return version if version is not None and version.source.rstrip("/") == source.rstrip("/") else None

    def version(self, version: int) -> RegisteredVersion:
        """One version by its number.

        Raises:
            RegistryError: there is no such version.
        """
        with self._one_sentence():
            found = self._client.get_model_version(self.model_name, str(version))
        return RegisteredVersion(
            version=int(found.version),
            run_id=found.run_id or "",
            source=found.source or "",
            sha256=found.tags.get("model_sha256", ""),
            tags=dict(found.tags),
        )

    def fetch(self, version: RegisteredVersion) -> Path:
        """A local folder with the model of a version, checked against the sha256 it was registered with.

        Raises:
            RegistryError: the model is gone or is another one.
            ModelDirectoryError: a file of it is missing or altered.
        """
        path = self._store.fetch(version.source)
        if (found := ModelDirectory.open(path).sha256) != version.sha256:
            raise RegistryError(
                f"{_name(version.version)} of `{self.model_name}` has sha256 {found}, "
                f"expected {version.sha256}: `{path}`"
            )
        return path

    def _aliases(self) -> dict[str, int]:
        # not by alias: MLflow answers a missing one differently from store to store
        found = self._client.search_registered_models(f"name = '{self.model_name}'")
        if not found:
            return {}
        aliases = cast("dict[str, str]", found[0].aliases)  # pyright: ignore[reportUnknownMemberType]
        return {alias: int(version) for alias, version in aliases.items()}

    def _find(self, sha256: str) -> ModelVersion | None:
        found = self._client.search_model_versions(f"name = '{self.model_name}' and tags.model_sha256 = '{sha256}'")
        return max(found, key=lambda version: int(version.version), default=None)

    def _point(self, alias: str, version: int | None, hold: Hold) -> None:
        """Moves or deletes an alias, unless a later holder of the lock was here."""
        hold.check()
        if hold.token is not None:
            newest = self._fence()
            if newest > hold.token:
                raise RegistryError(
                    f"promotion number {hold.token} of `{self.model_name}` comes too late: number {newest} was here",
                    hint="the lock was lost meanwhile; run it again",
                )
            if newest < hold.token:
                self._client.set_registered_model_tag(self.model_name, FENCE, str(hold.token))
        if version is None:
            self._client.delete_registered_model_alias(self.model_name, alias)
        else:
            self._client.set_registered_model_alias(self.model_name, alias, str(version))

    def _fence(self) -> int:
        """The number of the last holder of a Lease that moved an alias; 0 where none did."""
        found = self._client.search_registered_models(f"name = '{self.model_name}'")
        number = str(found[0].tags.get(FENCE, "0")) if found else "0"
        return int(number) if number.isdecimal() else 0

    @contextmanager
    def _locked(self, actor: str) -> Generator[Hold]:
        with self._one_sentence():
            above = self._fence()  # so that a Lease that was deleted counts on from here
        with self._lock.hold(actor, above=above) as hold, self._one_sentence():
            yield hold

    def _read_back(self, expected: Mapping[str, int]) -> None:
        if (found := self._aliases()) != expected:
            raise RegistryError(
                f"aliases of `{self.model_name}` read back as {found}, expected {expected}",
                hint="somebody moved an alias by hand at the same moment; look at it in the MLflow UI",
            )

    def _log_run(
        self,
        model: ModelDirectory,
        decision: Decision,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        epochs: Sequence[Mapping[str, float]],
        artifacts: Mapping[str, Path | bytes],
        datasets: Sequence[DatasetUse],
    ) -> str:
        if not self._client.search_registered_models(f"name = '{self.model_name}'"):
            self._client.create_registered_model(self.model_name)
        tags = {"mlflow.source.git.commit": model.config.git_sha, **_model_tags(model), **_verdict_tags(decision)}
        run = self._client.create_run(
            self._experiment_id(), tags=tags, run_name=f"{model.config.preset} {model.version}"
        )
        run_id, status = run.info.run_id, "FAILED"
        try:
            now_ms = int(time.time() * 1000)
            logged = [Metric(key, value, now_ms, 0) for key, value in metrics.items()]
            for epoch, values in enumerate(epochs, start=1):
                logged += [Metric(f"epoch/{key}", value, now_ms, epoch) for key, value in values.items()]
            settings = [Param(key, str(value)) for key, value in params.items()]
            for start in range(0, max(len(logged), len(settings)), _BATCH):
                part = slice(start, start + _BATCH)
                self._client.log_batch(run_id, metrics=logged[part], params=settings[part])
            self._client.log_inputs(run_id, [_dataset_input(use) for use in datasets])
            self._log_artifacts(run_id, {**artifacts, "decision.json": decision.model_dump_json(indent=2).encode()})
            status = "FINISHED"
        finally:
            self._client.set_terminated(run_id, status)
        return run_id

    def _log_artifacts(self, run_id: str, artifacts: Mapping[str, Path | bytes]) -> None:
        with TemporaryDirectory() as folder:
            for path, content in artifacts.items():
                target = Path(folder) / path
                atomic.write_bytes(target, content if isinstance(content, bytes) else content.read_bytes())
            self._client.log_artifacts(run_id, folder)

    def _experiment_id(self) -> str:
        known = self._client.get_experiment_by_name(self._experiment)
        if known is not None:
            return known.experiment_id
        # Without a server MLflow would put artifacts into the working directory.
        folder = database_file(self._uri)
        location = None if folder is None else (folder.parent / "mlflow-artifacts").as_uri()
        return self._client.create_experiment(self._experiment, artifact_location=location)

    @contextmanager
    def _one_sentence(self) -> Generator[None]:
        try:
            yield
        except (MlflowException, SQLAlchemyError) as err:
            first = (str(err).splitlines() or [type(err).__name__])[0].rstrip(".")
            hint = "check that it runs and that you may write to it"
            if "Invalid model version source" in first:
                hint = "a server needs a model store that it can reach too, such as a bucket"
            elif "out-of-date database schema" in first:
                hint = f"back it up, then upgrade it: mlflow db upgrade {_without_password(self._uri)}"
            raise RegistryError(f"MLflow `{_without_password(self._uri)}` refused: {first}", hint=hint) from err


def _after_promotion(before: Mapping[str, int], version: int) -> dict[str, int]:
    expected = {**before, CHAMPION: version}
    if before.get(CHAMPION, version) != version:
        expected[PREVIOUS] = before[CHAMPION]
    if expected.get(CHALLENGER) == version:
        del expected[CHALLENGER]
    return expected


def _after_taking_back(before: Mapping[str, int], champion: int | None) -> dict[str, int]:
    expected = {alias: version for alias, version in before.items() if alias != CHAMPION}
    if champion is not None:
        expected[CHAMPION] = champion
        if expected.get(PREVIOUS) == champion:
            del expected[PREVIOUS]
    return expected


def _model_tags(model: ModelDirectory) -> dict[str, str]:
    config = model.config
    return {
        "model_sha256": model.sha256,
        "data_version": config.data_version,
        "code_version": config.code_version,
        "git_sha": config.git_sha,
        "preset": config.preset,
    }


def _verdict_tags(decision: Decision) -> dict[str, str]:
    return {
        "verdict": decision.verdict,
        "reasons": json.dumps(decision.reasons, ensure_ascii=False),
        "compared_with": decision.champion_sha256 or "",
        "decided_at": _now(),
    }


def _dataset_input(use: DatasetUse) -> DatasetInput:
    dataset = Dataset(
        name=use.name,
        digest=use.version[:36],  # the most MLflow takes
        source_type="local",
        source=json.dumps({"uri": use.source}),
        profile=json.dumps(dict(use.summary)),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", use.context)])


def _first(reasons: Sequence[str]) -> str | None:
    return reasons[0] if reasons else None


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", uri)


def _name(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
