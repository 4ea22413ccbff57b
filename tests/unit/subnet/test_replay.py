import io
import math
from dataclasses import asdict

import numpy as np
import pytest

from streetvision.errors import DataError
from streetvision.subnet.replay import LINE_MAX_BYTES, Event, Replay, read_events
from streetvision.subnet.reward import Tracker, rewards

RIGHT = [Event(float(i % 2), i % 2, "a") for i in range(120)]


def read(*lines: bytes | str) -> list[Event]:
    data = b"".join(line if isinstance(line, bytes) else f"{line}\n".encode() for line in lines)
    return list(read_events(io.BytesIO(data), "events.jsonl"))


def event(prediction: str = "0.5", label: str = "1", hotkey: str = '"a"') -> str:
    return f'{{"prediction": {prediction}, "label": {label}, "hotkey": {hotkey}}}'


def replayed(events) -> Replay:
    replay = Replay()
    for one in events:
        replay.add(one)
    return replay


@pytest.mark.parametrize(
    ("written", "prediction"),
    [
        ("0.25", 0.25),
        ("1", 1.0),
        ("-1", -1.0),
        ('" -1 "', -1.0),
        ('"0.7"', 0.7),
        ('"Infinity"', math.inf),
        ("-Infinity", -math.inf),
        ("1e400", math.inf),
        ("9" * 5000, math.inf),
    ],
)
def test_predictions_are_numbers_or_texts_that_float_reads(written, prediction):
    assert read(event(prediction=written)) == [Event(prediction, 1, "a")]


@pytest.mark.parametrize("written", ["NaN", '"NaN"', '"nan"'])
def test_a_prediction_can_be_nan(written):
    assert math.isnan(read(event(prediction=written))[0].prediction)


def test_a_label_is_an_integer_however_it_is_written():
    labels = [one.label for one in read(event(label="1.0"), event(label="0"), event(label="-0"), event(label="1e0"))]
    assert labels == [1, 0, 0, 1]
    assert all(isinstance(label, int) for label in labels)


def test_what_else_a_line_says_is_left_alone():
    assert read(event()[:-1] + ', "challenge_id": "set/3", "at": 17}') == read(event())


def test_hotkeys_are_any_text():
    assert [one.hotkey for one in read(event(hotkey='""'), event(hotkey='"\\ud800 \\u0000"'))] == ["", "\ud800 \0"]


def test_blank_lines_are_no_events_but_count_as_lines():
    assert len(read("", event(), "   ", event(), "", "")) == 2
    with pytest.raises(DataError, match="line 4:"):
        read("", event(), "", "nonsense")


def test_the_last_line_needs_no_end():
    assert len(read(event().encode())) == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (event(prediction="true"), "prediction is true, expected a number"),
        (event(prediction='"half"'), 'prediction is "half", expected a number'),
        (event(prediction="null"), "prediction is null, expected a number"),
        (event(prediction="[0.5]"), "prediction is [0.5], expected a number"),
        (event(label="true"), "label is true, expected 0 or 1"),
        (event(label='"1"'), 'label is "1", expected 0 or 1'),
        (event(label="2"), "label is 2.0, expected 0 or 1"),
        (event(label="-1"), "label is -1.0, expected 0 or 1"),
        (event(label="NaN"), "label is NaN, expected 0 or 1"),
        (event(label="null"), "label is null, expected 0 or 1"),
        (event(label="9" * 5000), "label is Infinity, expected 0 or 1"),
        (event(hotkey="5"), "hotkey is 5.0, expected text"),
        (event(hotkey="null"), "hotkey is null, expected text"),
        ('{"prediction": 0.5, "label": 1}', "`hotkey` is missing"),
        ('{"label": 1, "hotkey": "a"}', "`prediction` is missing"),
        (event()[:-1] + ', "label": 0}', 'key "label" stands there twice'),
        ("[]", "got [], expected an object"),
        ("0.5", "got 0.5, expected an object"),
        ("{", "no JSON, Expecting property name enclosed in double quotes"),
        (event() + event(), "no JSON, Extra data"),
        ('{"prediction": ' + "[" * 50_000, "brackets are nested too deep"),
        (b'{"hotkey": "\xc3\x28"}\n', "byte 13 is not UTF-8"),
        (event(hotkey='"' + "a" * LINE_MAX_BYTES + '"'), "more than 65,536 bytes"),
    ],
)
def test_a_bad_line_is_named_with_its_number(line, sentence):
    with pytest.raises(DataError) as caught:
        read(event(), event(), line, event())
    assert str(caught.value).startswith(f"`events.jsonl`, line 3: {sentence}")
    assert '{"prediction": 0.93, "label": 1, "hotkey": "5F..."}' in str(caught.value)


