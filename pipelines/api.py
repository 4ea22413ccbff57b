"""The Kubeflow Pipelines API by kfp's client: bounded waits, repeated where that is safe, one sentence a failure."""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import kfp
import kfp_server_api
from kfp.client.token_credentials_base import TokenCredentialsBase
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError, SSLError

from pipelines.catalogue import Package
from streetvision.errors import SettingsError, StreetvisionError

REQUEST_TIMEOUT_S = (5.0, 60.0)  # to connect, to answer

_NOTHING_DONE = (429, 503)  # asking again is safe whatever was asked
_GATEWAY = (502, 504)  # behind them it may have been done
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_PAGE = 100


class KubeflowError(StreetvisionError, RuntimeError):
    """The API refused, or is out of reach; `status` is its HTTP answer, 0 where there was none."""

    def __init__(self, message: str, *, status: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status

    @property
    def exit_code(self) -> int:
        """2 where the request was wrong, 3 where asking again, later or as somebody else, may help."""
        return 2 if self.status in (400, 404, 409) else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the API is and how to speak with it.

    Attributes:
        host: its address, `http://...` or `https://...`.
        namespace: where the steps' pods run; in a multi-user Kubeflow also whose runs they are.
        token_file: file of a bearer token, read anew for each request.
        ca_file: certificates that an https address is checked against.
        timeout_s: how long a request is repeated.
    """

    host: str
    namespace: str = "kubeflow"
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """An uploaded pipeline; `created` says whether just now."""

    pipeline: str
    pipeline_id: str
    version: str
    version_id: str
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run or a recurring run starts.

    Attributes:
        version: of the pipeline.
        parameters: all of them.
        experiment: name of the group that runs are shown in.
        service_account: of the steps' pods; without one Kubeflow's own.
        pipeline_root: where artifacts go; without one Kubeflow's own.
    """

    version: Version
    parameters: Mapping[str, Any]
    experiment: str
    service_account: str | None
    pipeline_root: str | None


class Kubeflow:
    """One Kubeflow Pipelines API, known to answer.

    Raises:
        SettingsError: the address, the token or the certificates cannot be used.
        KubeflowError: the API is out of reach or refuses us; so does every method.
    """

    def __init__(self, connection: Connection) -> None:
        parts = urlsplit(connection.host)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"the Kubeflow API is `{connection.host}`, expected http://HOST:PORT or https://HOST")
        if connection.ca_file and not connection.ca_file.is_file():
            raise SettingsError(f"the certificates `{connection.ca_file}` are missing")
        self.host = connection.host.rstrip("/")
        self.namespace = connection.namespace
        self._timeout_s = connection.timeout_s
        self._client: Any = _client(self.host, connection)
        health = self._call("answer", self._client.healthzs.healthz_service_get_healthz, _preload_content=False)
        try:
            many_users = bool(json.loads(health.data).get("multi_user"))
        except (ValueError, AttributeError) as err:
            raise KubeflowError(
                f"`{self.host}` answers, but is no Kubeflow Pipelines API", hint="behind Kubeflow's UI add `/pipeline`"
            ) from err
        # where there is one user, nothing has a namespace
        self._scope: dict[str, str] = {"namespace": self.namespace} if many_users else {}

    def upload(self, package: Package) -> Version:
        """This content as a version of its pipeline; what is there already is not uploaded again."""
        pipelines, what = self._client.pipelines, f"take pipeline `{package.name}`"
        wanted = kfp_server_api.V2beta1Pipeline(
            name=package.name, display_name=package.name, description=package.description, **self._scope
        )
        pipeline, _ = _ensure(
            lambda: self._named(pipelines.pipeline_service_list_pipelines, "pipelines", package.name),
            lambda: self._call(what, pipelines.pipeline_service_create_pipeline, pipeline=wanted),
        )
        version, created = _ensure(
            lambda: self._version(pipeline.pipeline_id, package.version),
            lambda: self._call(
                what,
                self._client.pipeline_uploads.upload_pipeline_version,
                str(package.path),
                name=package.version,
                pipelineid=pipeline.pipeline_id,
            ),
        )
        return Version(
            pipeline=package.name,
            pipeline_id=pipeline.pipeline_id,
            version=package.version,
            version_id=version.pipeline_version_id,
            created=created,
        )

    def find(self, package: Package) -> Version | None:
        """This content's version of its pipeline, or nothing where nobody has uploaded it."""
        service = self._client.pipelines.pipeline_service_list_pipelines
        pipeline = self._named(service, "pipelines", package.name)
        version = self._version(pipeline.pipeline_id, package.version) if pipeline else None
        if pipeline is None or version is None:
            return None
        return Version(
            pipeline=package.name,
            pipeline_id=pipeline.pipeline_id,
            version=package.version,
            version_id=version.pipeline_version_id,
            created=False,
        )

    def start(self, job: Job, *, name: str) -> str:
        """The id of a new run."""
        run = kfp_server_api.V2beta1Run(display_name=name, **self._runs(job))
        service = self._client.runs.run_service_create_run
        return self._call(f"start run `{name}`", service, run=run, twice=False).run_id

    def run(self, run_id: str) -> Any:
        """A run as the API tells it (`V2beta1Run`)."""
        return self._call(f"tell of run `{run_id}`", self._client.runs.run_service_get_run, run_id)

    def recurring_runs(self) -> list[Any]:
        """Every recurring run (`V2beta1RecurringRun`) that we may see."""
        service = self._client.recurring_runs.recurring_run_service_list_recurring_runs
        return list(self._pages("list recurring runs", service, "recurring_runs", **self._scope))

    def create_recurring_run(
        self, job: Job, *, name: str, description: str, cron: str, enabled: bool, max_concurrency: int
    ) -> str:
        """The id of a new recurring run; what it misses while it is off is not made up for.

        Args:
            job: what it starts.
            name: of it and its runs.
            description: of it.
            cron: when, with seconds first.
            enabled: whether it starts anything yet.
            max_concurrency: how many of its runs may be at work at a time.
        """
        recurring = kfp_server_api.V2beta1RecurringRun(
            display_name=name,
            description=description,
            trigger=kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=cron)),
            mode="ENABLE" if enabled else "DISABLE",
            max_concurrency=str(max_concurrency),
            no_catchup=True,
            **self._runs(job),
        )
        service = self._client.recurring_runs.recurring_run_service_create_recurring_run
        what = f"create recurring run `{name}`"
        return self._call(what, service, recurring_run=recurring, twice=False).recurring_run_id

    def switch_recurring_run(self, recurring_run_id: str, *, on: bool) -> None:
        """Turns a recurring run on or off."""
        service = self._client.recurring_runs
        if on:
            self._call("enable a recurring run", service.recurring_run_service_enable_recurring_run, recurring_run_id)
        else:
            self._call("disable a recurring run", service.recurring_run_service_disable_recurring_run, recurring_run_id)

    def delete_recurring_run(self, recurring_run_id: str) -> None:
        """Ends a recurring run; runs that it started go on."""
        service = self._client.recurring_runs.recurring_run_service_delete_recurring_run
        try:
            self._call("delete a recurring run", service, recurring_run_id)
        except KubeflowError as err:
            if err.status != 404:  # somebody else was quicker, or the first answer was lost
                raise

    def url(self, run_id: str) -> str:
        """Where Kubeflow's UI shows a run."""
        return f"{self.host}/#/runs/details/{run_id}"

    def _runs(self, job: Job) -> dict[str, Any]:
        """What a run and a recurring run have in common."""
        return {
            "experiment_id": self._experiment(job.experiment),
            "pipeline_version_reference": kfp_server_api.V2beta1PipelineVersionReference(
                pipeline_id=job.version.pipeline_id, pipeline_version_id=job.version.version_id
            ),
            "runtime_config": kfp_server_api.V2beta1RuntimeConfig(
                parameters=dict(job.parameters), pipeline_root=job.pipeline_root
            ),
            "service_account": job.service_account,
        }

    def _experiment(self, name: str) -> str:
        experiments = self._client.experiments
        wanted = kfp_server_api.V2beta1Experiment(display_name=name, **self._scope)
        experiment, _ = _ensure(
            lambda: self._named(experiments.experiment_service_list_experiments, "experiments", name),
            lambda: self._call(
                f"create experiment `{name}`", experiments.experiment_service_create_experiment, experiment=wanted
            ),
        )
        return experiment.experiment_id

    def _named(self, service: Callable[..., Any], field: str, name: str) -> Any | None:
        predicate = {"operation": 1, "key": "display_name", "stringValue": name}  # 1: equals
        found = self._pages(
            f"list {field}", service, field, filter=json.dumps({"predicates": [predicate]}), **self._scope
        )
        return next(found, None)

    def _version(self, pipeline_id: str, name: str) -> Any | None:
        service = self._client.pipelines.pipeline_service_list_pipeline_versions
        versions = self._pages("list versions", service, "pipeline_versions", pipeline_id, sort_by="created_at desc")
        return next((version for version in versions if version.display_name == name), None)

    def _pages(self, what: str, service: Callable[..., Any], field: str, *args: Any, **options: Any) -> Iterator[Any]:
        token = ""
        while True:
            page = self._call(what, service, *args, page_size=_PAGE, page_token=token, **options)
            yield from getattr(page, field) or ()
            token = page.next_page_token
            if not token:
                return

    def _call(self, what: str, service: Callable[..., Any], *args: Any, twice: bool = True, **options: Any) -> Any:
        """The service's answer; asked again while the API is out of reach, if `twice` even where it may have heard."""
        deadline, pause = time.monotonic() + self._timeout_s, _PAUSE_S
        while True:
            try:
                return service(*args, **options, _request_timeout=REQUEST_TIMEOUT_S)
            except ApiException as err:
                again = err.status in (_NOTHING_DONE + _GATEWAY if twice else _NOTHING_DONE)
                failure, cause = _refusal(self.host, self.namespace, what, err), err
            except HTTPError as err:
                again = not _is_about_certificates(err) and (twice or _was_not_heard(err))
                failure, cause = _silence(self.host, what, err, heard=not _was_not_heard(err) and not twice), err
            if not again or time.monotonic() + pause > deadline:
                raise failure from cause
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


