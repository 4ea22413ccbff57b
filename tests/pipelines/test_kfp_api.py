"""The imitation behaves as a real Kubeflow Pipelines 2.17.0 was seen to, asked by kfp's own client."""

import inspect
import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kfp_server_api
import pytest
import yaml
from kfp_server_api.exceptions import ApiException

from pipelines.catalogue import COMPILED
from tests.pipelines.kfp_api import BASE, KfpApi, connect, fires, routes, serve

ARGUMENTS = {
    **dict.fromkeys(("source", "data_fingerprint", "code_version", "git_sha", "tracking_uri", "models_uri"), "a"),
    **dict.fromkeys(("hub", "submitted_by"), "a"),
}


@pytest.fixture
def client(api: KfpApi) -> Any:
    return connect(api.url)


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((COMPILED / "retrain.yaml").read_text()))


@pytest.fixture
def package(tmp_path: Path) -> Any:
    def write(*documents: Any) -> str:
        path = tmp_path / "package.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        return str(path)

    return write


@pytest.fixture
def version(client: Any) -> kfp_server_api.V2beta1PipelineVersion:
    pipeline = client.upload_pipeline(str(COMPILED / "retrain.yaml"), pipeline_name="retrain")
    return client.list_pipeline_versions(pipeline.pipeline_id).pipeline_versions[0]


@pytest.fixture
def start(client: Any, version: kfp_server_api.V2beta1PipelineVersion) -> Any:
    def run(**changes: Any) -> Any:
        experiment = client.create_experiment("nightly")
        given = {name: value for name, value in (ARGUMENTS | changes).items() if value is not ...}
        return client.run_pipeline(
            experiment.experiment_id, "a", params=given, pipeline_id=version.pipeline_id,
            version_id=version.pipeline_version_id,
        )  # fmt: skip

    return run


def refusal(action: Any, *args: Any, **options: Any) -> ApiException:
    with pytest.raises(ApiException) as caught:
        action(*args, **options)
    return caught.value


def test_every_route_is_one_of_the_openapi_description():
    known: set[tuple[str, str]] = set()
    for name, service in inspect.getmembers(kfp_server_api, inspect.isclass):
        if name.endswith("ServiceApi"):
            for path, method in re.findall(rf"'{BASE}(/\S+)', '(\w+)'", inspect.getsource(service)):
                known.add((method, re.sub(r"\{\w+\}", "{}", path)))
    served = {(method, re.sub(r"\{\w+\}", "{}", path)) for method, path, _, _ in routes(KfpApi())}
    assert served <= known


def test_what_was_uploaded_comes_back(client: Any, version: Any, documents: list[dict[str, Any]]):
    assert client.get_pipeline_id("retrain") == version.pipeline_id
    assert version.pipeline_spec["pipeline_spec"] == documents[0]


def test_versions_are_listed_oldest_first(client: Any, version: Any):
    for name in ("b", "a"):
        client.upload_pipeline_version(str(COMPILED / "retrain.yaml"), name, pipeline_id=version.pipeline_id)
    listed = client.list_pipeline_versions(version.pipeline_id).pipeline_versions
    assert [one.display_name for one in listed] == ["retrain", "b", "a"]
    newest = client.list_pipeline_versions(version.pipeline_id, sort_by="created_at desc", page_size=2)
    assert [one.display_name for one in newest.pipeline_versions] == ["a", "b"]
    rest = client.list_pipeline_versions(
        version.pipeline_id, sort_by="created_at desc", page_size=2, page_token=newest.next_page_token
    )
    assert [one.display_name for one in rest.pipeline_versions] == ["retrain"]


@pytest.mark.parametrize("kind", ["pipeline", "version"])
def test_a_name_that_is_taken_is_409_with_a_go_stack_trace(client: Any, version: Any, kind: str):
    path = str(COMPILED / "retrain.yaml")
    if kind == "pipeline":
        err = refusal(client.upload_pipeline, path, pipeline_name="retrain")
    else:
        err = refusal(client.upload_pipeline_version, path, "retrain", pipeline_id=version.pipeline_id)
    assert err.status == 409
    assert "runtime/asm_amd64.s" in err.body