def test_events_before_a_bad_line_are_given():
    events = read_events(io.BytesIO(f"{event()}\nnonsense\n".encode()), "x")
    assert next(events) == Event(0.5, 1, "a")
    with pytest.raises(DataError):
        next(events)


def test_a_line_without_end_is_not_read_to_its_end():
    file = io.BytesIO(b"1" * 10 * LINE_MAX_BYTES)
    with pytest.raises(DataError, match="more than 65,536 bytes"):
        next(read_events(file, "x"))
    assert file.tell() <= LINE_MAX_BYTES + 1


@pytest.mark.parametrize("data", [b"", b"\n \n\n"])
def test_a_file_without_events_is_refused(data):
    with pytest.raises(DataError, match="`x` has no events"):
        list(read_events(io.BytesIO(data), "x"))


def test_a_replay_gives_the_tracker_s_steps(golden_rewards):
    for vector in golden_rewards["vectors"]:
        events = [Event(float(one["prediction"]), one["label"], one["hotkey"]) for one in vector["steps"]]
        tracker, replay = Tracker(), Replay()
        for one, expected in zip(events, vector["expected"], strict=True):
            step = replay.add(one)
            assert asdict(step) == asdict(tracker.update(one.prediction, one.label, one.hotkey))
            assert step.reward == pytest.approx(expected["reward"], abs=1e-11)
        assert replay.rewards[-1] == step.reward
        assert replay.scores[-1] == step.score


def test_a_summary_says_what_the_replay_came_to():
    events = [*RIGHT[:60], Event(-1.0, 1, "a"), *RIGHT[60:], Event(0.9, 0, "a")]
    summary = replayed(events).summary()
    earned = rewards(np.array([one.prediction for one in events]), np.array([one.label for one in events]))
    assert (summary.events, summary.answered, summary.hotkey_changes) == (122, 121, 0)
    assert summary.mean_reward == pytest.approx(earned.mean())
    assert summary.mean_reward_after_burn_in == pytest.approx(earned[100:].mean())
    assert summary.accuracy == 0.9
    assert 0.9 < summary.mcc < 1
    assert 0.9 < summary.score < 1
    assert (summary.poisonous, summary.poisoned) == (0, 0)


@pytest.mark.parametrize(("count", "known"), [(100, False), (101, True)])
def test_the_mean_after_the_burn_in_needs_an_event_after_it(count, known):
    assert (replayed(RIGHT[:count]).summary().mean_reward_after_burn_in is not None) == known


def test_poison_is_counted_until_it_is_forgotten():
    replay = replayed([*RIGHT[:3], Event(math.nan, 1, "a"), Event(1.2, 1, "a"), *RIGHT])
    assert list(replay.poisoned) == [0] * 3 + [1] * 100 + [0] * 22
    assert (replay.summary().poisonous, replay.summary().poisoned) == (1, 100)


def test_a_new_hotkey_ends_the_poison_and_is_counted():
    events = [Event(2.0, 1, "a"), *RIGHT[:2], Event(0.9, 1, "b"), Event(0.1, 0, "a")]
    replay = replayed(events)
    assert list(replay.poisoned) == [1, 1, 1, 0, 0]
    assert replay.changes == [3, 4]
    assert replay.summary().hotkey_changes == 2


def test_nothing_replayed_has_no_summary():
    with pytest.raises(DataError, match="nothing was replayed"):
        Replay().summary()