class _TokenFile(TokenCredentialsBase):
    """A bearer token that is read anew for each request, because Kubernetes renews it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def refresh_api_key_hook(self, config: Any) -> None:
        try:
            config.api_key["authorization"] = self._path.read_text().strip()
        except (OSError, UnicodeDecodeError) as err:
            raise SettingsError(f"the token `{self._path}` cannot be read: {err}") from err


class _Client(kfp.Client):
    """kfp's client that does not spend 25 seconds and five stack traces on an API that refuses it."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        del sleep_duration
        return kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)  # we ask, and name the namespace, ourselves


def _client(host: str, connection: Connection) -> kfp.Client:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that it speaks with Kubeflow 2 only
        return _Client(
            host=host,
            credentials=_TokenFile(connection.token_file) if connection.token_file else None,
            ssl_ca_cert=str(connection.ca_file) if connection.ca_file else None,
        )


def _ensure(find: Callable[[], Any], create: Callable[[], Any]) -> tuple[Any, bool]:
    """What is found, or else created, and whether it was created by us; its name is taken once, so trying is safe."""
    if found := find():
        return found, False
    try:
        return create(), True
    except KubeflowError as err:  # somebody else was quicker, or our first answer was lost
        if err.status == 409 and (found := find()):
            return found, False
        raise


