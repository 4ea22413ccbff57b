"""Recurring runs are those of the file, seconds first, replaced where they differ, and nobody else's are touched."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import catalogue
from tests.pipelines.conftest import GIVEN, Command, Outcome
from tests.pipelines.kfp_api import KfpApi, connect, fires

NIGHTLY = {"name": "nightly", "pipeline": "retrain", "cron": "30 2 * * *"}
SETTINGS = [word for value in GIVEN for word in ("--set", value)]

Schedule = Callable[..., Outcome]


@pytest.fixture
def schedule(api: KfpApi, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Schedule:
    """The command with a file that lists these."""
    monkeypatch.setenv("STREETVISION_CODE_VERSION", "sha256:abc")
    monkeypatch.setenv("STREETVISION_GIT_SHA", "0123")

    def call(*entries: dict[str, Any], options: tuple[object, ...] = ()) -> Outcome:
        path = tmp_path / "schedules.yaml"
        path.write_text(yaml.safe_dump(list(entries)))
        return command("schedule", path, "--host", api.url, *SETTINGS, *options)

    return call


@pytest.fixture
def client(api: KfpApi) -> Any:
    return connect(api.url)


def actions(outcome: Outcome) -> list[str]:
    assert outcome.code == 0, outcome.err
    return outcome.out.splitlines()


def names(api: KfpApi) -> list[str]:
    return sorted(one["display_name"] for one in api.recurring_runs.values())


def the_one(api: KfpApi) -> dict[str, Any]:
    (only,) = api.recurring_runs.values()
    return only


def test_a_recurring_run_is_what_the_file_says(api: KfpApi, schedule: Schedule):
    entry = NIGHTLY | {"parameters": {"scenes": 20, "gpus": "1"}, "max_concurrency": 2, "description": "every night"}
    assert actions(schedule(entry, options=("--service-account", "steps", "--pipeline-root", "s3://b/kfp"))) == [
        "nightly: created"
    ]
    made = the_one(api)
    assert made["trigger"] == {"cron_schedule": {"cron": "0 30 2 * * *"}}
    assert (made["status"], made["no_catchup"], made["max_concurrency"]) == ("ENABLED", True, "2")
    assert (made["service_account"], made["runtime_config"]["pipeline_root"]) == ("steps", "s3://b/kfp")
    assert made["description"].startswith("every night\n\nmanaged by streetvision, owner streetvision, content ")
    parameters = made["runtime_config"]["parameters"]
    assert (parameters["scenes"], parameters["gpus"], parameters["code_version"]) == (20, "1", "sha256:abc")
    assert (parameters["git_sha"], parameters["hub"], parameters["workspace"]) == ("0123", "", "/workspace")
    assert len(parameters["data_fingerprint"]) > 10
    version = api.versions[made["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "retrain"


def test_half_past_two_is_once_a_day(api: KfpApi, schedule: Schedule):
    schedule(NIGHTLY)
    cron = the_one(api)["trigger"]["cron_schedule"]["cron"]
    midnight = datetime(2026, 11, 23, tzinfo=UTC)
    seconds = [at for at in range(0, 86_400) if fires(cron, midnight + timedelta(seconds=at))]
    assert seconds == [2 * 3600 + 30 * 60]


def test_the_same_file_again_changes_nothing(api: KfpApi, schedule: Schedule):
    schedule(NIGHTLY)
    before, asked = dict(api.recurring_runs), len(api.requests)
    assert actions(schedule(NIGHTLY)) == ["nightly: unchanged"]
    assert api.recurring_runs == before
    assert {request.method for request in api.requests[asked:]} == {"GET"}


@pytest.mark.parametrize(
    "change",
    [{"cron": "0 3 * * *"}, {"parameters": {"scenes": 9}}, {"max_concurrency": 3}, {"description": "other"}],
    ids=lambda change: next(iter(change)),
)
def test_a_change_replaces_it(api: KfpApi, schedule: Schedule, change: dict[str, Any]):
    schedule(NIGHTLY)
    old = set(api.recurring_runs)
    assert actions(schedule(NIGHTLY | change)) == ["nightly: replaced"]
    assert len(api.recurring_runs) == 1
    assert not old & set(api.recurring_runs)


@pytest.mark.parametrize(
    "options", [("--service-account", "a"), ("--pipeline-root", "s3://a"), ("--experiment", "a"), ("--set", "seed=3")]
)
def test_another_option_replaces_it(api: KfpApi, schedule: Schedule, options: tuple[str, str]):
    schedule(NIGHTLY)
    assert actions(schedule(NIGHTLY, options=options)) == ["nightly: replaced"]
    assert len(api.recurring_runs) == 1


def test_another_version_of_the_pipeline_replaces_it(
    api: KfpApi, schedule: Schedule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    schedule(NIGHTLY)
    text = (catalogue.COMPILED / "retrain.yaml").read_text()
    (tmp_path / "retrain.yaml").write_text(text.replace("pipeline-cpu:0.1.0", "pipeline-cpu:0.2.0"))
    monkeypatch.setattr("pipelines.catalogue.COMPILED", tmp_path)
    assert actions(schedule(NIGHTLY)) == ["nightly: replaced"]
    version = api.versions[the_one(api)["pipeline_version_reference"]["pipeline_version_id"]]
    assert "pipeline-cpu:0.2.0" in json.dumps(version)


def test_it_is_turned_off_and_on_in_place(api: KfpApi, schedule: Schedule):
    schedule(NIGHTLY)
    kept = set(api.recurring_runs)
    assert actions(schedule(NIGHTLY | {"enabled": False})) == ["nightly: disabled"]
    assert the_one(api)["status"] == "DISABLED"
    assert actions(schedule(NIGHTLY | {"enabled": False})) == ["nightly: unchanged"]
    assert actions(schedule(NIGHTLY)) == ["nightly: enabled"]
    assert the_one(api)["status"] == "ENABLED"
    assert set(api.recurring_runs) == kept


def test_one_that_is_declared_off_starts_off(api: KfpApi, schedule: Schedule):
    schedule(NIGHTLY | {"enabled": False})
    assert the_one(api)["status"] == "DISABLED"


def test_what_is_no_longer_listed_is_deleted(api: KfpApi, schedule: Schedule):
    schedule(NIGHTLY, NIGHTLY | {"name": "weekly", "cron": "0 4 * * sun"})
    assert actions(schedule(NIGHTLY)) == ["nightly: unchanged", "weekly: deleted"]
    assert actions(schedule()) == ["nightly: deleted"]
    assert api.recurring_runs == {}


def test_recurring_runs_of_others_are_left_alone(api: KfpApi, schedule: Schedule, client: Any):
    version = client.upload_pipeline("pipelines/compiled/retrain.yaml", pipeline_name="by hand")
    given = dict(value.split("=") for value in GIVEN)
    client.create_recurring_run(
        client.create_experiment("a").experiment_id, "nightly", cron_expression="0 0 0 * * *",
        description="made in the UI", pipeline_id=version.pipeline_id,
        version_id=client.list_pipeline_versions(version.pipeline_id).pipeline_versions[0].pipeline_version_id,
        params=given | dict.fromkeys(("source", "data_fingerprint", "code_version", "git_sha", "hub"), "a"),
    )  # fmt: skip
    schedule(NIGHTLY, options=("--owner", "release-b"))
    schedule(NIGHTLY)
    assert names(api) == ["nightly"] * 3
    assert actions(schedule()) == ["nightly: deleted"]
    assert names(api) == ["nightly"] * 2
    assert actions(schedule(options=("--owner", "release-b"))) == ["nightly: deleted"]
    assert the_one(api)["description"] == "made in the UI"


def test_recurring_runs_beyond_the_first_page_are_seen(api: KfpApi, schedule: Schedule):
    schedule(NIGHTLY)
    (key, ours) = next(iter(api.recurring_runs.items()))
    others = {f"{number}": ours | {"recurring_run_id": f"{number}", "description": ""} for number in range(150)}
    api.recurring_runs = {**others, key: ours | {"created_at": "2027"}}
    assert actions(schedule(NIGHTLY)) == ["nightly: unchanged"]


@pytest.mark.parametrize("fault", ["lose", "drop", 500])
def test_what_was_cut_off_is_put_right_by_the_next(
    api: KfpApi, schedule: Schedule, monkeypatch: pytest.MonkeyPatch, fault: int | str
):
    monkeypatch.setattr("pipelines.api._PAUSE_S", 0.01)
    schedule(NIGHTLY)
    needed = len(api.requests)
    for at in range(needed):
        api.requests.clear()
        api.faults = [None] * at + [fault]
        schedule(NIGHTLY | {"description": str(at)})
        api.faults = []
        assert api.recurring_runs, "a gap without any"
        schedule(NIGHTLY | {"description": str(at)})
        assert names(api) == ["nightly"]
        assert the_one(api)["description"].startswith(f"{at}\n")


def test_a_lost_answer_is_said(api: KfpApi, schedule: Schedule):
    schedule(NIGHTLY | {"enabled": False})
    at = next(index for index, request in enumerate(api.requests) if request.path.endswith("recurringruns")
              and request.method == "POST")  # fmt: skip
    api.recurring_runs.clear()
    api.requests.clear()
    # without pipeline, version and experiment to make, three requests fewer come before it
    api.faults = [None] * (at - 3) + ["lose"]
    outcome = schedule(NIGHTLY)
    assert outcome.code == 3
    assert "was asked to create recurring run `nightly`, and its answer was lost" in outcome.err


def test_json_tells_programs_and_lines_go_to_people(schedule: Schedule):
    outcome = schedule(NIGHTLY, options=("--json",))
    (told,) = json.loads(outcome.out)
    assert (told["name"], told["action"], outcome.err) == ("nightly", "created", "nightly: created\n")


def test_parameters_come_from_file_entry_and_set_in_this_order(
    api: KfpApi, schedule: Schedule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "all.json").write_text(json.dumps({"scenes": 5, "views": 5, "seed": 5, "node_selector": {"a": "b"}}))
    monkeypatch.setenv("STREETVISION_KFP_PARAMETERS", str(tmp_path / "all.json"))
    schedule(NIGHTLY | {"parameters": {"views": 6, "seed": 6}}, options=("--set", "seed=7"))
    parameters = the_one(api)["runtime_config"]["parameters"]
    assert (parameters["scenes"], parameters["views"], parameters["seed"]) == (5, 6, 7)
    assert parameters["node_selector"] == {"a": "b"}


def test_pictures_that_only_the_cluster_sees_need_a_fingerprint(api: KfpApi, schedule: Schedule):
    entry = NIGHTLY | {"parameters": {"source": "/workspace/photos"}}
    outcome = schedule(entry)
    assert outcome.code == 2
    assert "recurring run `nightly`: pictures come from `/workspace/photos`" in outcome.err
    assert "[[ScheduledTime]]" in outcome.err
    entry["parameters"]["data_fingerprint"] = "[[ScheduledTime]]"
    assert schedule(entry).code == 0
    assert the_one(api)["runtime_config"]["parameters"]["data_fingerprint"] == "[[ScheduledTime]]"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cron": "0 30 2 * * *"}, "cron `0 30 2 * * *` has 6 fields, expected 5 (minute, hour"),
        ({"cron": "@daily"}, "has 1 fields, expected 5"),
        ({"cron": "60 2 * * *"}, "the minute is `60`, expected 0 to 59"),
        ({"cron": "0 24 * * *"}, "the hour is `24`"),
        ({"cron": "0 2 0 * *"}, "the day of month is `0`"),
        ({"cron": "0 2 * 13 *"}, "the month is `13`"),
        ({"cron": "0 2 * * 7"}, "the day of week is `7`"),
        ({"cron": "*/0 2 * * *"}, "the minute is `*/0`"),
        ({"cron": "5-1 2 * * *"}, "the minute is `5-1`"),
        ({"cron": 5}, "recurring run `nightly`, `cron`: Input should be a valid string"),
        ({"pipeline": "none"}, "recurring run `nightly` has the pipeline `none`, expected `retrain`"),
        ({"max_concurrency": 11}, "`max_concurrency`: Input should be less than or equal to 10"),
        ({"invented": 1}, "`invented`: Extra inputs are not permitted"),
        ({"enabled": "yes"}, "`enabled`: Input should be a valid boolean"),
        ({"parameters": {"invented": 1}}, "recurring run `nightly`: pipeline has no parameter `invented`"),
        ({"parameters": {"scenes": "many"}}, "parameter `scenes` is `many`, expected Integer"),
        ({"parameters": {"scenes": 1.5}}, "parameter `scenes` is `1.5`, expected Integer"),
        ({"parameters": {"scenes": True}}, "parameter `scenes` is `True`, expected Integer"),
        ({"parameters": {"scenes": None}}, "parameter `scenes` is `None`, expected Integer"),
        ({"parameters": {"hub": 1}}, "parameter `hub` is `1`, expected String"),
        ({"parameters": {"share_t2i": float("inf")}}, "parameter `share_t2i` is `inf`, expected Float"),
        ({"parameters": {"node_selector": "a"}}, "parameter `node_selector` is `a`, expected Dict"),
        ({"parameters": {"node_selector": {"a": 1}}}, "expected labels with text values"),
        ({"parameters": {"gpus": "all"}}, "parameter `gpus` is `all`, expected a number"),
        ({"parameters": {"hub": "a" * 20_000}}, "parameter `hub` has 20,000 characters, expected at most 10,000"),
    ],
)
def test_a_bad_entry_is_one_sentence_and_changes_nothing(
    api: KfpApi, schedule: Schedule, change: dict[str, Any], sentence: str
):
    outcome = schedule(NIGHTLY | {"name": "good"}, NIGHTLY | change)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert api.requests == []


@pytest.mark.parametrize("cron", ["*/15 9-17 1,15 jan-mar MON", "0 0 ? * 6", "5/10 * * * *"])
def test_the_usual_forms_of_cron_are_taken(api: KfpApi, schedule: Schedule, cron: str):
    assert schedule(NIGHTLY | {"cron": cron}).code == 0
    assert the_one(api)["trigger"]["cron_schedule"]["cron"] == f"0 {cron}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nightly: {}", "the whole file: Input should be a valid list"),
        ("- [", "is neither YAML nor JSON"),
        ("- a", "recurring run number 1: Input should be a valid dictionary"),
        ("- {pipeline: retrain, cron: '* * * * *'}", "recurring run number 1, `name`: Field required"),
        (json.dumps([NIGHTLY, NIGHTLY]), "names the recurring run `nightly` twice"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_is_one_sentence(api: KfpApi, command: Command, tmp_path: Path, text: str | None, sentence: str):
    path = tmp_path / "schedules.yaml"
    if text is not None:
        path.write_text(text)
    outcome = command("schedule", path, "--host", api.url, *SETTINGS)
    assert outcome.code == 2
    assert sentence in outcome.err


def test_what_is_missing_is_named(api: KfpApi, command: Command, tmp_path: Path):
    path = tmp_path / "schedules.json"
    path.write_text(json.dumps([NIGHTLY]))
    outcome = command("schedule", path, "--host", api.url)
    assert outcome.code == 2
    assert "recurring run `nightly`: parameter `tracking_uri`, `models_uri`, `submitted_by` is missing" in outcome.err


def test_an_owner_is_a_name(api: KfpApi, schedule: Schedule):
    outcome = schedule(NIGHTLY, options=("--owner", "my release"))
    assert outcome.code == 2
    assert "owner is `my release`, expected lower case letters" in outcome.err
    assert api.requests == []
