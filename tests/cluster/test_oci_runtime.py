"""The wrapper takes rights away and gives none."""

from pathlib import Path

from tests.cluster import oci_runtime


def test_what_this_root_may_not_give_is_left_out_and_the_rest_stays():
    capabilities = {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"], "effective": ["CAP_SYS_RESOURCE"]}
    process = {"capabilities": capabilities, "rlimits": [{}], "oomScoreAdj": -999, "user": {"uid": 5}}
    oci_runtime.lessen({"process": process, "root": {}})
    assert process == {
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": []},
        "oomScoreAdj": 0,
        "user": {"uid": 5},
    }


def test_a_higher_oom_score_stays_and_no_capabilities_are_none():
    process = {"oomScoreAdj": 500}
    oci_runtime.lessen(process)
    assert process == {"oomScoreAdj": 500}


def test_only_what_starts_something_is_read():
    assert oci_runtime.spec_path(["--root", "/r", "create", "--bundle", "/b", "id"]) == Path("/b/config.json")
    assert oci_runtime.spec_path(["run", "-b=/b", "id"]) == Path("/b/config.json")
    assert oci_runtime.spec_path(["exec", "--process", "/p.json", "id"]) == Path("/p.json")
    assert oci_runtime.spec_path(["--root", "/r", "state", "id"]) is None
