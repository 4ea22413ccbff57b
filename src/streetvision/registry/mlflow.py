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
from typing import cast

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from streetvision import atomic
from streetvision.errors import RegistryError
from streetvision.inference.model_directory import ModelDirectory
from streetvision.registry.database import check_database, database_file
from streetvision.registry.decision import Decision
from streetvision.registry.lock import LocalLock, Lock
from streetvision.registry.store import FolderStore, ModelStore

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

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
        with self._lock.hold("register"), self._one_sentence():
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
                self._point(CHALLENGER, int(known.version))
            elif aliases.get(CHALLENGER) == aliases[CHAMPION]:  # a promotion was cut off here
                self._client.delete_registered_model_alias(self.model_name, CHALLENGER)
            return self.version(int(known.version))

    def promote(self, version: int, *, expected_champion: int | None) -> RegisteredVersion:
        """The new champion, read back; the old one becomes `previous`. Promoting the champion changes nothing.

        Args:
            version: what the gate decided to promote.
            expected_champion: the champion it was compared with, or nothing where there was none.

        Raises:
            RegistryError: another champion was promoted meanwhile, the version has no verdict `promote` and is not
                tagged `approved_by`, or what is read back differs.
            BusyError: somebody else holds the lock for too long.
        """
        with self._lock.hold(f"promote version {version}"), self._one_sentence():
            aliases = self._aliases()
            champion = aliases.get(CHAMPION)
            if champion not in {expected_champion, version}:
                raise RegistryError(
                    f"champion of `{self.model_name}` is {_name(champion)}, expected {_name(expected_champion)}, "
                    f"which {_name(version)} was compared with",
                    hint="evaluate it against the champion of today",
                )
            promoted = self.version(version)
            if promoted.tags.get("verdict") != "promote" and "approved_by" not in promoted.tags:
                raise RegistryError(
                    f"{_name(version)} of `{self.model_name}` has the verdict `{promoted.tags.get('verdict')}`, "
                    "expected `promote`",
                    hint="a person who knows better tags it `approved_by`",
                )
            if champion != version:
                if champion is not None:  # first, so that a crash in between loses no way back
                    self._point(PREVIOUS, champion)
                self._point(CHAMPION, version)
                self._client.set_model_version_tag(self.model_name, str(version), "promoted_at", _now())
            if aliases.get(CHALLENGER) == version:
                self._client.delete_registered_model_alias(self.model_name, CHALLENGER)
            self._read_back(aliases, version)
            return self.version(version)

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

    def _point(self, alias: str, version: int) -> None:
        self._client.set_registered_model_alias(self.model_name, alias, str(version))

    def _read_back(self, before: Mapping[str, int], version: int) -> None:
        expected = {**before, CHAMPION: version}
        if before.get(CHAMPION, version) != version:
            expected[PREVIOUS] = before[CHAMPION]
        if expected.get(CHALLENGER) == version:
            del expected[CHALLENGER]
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
