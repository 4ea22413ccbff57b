"""Steps are told as they go, and a table has all of them."""

import re

import pytest

from tests.cluster.table import Steps


def test_the_table_has_a_line_a_step_and_the_time_of_all():
    said: list[str] = []
    steps = Steps(said.append)
    with steps.step("cluster"):
        pass
    steps.note("node image", "was there")
    with pytest.raises(RuntimeError), steps.step("add-ons"):
        raise RuntimeError
    lines = [re.sub(r" +[\d.]+ s", " N s", line) for line in steps.table().splitlines()]
    assert lines == ["cluster N s", "node image N s  was there", "add-ons N s  failed", "from begin to end N s"]
    assert [re.sub(r"[\d.]+ s$", "N s", line) for line in said] == [
        "cluster ...",
        "cluster: done in N s",
        "add-ons ...",
        "add-ons: failed in N s",
    ]