def mutated(documents: list[dict[str, Any]], name: str) -> list[Any]:
    pipeline, platform = deepcopy(documents)
    match name:
        case "no schema version":
            del pipeline["schemaVersion"]
        case "another schema version":
            pipeline["schemaVersion"] = "2.0.0"
        case "an unknown field":
            pipeline["invented"] = 1
        case "no root":
            del pipeline["root"]
        case "two pipelines":
            return [pipeline, pipeline]
        case "upper case":
            pipeline["pipelineInfo"]["name"] = "Retrain"
        case "underscore":
            pipeline["pipelineInfo"]["name"] = "re_train"
        case "an unknown platform field":
            platform["platforms"]["kubernetes"]["invented"] = 1
        case "a dangling reference":
            pipeline["root"]["dag"]["tasks"]["data"]["componentRef"]["name"] = "comp-none"
        case "an Argo workflow":
            return [{"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {}}]
    return [pipeline, platform]


@pytest.mark.parametrize(
    "name",
    ["no schema version", "another schema version", "an unknown field", "no root", "two pipelines", "upper case",
     "underscore"],
)  # fmt: skip
def test_a_package_with_this_is_400(client: Any, documents: list[dict[str, Any]], package: Any, name: str):
    err = refusal(client.pipeline_uploads.upload_pipeline, package(*mutated(documents, name)), name="a")
    assert err.status == 400
    assert client.list_pipelines().pipelines is None


@pytest.mark.parametrize("name", ["an unknown platform field", "a dangling reference", "an Argo workflow"])
def test_a_package_with_this_is_taken_without_a_word(
    client: Any, documents: list[dict[str, Any]], package: Any, name: str
):
    client.pipeline_uploads.upload_pipeline(package(*mutated(documents, name)), name="a")


def test_a_pipeline_name_over_128_characters_is_400(client: Any):
    err = refusal(client.upload_pipeline, str(COMPILED / "retrain.yaml"), pipeline_name="a" * 129)
    assert err.status == 400


def test_a_pipeline_with_versions_is_deleted_by_cascade_only(client: Any, version: Any):
    assert refusal(client.delete_pipeline, version.pipeline_id).status == 400
    client.pipelines.pipeline_service_delete_pipeline(version.pipeline_id, cascade=True)
    assert client.get_pipeline_id("retrain") is None


@pytest.mark.parametrize(
    "changes",
    [{"invented": "a"}, {"scenes": "7"}, {"scenes": None}, {"source": ...}, {"hub": 1}, {"node_selector": []}],
)
def test_arguments_with_this_are_400(start: Any, changes: dict[str, Any]):
    assert refusal(start, **changes).status == 400


def test_a_fraction_for_an_integer_is_taken(start: Any):
    assert start(scenes=1.5).run_id


def test_a_dangling_reference_is_500_when_it_is_run(client: Any, documents: list[dict[str, Any]], package: Any):
    pipeline = client.pipeline_uploads.upload_pipeline(
        package(*mutated(documents, "a dangling reference")), name="dangling"
    )
    uploaded = client.list_pipeline_versions(pipeline.pipeline_id).pipeline_versions[0]
    err = refusal(
        client.run_pipeline, client.create_experiment("a").experiment_id, "a", params=ARGUMENTS,
        pipeline_id=pipeline.pipeline_id, version_id=uploaded.pipeline_version_id,
    )  # fmt: skip
    assert err.status == 500


def test_a_failed_run_says_no_more_than_that(client: Any, api: KfpApi, start: Any):
    run_id = start().run_id
    api.move(run_id, "FAILED", data="FAILED", data_driver="SUCCEEDED")
    run = client.get_run(run_id)
    assert (run.state, run.error) == ("FAILED", None)
    assert {task.display_name: (task.state, task.error) for task in run.run_details.task_details} == {
        "data": ("FAILED", None),
        "data-driver": ("SUCCEEDED", None),
    }


def test_a_terminated_run_is_canceling_and_then_failed(client: Any, start: Any):
    run_id = start().run_id
    client.terminate_run(run_id)
    assert [client.get_run(run_id).state for _ in range(3)] == ["CANCELING", "FAILED", "FAILED"]
    assert refusal(client.terminate_run, run_id).status == 400
    client.runs.run_service_retry_run(run_id)
    assert client.get_run(run_id).state == "RUNNING"


def test_cron_has_seconds_first():
    noon = datetime(2026, 11, 23, 12, 30, 0, tzinfo=UTC)
    assert fires("0 30 12 * * *", noon)
    assert not fires("0 30 12 * * *", noon.replace(second=1))
    assert fires("* * * * *", noon.replace(second=59))  # five fields: every second
    assert fires("0 */15 9-17 * * 1", noon)
    assert not fires("0 */15 9-17 * * 0", noon)


@pytest.mark.parametrize("settings", [{"cron_expression": "* * *"}, {"max_concurrency": 11}])
def test_a_recurring_run_with_this_is_400(client: Any, version: Any, settings: dict[str, Any]):
    options = {"cron_expression": "0 0 0 * * *", **settings}
    experiment = client.create_experiment("a").experiment_id
    err = refusal(
        client.create_recurring_run, experiment, "a", params=ARGUMENTS, pipeline_id=version.pipeline_id,
        version_id=version.pipeline_version_id, **options,
    )  # fmt: skip
    assert err.status == 400


@pytest.fixture
def shared() -> Iterator[KfpApi]:
    with serve(multi_user=True, rights={"mine": {"team-a"}}) as served:
        yield served


def test_with_many_users_a_caller_needs_a_token_and_rights(shared: KfpApi):
    stranger = connect(shared.url, namespace="team-a")
    assert refusal(stranger.list_pipelines, namespace="team-a").status == 401
    mine = connect(shared.url, namespace="team-b", existing_token="mine")
    assert refusal(mine.list_experiments).status == 403
    err = refusal(mine.upload_pipeline, str(COMPILED / "retrain.yaml"), namespace="team-b")
    assert err.status == 400  # an upload without rights looks like a bad one
    assert mine.upload_pipeline(str(COMPILED / "retrain.yaml"), namespace="team-a").pipeline_id


@pytest.mark.parametrize("path", ["/artifacts", "/tasks", "/executions"])
def test_there_is_no_route_to_artifacts_tasks_or_executions(client: Any, path: str):
    client_api = client.runs.run_service_list_runs.__self__.api_client
    err = refusal(client_api.call_api, BASE + path, "GET", auth_settings=["Bearer"])
    assert err.status == 404
