import json
import random
from datetime import timedelta
from pathlib import Path

import pytest

from streetvision.curation.prediction_log import Log, merge, parse, read_log, segment_files
from streetvision.errors import DataError
from tests.unit.curation.conftest import START, accept, outcome, segment, shadow


def test_a_challenge_is_one_row_with_all_that_is_known_of_it():
    (row,), orphans = merge([accept(1), outcome(1), shadow(1)])
    assert orphans == 0
    assert (row.request_id, row.received_at, row.replica) == ("request-1", START + timedelta(seconds=1), "miner-0")
    assert (row.outcome, row.prediction, row.answered_by, row.reason) == ("answered", 0.75, "primary", "")
    assert (row.model_version, row.latency_ms, row.parts_ms) == ("0123456789ab", 40.5, {"verify": 0.5, "primary": 39.0})
    assert (row.shadow_probability, row.shadow_model_version, row.shadow_latency_ms) == (0.25, "ba9876543210", 50.0)


def test_a_challenge_whose_miner_died_has_an_unknown_outcome():
    (row,), _ = merge([accept(1)])
    assert (row.outcome, row.prediction, row.finished_at, row.latency_ms) == ("unknown", None, None, None)


def test_a_challenge_without_an_answer_was_abstained_from_for_a_reason():
    (row,), _ = merge([accept(1), outcome(1, prediction=-1.0, answered_by="", reason="late")])
    assert (row.outcome, row.prediction, row.reason) == ("abstained", -1.0, "late")


def test_records_make_the_same_rows_in_any_order_and_however_often(shuffled: random.Random):
    records = [record for number in range(50) for record in (accept(number), outcome(number), shadow(number))]
    expected = merge(records)
    again = records * 3
    shuffled.shuffle(again)
    assert merge(again) == expected
    assert [row.request_id for row in expected[0]] == [f"request-{number}" for number in range(50)]


def test_of_two_outcomes_the_earliest_counts_whichever_is_read_first():
    first, second = outcome(1), outcome(1, prediction=0.1, finished_at=START + timedelta(hours=1))
    assert merge([accept(1), first, second]) == merge([accept(1), second, first])
    assert merge([accept(1), second, first])[0][0].prediction == 0.75


def test_an_outcome_whose_acceptance_was_shed_is_counted_and_no_row():
    rows, orphans = merge([accept(1), outcome(1), outcome(2), shadow(2), shadow(3)])
    assert ([row.request_id for row in rows], orphans) == (["request-1"], 2)


def test_records_of_one_challenge_may_lie_in_several_segments():
    log = Log.of([segment(outcome(1)), segment(accept(2), accept(1)), segment(outcome(2))])
    assert [(row.request_id, row.outcome) for row in log.rows] == [("request-1", "answered"), ("request-2", "answered")]
    assert (log.orphans, log.torn_lines) == (0, 0)


def test_a_segment_cut_off_anywhere_loses_the_line_that_was_cut_and_no_other():
    whole = segment(accept(1), outcome(1), accept(2))
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        records, torn = parse(whole[:length])
        complete = sum(end <= length for end in ends)
        begun = complete < 3 and length > (ends[complete - 1] + 1 if complete else 0)
        assert (len(records), torn) == (complete, int(begun)), length


def test_what_follows_a_torn_line_is_read():
    log = Log.of([b'{"kind":"accept","requ\n' + segment(accept(1)) + b"\x00\x00\xff\n[]\n\n" + segment(outcome(1))])
    assert (len(log.rows), log.torn_lines) == (1, 3)


def test_a_field_that_a_newer_miner_adds_is_left_unread():
    line = accept(1).model_dump_json()
    newer = json.dumps(json.loads(line) | {"weather": "rain"}).encode()
    assert parse(newer) == ([accept(1)], 0)


@pytest.mark.parametrize(
    "change", [{"prediction": "NaN"}, {"prediction": None}, {"finished_at": "2026-11-23T18:00:00"}, {"kind": "other"}]
)
def test_a_line_with_an_unusable_value_is_no_record(change: dict[str, object]):
    line = json.dumps(json.loads(outcome(1).model_dump_json()) | change).replace('"NaN"', "NaN")
    assert parse(line.encode()) == ([], 1)


def test_the_segments_of_a_folder_are_found_however_deep(tmp_path: Path):
    for name in ("b/records.jsonl", "a/20261123/x.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(segment(accept(len(name)), outcome(len(name))))
    (tmp_path / "b" / "picture.jpg").write_bytes(b"")
    log = read_log(segment_files(tmp_path))
    assert [row.outcome for row in log.rows] == ["answered", "answered"]


def test_a_folder_that_is_none_gets_a_sentence(tmp_path: Path):
    with pytest.raises(DataError, match="is no folder, expected one with segments"):
        segment_files(tmp_path / "missing")


def test_a_segment_that_cannot_be_read_gets_a_sentence(tmp_path: Path):
    with pytest.raises(DataError, match=r"segment `.*gone.jsonl` cannot be read: No such file"):
        read_log([tmp_path / "gone.jsonl"])
