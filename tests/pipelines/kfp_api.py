"""An imitation of the Kubeflow Pipelines API (v2beta1), for tests of what speaks with one.

It keeps pipelines, versions, experiments, runs and recurring runs in memory, takes and gives what the OpenAPI
description says (kfp's client is generated from it), and refuses what a real KFP 2.17.0 was seen to refuse. It runs
nothing: a test moves a run's tasks itself. What it is not: a driver, a cache, a scheduler, a place for artifacts.
"""

import json
import re
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp
import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

BASE = "/apis/v2beta1"
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
STACK = """
github.com/kubeflow/pipelines/backend/src/common/util.NewUserError
	/go/src/github.com/kubeflow/pipelines/backend/src/common/util/error.go:133
runtime.goexit
	/usr/local/go/src/runtime/asm_amd64.s:1700"""
GRPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13, 503: 14}

Json = dict[str, Any]


class Refused(Exception):
    """What the API answers instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    token: str | None
    body: bytes
    content_type: str

    def json(self) -> Json:
        return json.loads(self.body or b"{}")

    def file(self) -> bytes:
        """The file of a multipart upload."""
        message = BytesParser().parsebytes(f"Content-Type: {self.content_type}\r\n\r\n".encode() + self.body)
        for part in message.walk():
            if part.get_filename():
                return part.get_payload(decode=True)
        raise Refused(400, "Failed to read pipeline from file")


@dataclass
class KfpApi:
    """The imitation's state, and what a test makes it do.

    Attributes:
        multi_user: whether runs belong to namespaces and callers need a token.
        rights: namespaces that each token may write to.
        requests: everything that was asked.
        faults: for each request to come, oldest first: a status to answer, `drop` (nothing is done, the connection is
            cut), `lose` (it is done, the connection is cut), or none.
        plot: what happens before each look at a run to come, oldest first; it takes the run's id.
    """

    multi_user: bool = False
    rights: dict[str, set[str]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: list[int | str | None] = field(default_factory=list)
    plot: list[Callable[[str], object]] = field(default_factory=list)
    url: str = ""
    pipelines: dict[str, Json] = field(default_factory=dict)
    versions: dict[str, Json] = field(default_factory=dict)
    experiments: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, Json] = field(default_factory=dict)
    recurring_runs: dict[str, Json] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    clock: datetime = datetime(2026, 11, 23, tzinfo=UTC)

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests of this method to paths that end so."""
        return [request for request in self.requests if request.method == method and request.path.endswith(path)]

    def move(self, run_id: str, state: str, **tasks: str) -> None:
        """Puts a run and some of its tasks into states, as a controller would; `-` in a task's name is written `_`."""
        with self.lock:
            run = self.runs[run_id]
            run["state"] = state
            details = run.setdefault("run_details", {}).setdefault("task_details", [])
            for key, task_state in tasks.items():
                name = key.replace("_", "-")
                task = next((one for one in details if one["display_name"] == name), None)
                if task is None:
                    task = {"run_id": run_id, "task_id": str(uuid.uuid4()), "display_name": name}
                    task |= {"create_time": self.now(), "start_time": self.now()}
                    details.append(task)
                task["state"] = task_state
                if task_state in ENDED:
                    task["end_time"] = self.now()

    def now(self) -> str:
        """The next second."""
        self.clock += timedelta(seconds=1)
        return self.clock.isoformat().replace("+00:00", "Z")

    # what each route does ------------------------------------------------------------------------------------------

    def healthz(self, request: Request) -> Json:
        return {"multi_user": self.multi_user, "pipeline_store": "database"}

    def create_pipeline(self, request: Request) -> Json:
        given = request.json()
        name = given.get("name") or given.get("display_name") or ""
        namespace = self.writable(request, given.get("namespace", ""))
        return self.add_pipeline(name, given.get("description", ""), namespace)

    def upload_pipeline(self, request: Request) -> Json:
        specification = request.file()
        namespace = self.writable(request, request.query.get("namespace", ""), refused=400)
        check_package(specification)
        name = request.query.get("name") or "pipeline.yaml"
        pipeline = self.add_pipeline(name, request.query.get("description", ""), namespace)
        self.add_version(pipeline["pipeline_id"], name, specification)
        return pipeline

    def upload_version(self, request: Request) -> Json:
        specification = request.file()
        pipeline = self.pipelines.get(request.query.get("pipelineid", ""))
        if pipeline is None:
            raise Refused(400, "Failed to create a pipeline version")
        self.writable(request, pipeline.get("namespace", ""), refused=400)
        check_package(specification)
        return self.add_version(pipeline["pipeline_id"], request.query.get("name") or "pipeline.yaml", specification)

    def add_pipeline(self, name: str, description: str, namespace: str) -> Json:
        if not name:
            raise Refused(400, "name is required")
        if len(name) > 128:
            raise Refused(400, f"Pipeline.Name length cannot exceed 128, got {len(name)}")
        if any(one["name"] == name and one.get("namespace", "") == namespace for one in self.pipelines.values()):
            raise Refused(409, f"Already exist error: Failed to create a new pipeline. The name {name} already exists")
        pipeline = {"pipeline_id": str(uuid.uuid4()), "name": name, "display_name": name, "created_at": self.now()}
        pipeline |= {"description": description, "namespace": namespace}
        self.pipelines[pipeline["pipeline_id"]] = pipeline
        return pipeline

    def add_version(self, pipeline_id: str, name: str, specification: bytes) -> Json:
        if any(one["pipeline_id"] == pipeline_id and one["name"] == name for one in self.versions.values()):
            raise Refused(409, "Failed to create a pipeline version")
        documents = list(yaml.safe_load_all(specification))
        version = {"pipeline_id": pipeline_id, "pipeline_version_id": str(uuid.uuid4()), "name": name}
        version |= {"display_name": name, "created_at": self.now()}
        version["pipeline_spec"] = (
            documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        )
        self.versions[version["pipeline_version_id"]] = version
        return version

    def list_pipelines(self, request: Request) -> Json:
        return self.page(request, "pipelines", self.readable(request, self.pipelines))

    def get_pipeline(self, request: Request, pipeline_id: str) -> Json:
        return found(self.pipelines, pipeline_id, "Pipeline")

    def delete_pipeline(self, request: Request, pipeline_id: str) -> Json:
        found(self.pipelines, pipeline_id, "Pipeline")
        versions = [key for key, one in self.versions.items() if one["pipeline_id"] == pipeline_id]
        if versions and request.query.get("cascade", "").lower() != "true":
            raise Refused(400, f"Pipeline {pipeline_id} has {len(versions)} versions, delete them first or use cascade")
        for key in versions:
            del self.versions[key]
        del self.pipelines[pipeline_id]
        return {}

    def list_versions(self, request: Request, pipeline_id: str) -> Json:
        found(self.pipelines, pipeline_id, "Pipeline")
        rows = [one for one in self.versions.values() if one["pipeline_id"] == pipeline_id]
        return self.page(request, "pipeline_versions", rows)

    def create_experiment(self, request: Request) -> Json:
        given = request.json()
        namespace = self.writable(request, given.get("namespace", ""))
        name = given.get("display_name") or ""
        if any(one["display_name"] == name and one["namespace"] == namespace for one in self.experiments.values()):
            raise Refused(409, f"Already exist error: Failed to create experiment {name}. Already exists")
        experiment = {"experiment_id": str(uuid.uuid4()), "display_name": name, "created_at": self.now()}
        experiment |= {"namespace": namespace, "storage_state": "AVAILABLE"}
        self.experiments[experiment["experiment_id"]] = experiment
        return experiment

    def list_experiments(self, request: Request) -> Json:
        return self.page(request, "experiments", self.readable(request, self.experiments))

    def create_run(self, request: Request) -> Json:
        given = request.json()
        if not given.get("display_name"):
            raise Refused(400, "The run name is empty. Please specify a valid name")
        run = self.job(request, given)
        run |= {"run_id": str(uuid.uuid4()), "state": "PENDING", "storage_state": "AVAILABLE"}
        self.runs[run["run_id"]] = run
        return run

    def job(self, request: Request, given: Json) -> Json:
        """What a run and a recurring run have in common."""
        experiment = found(self.experiments, given.get("experiment_id", ""), "Experiment")
        self.writable(request, experiment["namespace"])
        reference = given.get("pipeline_version_reference") or {}
        if reference:
            version = found(self.versions, reference.get("pipeline_version_id", ""), "PipelineVersion")
            specification = version["pipeline_spec"]
        else:
            specification = given.get("pipeline_spec") or {}
        specification = specification.get("pipeline_spec", specification)
        check_arguments(specification, (given.get("runtime_config") or {}).get("parameters") or {})
        referred = {
            task["componentRef"]["name"] for task in specification["root"].get("dag", {}).get("tasks", {}).values()
        }
        if dangling := sorted(referred - set(specification.get("components", {}))):
            raise Refused(500, f"InternalServerError: Failed to compile: component {dangling[0]} is not found")
        return given | {"created_at": self.now()}

    def get_run(self, request: Request, run_id: str) -> Json:
        run = found(self.runs, run_id, "Run")
        if self.plot:
            self.plot.pop(0)(run_id)
        if run["state"] == "CANCELING" and run.pop("seen_canceling", None):
            run["state"] = "FAILED"
        elif run["state"] == "CANCELING":
            run["seen_canceling"] = True
        return {key: value for key, value in run.items() if key != "seen_canceling"}

    def list_runs(self, request: Request) -> Json:
        return self.page(request, "runs", list(self.runs.values()))

    def terminate_run(self, request: Request, run_id: str) -> Json:
        run = found(self.runs, run_id, "Run")
        if run["state"] in ENDED:
            raise Refused(400, f"Failed to terminate run {run_id}: it is not running")
        run["state"] = "CANCELING"
        return {}

    def retry_run(self, request: Request, run_id: str) -> Json:
        found(self.runs, run_id, "Run")["state"] = "RUNNING"
        return {}

    def create_recurring_run(self, request: Request) -> Json:
        given = request.json()
        if not given.get("display_name"):
            raise Refused(400, "Recurring run name is empty. Please specify a valid name")
        if not 1 <= int(given.get("max_concurrency", 0)) <= 10:
            raise Refused(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        cron_fields((given.get("trigger", {}).get("cron_schedule") or {}).get("cron", ""))
        recurring = self.job(request, given)
        recurring["recurring_run_id"] = str(uuid.uuid4())
        recurring["status"] = "ENABLED" if given.get("mode") == "ENABLE" else "DISABLED"
        recurring["namespace"] = self.experiments[given["experiment_id"]]["namespace"]
        self.recurring_runs[recurring["recurring_run_id"]] = recurring
        return recurring

    def list_recurring_runs(self, request: Request) -> Json:
        return self.page(request, "recurringRuns", self.readable(request, self.recurring_runs))

    def get_recurring_run(self, request: Request, recurring_run_id: str) -> Json:
        return found(self.recurring_runs, recurring_run_id, "RecurringRun")

    def enable_recurring_run(self, request: Request, recurring_run_id: str) -> Json:
        found(self.recurring_runs, recurring_run_id, "RecurringRun").update(status="ENABLED", mode="ENABLE")
        return {}

    def disable_recurring_run(self, request: Request, recurring_run_id: str) -> Json:
        found(self.recurring_runs, recurring_run_id, "RecurringRun").update(status="DISABLED", mode="DISABLE")
        return {}

    def delete_recurring_run(self, request: Request, recurring_run_id: str) -> Json:
        found(self.recurring_runs, recurring_run_id, "RecurringRun")
        del self.recurring_runs[recurring_run_id]
        return {}

    # who may what, and in which portions -----------------------------------------------------------------------------

    def writable(self, request: Request, namespace: str, *, refused: int = 403) -> str:
        """The namespace of what is written; with one user there is none."""
        if not self.multi_user:
            return ""
        if not namespace:
            raise Refused(400, "A namespace cannot be empty in multi-user mode")
        if namespace not in self.rights[request.token or ""]:
            message = f"PermissionDenied: User is not authorized to create in namespace {namespace}"
            raise Refused(refused, message if refused == 403 else "Failed to create a pipeline")
        return namespace

    def readable(self, request: Request, rows: dict[str, Json]) -> list[Json]:
        namespace = request.query.get("namespace", "")
        if not self.multi_user:
            return list(rows.values())
        if namespace not in self.rights[request.token or ""]:
            raise Refused(403, f"PermissionDenied: User is not authorized to list in namespace {namespace}")
        return [one for one in rows.values() if one.get("namespace") == namespace]

    def authenticate(self, request: Request) -> None:
        if self.multi_user and request.token not in self.rights:
            raise Refused(401, "Unauthenticated: Request header error: there is no user identity header")

    def page(self, request: Request, name: str, rows: list[Json]) -> Json:
        for predicate in json.loads(request.query.get("filter") or "{}").get("predicates", ()):
            if predicate["operation"] not in (1, "EQUALS") or predicate["key"] not in ("name", "display_name"):
                raise Refused(400, f"Invalid filter: {predicate}")
            wanted = predicate.get("stringValue", predicate.get("string_value"))
            rows = [one for one in rows if one[predicate["key"]] == wanted]
        order = (request.query.get("sort_by") or "created_at").split()
        rows = sorted(rows, key=lambda one: one[order[0]], reverse=order[1:] == ["desc"])
        size, start = int(request.query.get("page_size") or 20), int(request.query.get("page_token") or 0)
        more = {"next_page_token": str(start + size)} if start + size < len(rows) else {}
        return {name: rows[start : start + size], "total_size": len(rows), **more}


def found(rows: dict[str, Json], key: str, kind: str) -> Json:
    if key not in rows:
        raise Refused(404, f"ResourceNotFoundError: {kind} {key} not found")
    return rows[key]


def check_package(specification: bytes) -> None:
    """Refuses what the real upload refuses; unknown platform fields and dangling references pass there too."""
    try:
        documents = [one for one in yaml.safe_load_all(specification) if one is not None]
    except yaml.YAMLError as err:
        raise Refused(400, "Failed to read a pipeline spec file") from err
    if not documents or not all(isinstance(one, dict) for one in documents):
        raise Refused(400, "unknown template format: pipeline spec is invalid")
    if documents[0].get("kind") == "Workflow" and documents[0].get("apiVersion", "").startswith("argoproj.io/"):
        return
    pipelines = [one for one in documents if "platforms" not in one]
    if len(pipelines) != 1:
        raise Refused(400, "Invalid input error: multiple pipeline specs provided")
    pipeline = pipelines[0]
    if pipeline.get("schemaVersion") != "2.1.0":
        raise Refused(400, f"unsupported schema version {pipeline.get('schemaVersion')}")
    try:
        json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    except json_format.ParseError as err:
        raise Refused(400, f"invalid v2 pipeline spec: {err}") from err
    if not pipeline.get("root"):
        raise Refused(400, "invalid v2 pipeline spec: root component is empty")
    name = pipeline.get("pipelineInfo", {}).get("name", "")
    if not NAME.match(name):
        raise Refused(400, f"invalid v2 pipeline spec: name should consist of lower case letters, got {name!r}")
    if len(name) > 128:
        raise Refused(400, f"invalid v2 pipeline spec: name is longer than 128 characters, got {len(name)}")


def check_arguments(specification: Json, arguments: Json) -> None:
    """Refuses the arguments of a run that the real API refuses: 1.5 for an integer passes there too."""
    declared = specification["root"].get("inputDefinitions", {}).get("parameters", {})
    if unknown := sorted(set(arguments) - set(declared)):
        raise Refused(400, f"parameter(s) provided are not required by pipeline: {', '.join(unknown)}")
    kinds = {"STRING": str, "BOOLEAN": bool, "LIST": list, "STRUCT": dict}
    for name, definition in declared.items():
        if name not in arguments:
            if not definition.get("isOptional") and "defaultValue" not in definition:
                raise Refused(400, f"parameter {name} is not optional, yet has neither default value nor user value")
            continue
        value, kind = arguments[name], definition["parameterType"]
        right = (
            isinstance(value, (int, float)) and not isinstance(value, bool)
            if kind.startswith("NUMBER_")
            else isinstance(value, kinds[kind])
        )
        if not right:
            raise Refused(400, f"input parameter {name} requires type {kind}, but the parameter value is not of it")


def cron_fields(cron: str) -> list[str]:
    """Second, minute, hour, day of month, month, day of week: five fields lack the last, not the first."""
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise Refused(400, "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron)")
    return [*fields, "*"][:6]


def fires(cron: str, at: datetime) -> bool:
    """Whether a recurring run with this cron starts something in that second; numbers, `*`, `?`, `a-b` and `*/n`."""
    now = (at.second, at.minute, at.hour, at.day, at.month, at.isoweekday() % 7)
    return all(
        any(matches(part, value, low) for part in text.split(","))
        for text, value, low in zip(cron_fields(cron), now, (0, 0, 0, 1, 1, 0), strict=True)
    )


def matches(part: str, value: int, low: int) -> bool:
    span, _, step = part.partition("/")
    first, _, last = span.partition("-")
    start, end = (low, 99) if span in ("*", "?") else (int(first), int(last or first))
    return start <= value <= end and (value - start) % int(step or 1) == 0


Route = tuple[str, str, Callable[..., Json], type | None]


def routes(api: KfpApi) -> list[Route]:
    """Method, path, what answers, and the model that the OpenAPI description gives the answer."""
    k = kfp_server_api
    return [
        ("GET", "/healthz", api.healthz, k.V2beta1GetHealthzResponse),
        ("GET", "/pipelines", api.list_pipelines, k.V2beta1ListPipelinesResponse),
        ("POST", "/pipelines", api.create_pipeline, k.V2beta1Pipeline),
        ("POST", "/pipelines/upload", api.upload_pipeline, k.V2beta1Pipeline),
        ("POST", "/pipelines/upload_version", api.upload_version, k.V2beta1PipelineVersion),
        ("GET", "/pipelines/{pipeline_id}", api.get_pipeline, k.V2beta1Pipeline),
        ("DELETE", "/pipelines/{pipeline_id}", api.delete_pipeline, None),
        ("GET", "/pipelines/{pipeline_id}/versions", api.list_versions, k.V2beta1ListPipelineVersionsResponse),
        ("GET", "/experiments", api.list_experiments, k.V2beta1ListExperimentsResponse),
        ("POST", "/experiments", api.create_experiment, k.V2beta1Experiment),
        ("GET", "/runs", api.list_runs, k.V2beta1ListRunsResponse),
        ("POST", "/runs", api.create_run, k.V2beta1Run),
        ("GET", "/runs/{run_id}", api.get_run, k.V2beta1Run),
        ("POST", "/runs/{run_id}:terminate", api.terminate_run, None),
        ("POST", "/runs/{run_id}:retry", api.retry_run, None),
        ("GET", "/recurringruns", api.list_recurring_runs, k.V2beta1ListRecurringRunsResponse),
        ("POST", "/recurringruns", api.create_recurring_run, k.V2beta1RecurringRun),
        ("GET", "/recurringruns/{recurring_run_id}", api.get_recurring_run, k.V2beta1RecurringRun),
        ("DELETE", "/recurringruns/{recurring_run_id}", api.delete_recurring_run, None),
        ("POST", "/recurringruns/{recurring_run_id}:enable", api.enable_recurring_run, None),
        ("POST", "/recurringruns/{recurring_run_id}:disable", api.disable_recurring_run, None),
    ]


def answer(api: KfpApi, request: Request) -> tuple[int, Json]:
    """The status and body that a request earns; every answer fits its model in the OpenAPI description."""
    with api.lock:
        try:
            api.authenticate(request)
            for method, pattern, act, model in routes(api):
                match = re.fullmatch(re.sub(r"\{\w+\}", "([^/:]+)", BASE + pattern), request.path)
                if match and method == request.method:
                    body = populated(act(request, *map(unquote, match.groups())))
                    if model is not None:
                        unknown = set(body) - set(model.attribute_map.values())
                        assert not unknown, f"{model.__name__} has no {unknown}"
                    return 200, json.loads(json.dumps(body))
            raise Refused(404, "Not Found")
        except Refused as err:
            return err.status, refusal(request, err)


def populated(value: Json) -> Json:
    """As the real gateway writes: no field that is empty, zero or false."""
    return {key: one for key, one in value.items() if one not in ("", 0, False, None, [], {})}


def refusal(request: Request, err: Refused) -> Json:
    """One of the two bodies of the real API, both with a Go stack trace."""
    if "/upload" in request.path:
        return {"error_message": err.message, "error_details": err.message + STACK}
    code, internal = GRPC_CODES[err.status], f"Failed to do it: {err.message}{STACK}"
    details = [{"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": err.message}]
    return {"error": internal, "code": code, "message": internal, "details": details}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KfpApi

    def respond(self) -> None:
        parts = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=parts.path,
            query={key: values[-1] for key, values in parse_qs(parts.query).items()},
            token=(self.headers.get("Authorization") or "").removeprefix("Bearer ") or None,
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
            content_type=self.headers.get("Content-Type") or "",
        )
        with self.api.lock:
            self.api.requests.append(request)
            fault = self.api.faults.pop(0) if self.api.faults else None
        if fault == "drop":
            self.close_connection = True
            return
        status, body = answer(self.api, request) if not isinstance(fault, int) else (fault, {"message": "try later"})
        if fault == "lose":
            self.close_connection = True
            return
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = respond

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests read `requests`."""


@contextmanager
def serve(**settings: Any) -> Iterator[KfpApi]:
    """An imitation that listens on a free port of this machine."""
    api = KfpApi(**settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"api": api}))
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def connect(url: str, **options: Any) -> Any:
    """kfp's own client of the API at this address."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return kfp.Client(host=url, **options)