def _refusal(host: str, namespace: str, what: str, err: ApiException) -> KubeflowError:
    status = int(err.status or 0)
    if status == 401:
        return KubeflowError(
            f"`{host}` does not know who asks it to {what}",
            status=status,
            hint="give `--token-file` a ServiceAccount token for the audience `pipelines.kubeflow.org`",
        )
    reason = _reason(err)
    if status == 403:
        return KubeflowError(
            f"`{host}` does not let us {what}: {reason}",
            status=status,
            hint=f"a Role in namespace `{namespace}` must allow it",
        )
    return KubeflowError(f"`{host}` did not {what} ({status or 'no answer'}): {reason}", status=status)


def _silence(host: str, what: str, err: HTTPError, *, heard: bool) -> KubeflowError:
    cause = err.reason if isinstance(err, MaxRetryError) and err.reason else err
    text = (
        str(cause).rpartition(": ")[2] if isinstance(cause, (NewConnectionError, ConnectTimeoutError)) else str(cause)
    )
    if heard:
        return KubeflowError(
            f"`{host}` was asked to {what}, and its answer was lost: {text}",
            hint="see in Kubeflow's UI whether it was done before you ask again",
        )
    return KubeflowError(
        f"`{host}` is out of reach: {text}",
        hint="from outside the cluster: `kubectl -n kubeflow port-forward svc/ml-pipeline 8888` and `http://localhost:8888`",
    )


def _was_not_heard(err: HTTPError) -> bool:
    return isinstance(err, MaxRetryError) and isinstance(err.reason, (NewConnectionError, ConnectTimeoutError))


def _is_about_certificates(err: HTTPError) -> bool:
    return isinstance(err, SSLError) or (isinstance(err, MaxRetryError) and isinstance(err.reason, SSLError))


def _reason(err: ApiException) -> str:
    """What the API says to people: its bodies hold a Go stack trace as well."""
    try:
        body = json.loads(cast(str, err.body))
    except (TypeError, ValueError):
        body = None
    if not isinstance(body, dict):
        return str(err.reason or "no reason given").splitlines()[-1]
    told = cast(dict[str, Any], body)
    details = [one.get("message") for one in told.get("details") or () if isinstance(one, dict)]
    texts = [told.get("error_message"), *details, told.get("message"), told.get("error")]
    return next((str(text).splitlines()[0] for text in texts if text), "no reason given")
