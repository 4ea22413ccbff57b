import pytest

from streetvision.errors import RolloutError, SettingsError
from streetvision.operations.rollout_job import RolloutJob
from tests.kubernetes_objects import connected, kubernetes_objects

JOBS = "/apis/batch/v1/namespaces/here/jobs"
CRON_JOB = "/apis/batch/v1/namespaces/here/cronjobs/r-rollout"
PODS = "/api/v1/namespaces/here/pods"
TEMPLATE = {
    "metadata": {"labels": {"a": "b"}},
    "spec": {"activeDeadlineSeconds": 60, "template": {"spec": {"containers": [{"name": "rollout"}]}}},
}


@pytest.fixture
def api():
    with kubernetes_objects() as running:
        running.put(CRON_JOB, {"metadata": {"uid": "u-1"}, "spec": {"suspend": True, "jobTemplate": TEMPLATE}})
        yield running


@pytest.fixture
def job(api, tmp_path, monkeypatch):
    monkeypatch.setattr("streetvision.operations.rollout_job._EVERY_S", 0.01)
    connected(api, tmp_path, monkeypatch).close()
    job = RolloutJob.parse("here/r-rollout")
    yield job
    job.cluster.close()


def ends(api, kind, log, **condition):
    """The Job ends so at the third look at it."""
    looks = []

    def finish(path):
        if path.startswith(f"{JOBS}/"):
            looks.append(path)
        if len(looks) == 3 and (pending := api.objects[looks[0]]).get("status") is None:
            status = {"conditions": [{"type": kind, "status": "True", **condition}]}
            api.put(looks[0], {**pending, "status": status})
            api.put(f"{PODS}/p", {"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}})
            api.texts[f"{PODS}/p/log"] = log

    api.on_get = finish


def started(api):
    [made] = [value for path, value in api.objects.items() if path.startswith(f"{JOBS}/")]
    return made


def test_a_job_of_the_template_is_made_and_its_sentence_comes_back(api, job):
    ends(api, "Complete", 'waiting for pods\n{"outcome": "rolled out", "sentence": "version 3 is served"}\n')
    assert job.run() == "version 3 is served"
    made = started(api)
    assert made["spec"] == TEMPLATE["spec"]
    assert made["metadata"]["labels"] == {"a": "b"}
    assert made["metadata"]["name"].startswith("r-rollout-")
    [owner] = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("CronJob", "r-rollout", "u-1")


def test_a_job_that_fails_tells_the_error_of_its_pod(api, job):
    ends(
        api, "Failed", "waiting\nerror: version 3 was not rolled out\nversion 2 is champion again\n", message="backoff"
    )
    with pytest.raises(RolloutError, match="backoff: version 3 was not rolled out\nversion 2 is champion again"):
        job.run()


def test_a_job_that_never_ends_is_given_up(api, job, monkeypatch):
    monkeypatch.setattr("streetvision.operations.rollout_job._SLACK_S", -59.9)
    with pytest.raises(RolloutError, match="did not end within 0 s: it had no pod"):
        job.run()


def test_a_job_that_somebody_deleted_failed(api, job):
    api.on_get = lambda path: path.startswith(JOBS) and api.objects.pop(path, None)
    with pytest.raises(RolloutError, match="somebody deleted it"):
        job.run()


def test_a_cron_job_that_is_not_there_is_named(api, job):
    del api.objects[CRON_JOB]
    with pytest.raises(SettingsError, match="there is no CronJob `here/r-rollout`"):
        job.run()


@pytest.mark.parametrize("name", ["a", "/a", "a/", "a/b/c"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(SettingsError, match=f"rollout is `{name}`, expected `NAMESPACE/CRONJOB`"):
        RolloutJob.parse(name)
