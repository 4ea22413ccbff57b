import json

import pytest

from streetvision.subnet.regimes import REGIMES
from streetvision.subnet.sentinel import FACTS, compare
from streetvision.subnet.upstream import same
from tests.unit.subnet.imitation import (
    CHECKOUTS,
    FORWARD,
    NEURON,
    OPTIONS,
    PROTOCOL,
    R1,
    REWARD,
    SETTINGS,
    TRACKER,
    TRANSFORMS,
    VALIDATOR,
    WEIGHTS,
    edited,
    write,
)

DISTORTIONS = "distortions by level, weakest and strongest"


def differing(root, regime="R1"):
    """Fact -> finding of all that are not the same."""
    return {one.fact: one for one in compare(root, REGIMES[regime]) if one.status != "same"}


def changed(tmp_path, *edits):
    return differing(write(tmp_path, edited(R1, *edits)))


@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_s_own_source_is_the_same(regime, tmp_path):
    findings = compare(write(tmp_path, CHECKOUTS[regime]), REGIMES[regime])
    assert [str(one) for one in findings if one.status != "same"] == []
    assert len(findings) == sum(fact.applies(REGIMES[regime]) for fact in FACTS) > 30


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("source", REGIMES)
def test_every_other_regime_s_source_is_different(regime, source, tmp_path):
    found = differing(write(tmp_path, CHECKOUTS[source]), regime)
    assert any(one.status == "different" for one in found.values()) == (regime != source)


def test_facts_have_names_of_their_own():
    assert len({fact.name for fact in FACTS}) == len(FACTS)


@pytest.mark.parametrize(
    ("file", "old", "new", "fact", "found"),
    [
        (SETTINGS, "EXPONENT = 3.0", "EXPONENT = 2.5", "reward, exponent", 2.5),
        (REWARD, "                reward = reward ** REWARD_CURVE_EXPONENT\n", "", "reward, exponent", 1.0),
        (REWARD, "reward = reward **", "reward = reward**2 *", "reward, weight of the MCC", (3**0.5) / 2),
        (REWARD, "0.5 * long", "0.4 * long", "reward, weight of the MCC", 0.4),
        (REWARD, "0.5 * short", "0.6 * short", "reward, weight of the accuracy", 0.6),
        (REWARD, "window=100", "window=50", "reward, window of the MCC", 50),
        (REWARD, "window=10)", "window=20)", "reward, window of the accuracy", 20),
        (
            REWARD,
            "*= compute_penalty(answer)",
            "*= compute_penalty(answer) * speed(uid)",
            "reward, other terms",
            ["speed(uid)"],
        ),
        (REWARD, "reward *= comp", "reward += age\n                reward *= comp", "reward, other terms", ["age"]),
        (REWARD, "earned.append(", "earned.append(rank[uid] * ", "reward, other terms", ["rank[uid]"]),
        (
            REWARD,
            "        earned.append(",
            "        if slow[uid]:\n            earned.append(0.0)\n            continue\n        earned.append(",
            "reward, other terms",
            ["slow[uid]"],
        ),
        (
            REWARD,
            "    return np.array(earned)",
            "    earned = [one / top for one in earned]\n    return np.array(earned)",
            "reward, other terms",
            None,
        ),
        (REWARD, "= reward ** REWARD_CURVE_EXPONENT", "= min(reward ** 3, 0.9)", "reward, formula", None),
        (REWARD, "0.5 * long", "-0.5 * long", "reward, formula", None),
        (REWARD, "<= 1.0 or", "<= 1.5 or", "reward, penalty by prediction", None),
        (REWARD, "answer == -1", "answer == -2", "reward, no-answer marker", -2),
        (REWARD, "trackers):", "trackers, invalid_uids=()):", "reward needs a registered model", True),
        (TRACKER, "int = 100", "int = 250", "history, answers", 250),
        (TRACKER, "answer != -1", "answer != -3", "history, no-answer marker", -3),
        (
            TRACKER,
            "        self.answers[uid].append",
            "        if answer == -1:\n            return\n        self.answers[uid].append",
            "history, every answer is remembered",
            False,
        ),
        (
            TRACKER,
            "if self.miner_hotkeys.get(uid) != hotkey:",
            "if uid not in self.answers:",
            "history, begins anew with another hotkey",
            False,
        ),
        (
            TRACKER,
            "if self.miner_hotkeys.get(uid) != hotkey:",
            "if self.miner_hotkeys.get(uid) == hotkey:",
            "history, begins anew with another hotkey",
            False,
        ),
        (
            TRACKER,
            "if self.miner_hotkeys.get(uid) != hotkey:",
            "if uid in self.miner_hotkeys and self.miner_hotkeys[uid] != hotkey:",
            "history, begins anew with another hotkey",
            False,
        ),
        (TRACKER, "np.round(", "np.floor(", "history, classes", ["np.floor(...)"]),
        (TRACKER, "accuracy_score(", "balanced_accuracy_score(", "history, accuracy", ["balanced_accuracy_score(...)"]),
        (TRACKER, "max(0, matthews", "max(-1, matthews", "history, MCC", None),
        (OPTIONS, "default=0.05", "default=0.1", "score, share of the newest reward", 0.1),
        (VALIDATOR, "(1 - alpha)", "(0.9 - alpha)", "score, share of the score before", 0.85),
        (VALIDATOR, "newest[uids] = rewards", "newest[uids] = rewards * rewards", "score, formula", None),
        (VALIDATOR, "newest[uids] = rewards", "newest[uids] = rewards * self.trust", "score, formula", None),
        (
            FORWARD,
            "    self.update_scores",
            "    rewards = rewards * speed\n    self.update_scores",
            "score, made of",
            ["get_rewards", "rewards * speed"],
        ),
        (VALIDATOR, "raw = self.scores / norm", "raw = softmax(self.scores)", "weights, raw", "softmax(self.scores)"),
        (VALIDATOR, "ord=1", "ord=2", "weights, raw", "self.scores / 2-norm of self.scores"),
        (WEIGHTS, "65535", "255", "weights, largest", 255),
        (OPTIONS, "default=40096", "default=4096", "stake limit", 4096),
        (OPTIONS, "default=100", "default=360", "epoch, blocks", 360),
        (
            OPTIONS,
            'sample_size", type=int, default=10',
            'sample_size", type=int, default=50',
            "miners asked at once",
            50,
        ),
        (FORWARD, "self.uid_deck.next_k(", "get_random_uids(", "miners are dealt from a deck", False),
        (FORWARD, "timeout=9", "timeout=3.5", "timeout, s", 3.5),
        (FORWARD, "timeout=9", "timeout=self.config.neuron.timeout", "timeout, s", 10),
        (VALIDATOR, "time.sleep(60)", "time.sleep(30)", "pause between steps, s", 30),
        (SETTINGS, '1: "works"', '1: "works", 2: "signs"', "shares of the labels", {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}),
        (FORWARD, "keys()))", "keys()), p=[0.8, 0.2])", "shares of the labels", {0: 0.8, 1: 0.2}),
        (NEURON, "0.5", "0.8", "shares of the sources", {"real": 0.2, "t2i": 0.4, "i2i": 0.4}),
        (FORWARD, "< 0.5 else", "< 0.2 else", "shares of the sources", {"real": 0.5, "t2i": 0.4, "i2i": 0.1}),
        (FORWARD, "apply_augmentation_by_level(", "keep(", "pictures are augmented", False),
        (SETTINGS, "SIDE: int = 224", "SIDE: int = 384", "wire size, px", (384, 384)),
        (TRANSFORMS, "2: 0.25, 3: 0.25", "2: 0.4, 3: 0.1", "shares of the levels", {0: 0.25, 1: 0.25, 2: 0.4, 3: 0.1}),
        (
            FORWARD,
            "TARGET_IMAGE_SIZE, None)",
            "TARGET_IMAGE_SIZE, None, {0: 1.0})",
            "shares of the levels",
            {0: 1.0},
        ),
        (TRANSFORMS, "center_crop(), Resize", "ResizeWithPadding", "geometry by level", None),
        (TRANSFORMS, "Rotation(20, fill", "Rotation(45, fill", "angle by level, degrees", {1: 45, 2: 45, 3: 45}),
        (
            TRANSFORMS,
            "scale=(0.2",
            "scale=(0.08",
            "crop by level, share of the area",
            dict.fromkeys((1, 2, 3), (0.08, 1.0)),
        ),
        (
            TRANSFORMS,
            "ratio=(1.0",
            "ratio=(0.75",
            "crop by level, width to height",
            dict.fromkeys((1, 2, 3), (0.75, 1.0)),
        ),
        (TRANSFORMS, '"GB", level_min=0, level_max=2', '"GB", level_min=1, level_max=5', DISTORTIONS, None),
        (TRANSFORMS, '"GB", level_min', '"BW", level_min', DISTORTIONS, None),
        (TRANSFORMS, "[7, 9,", "[7, 11,", "distortions, parameters", None),
        (PROTOCOL, "return ImageSynapse(", "return PngSynapse(", "message, class", "PngSynapse"),
        (PROTOCOL, "default=-1.0", "default=0.5", "message, fields", None),
        (
            PROTOCOL,
            "testnet_label: int = -1\n",
            "testnet_label: int = -1\n    task: int = 0\n",
            "message, fields",
            None,
        ),
        (PROTOCOL, 'format="JPEG"', 'format="JPEG", quality=95', "message, picture", {"format": "JPEG", "quality": 95}),
    ],
)
def test_a_changed_rule_is_named_with_its_place(file, old, new, fact, found, tmp_path):
    different = changed(tmp_path, (file, old, new))
    finding = different[fact]
    assert finding.status == "different"
    assert finding.line > 0
    assert finding.file in R1
    if found is not None:
        assert same(finding.found, found)
    assert str(finding).startswith(f"{finding.file}:{finding.line}: {finding.fact}: found ")


def test_a_conditional_bonus_is_seen(tmp_path):
    bonus = "            if rank[uid] < 5:\n                reward = reward * 1.1\n            kept"
    different = changed(tmp_path, (REWARD, '            kept["image"] = reward', f'{bonus}["image"] = reward'))
    assert different["reward, other terms"].found == ["rank[uid]"]
    assert different["reward, exponent"].status == "not read"


def test_a_reward_in_other_words_is_the_same(tmp_path):
    other = """
from natix.validator.config import REWARD_CURVE_EXPONENT as POWER

HALF = 1 / 2
SILENT = -1.0


def compute_penalty(answer):
    return 0.0 if answer < 0 or answer > 1 else 1.0


def get_rewards(label, responses, uids, axons, trackers):
    rewards = []
    for uid, answer in zip(uids, responses):
        mcc = trackers["image"].get_metrics(uid, 100)["mcc"]
        accuracy = trackers["image"].get_metrics(uid, 10)["accuracy"]
        if answer != SILENT:
            share = (accuracy + mcc) * HALF * compute_penalty(answer)
            rewards.append(pow(share, POWER))
        else:
            rewards.append(0.0)
    return np.asarray(rewards, dtype=np.float64)
"""
    assert differing(write(tmp_path, {**R1, REWARD: other})) == {}


def test_a_halted_forward_is_named_first(tmp_path):
    first = next(iter(differing(write(tmp_path, CHECKOUTS["R4"]), "R3").values()))
    assert str(first).endswith(": validators are halted: found yes, expected no")
    assert first.file == FORWARD


@pytest.mark.parametrize(
    "halt", ["return", "raise RuntimeError", "if True:\n        return", "if not 0:\n        return"]
)
def test_a_forward_is_halted_however_it_returns_at_once(halt, tmp_path):
    different = changed(tmp_path, (FORWARD, "    label, pool", f"    {halt}\n    label, pool"))
    assert different["validators are halted"].found is True


def test_a_return_on_a_condition_halts_nothing(tmp_path):
    edit = (FORWARD, "    label, pool", "    if self.paused:\n        return\n    label, pool")
    assert changed(tmp_path, edit) == {}


@pytest.mark.parametrize("file", R1)
def test_a_missing_file_is_never_a_pass(file, tmp_path):
    files = {name: content for name, content in R1.items() if name != file}
    different = differing(write(tmp_path, files))
    assert different
    assert any("no file" in one.reason for one in different.values())
    assert {one.status for one in different.values()} == {"not read"}


@pytest.mark.parametrize("file", R1)
def test_a_file_that_is_no_python_is_never_a_pass(file, tmp_path):
    different = differing(write(tmp_path, {**R1, file: "def broken(:\n"}))
    assert {one.status for one in different.values()} == {"not read"}
    assert {one.reason for one in different.values()} >= {f"{file} is no Python: line 1, invalid syntax"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("x = " + "(" * 5000, "is no Python: line 1"),
        ("x = " + "-" * 100_000 + "1", "is no Python"),
        ("\0", "is no Python"),
        ("", "no function `get_rewards`"),
        ("x = 1\n" * 800_000, "has more than 4,194,304 bytes"),
    ],
    ids=["brackets", "depth", "null", "empty", "size"],
)
def test_an_unusable_file_is_never_a_pass(content, reason, tmp_path):
    different = differing(write(tmp_path, {**R1, REWARD: content}))
    assert {one.status for one in different.values()} == {"not read"}
    assert reason in different["reward, exponent"].reason


def test_bytes_that_are_no_text_are_never_a_pass(tmp_path):
    write(tmp_path, R1)
    (tmp_path / REWARD).write_bytes(b"x = '\xff\xfe'")
    assert "is no Python" in differing(tmp_path)["reward, exponent"].reason


@pytest.mark.parametrize(
    ("file", "old", "new", "fact", "reason"),
    [
        (REWARD, "def get_rewards(", "def rewards_of(", "reward, exponent", "no function `get_rewards`"),
        (REWARD, "import REWARD_CURVE_EXPONENT", "import OTHER", "reward, exponent", "does not say what"),
        (SETTINGS, "REWARD_CURVE_EXPONENT = 3.0", "", "reward, exponent", "does not say what `REWARD_CURVE_EXPONENT`"),
        (SETTINGS, "EXPONENT = 3.0", "EXPONENT = 3.0\nREWARD_CURVE_EXPONENT = 2.0", "reward, exponent", "assigns"),
        (REWARD, "window=100", "window=size", "reward, window of the MCC", "does not say what `size` is"),
        (OPTIONS, '"--neuron.sample_size"', '"--size"', "miners asked at once", "no option `--neuron.sample_size`"),
        (FORWARD, "timeout=9", "wait=9", "timeout, s", "is given no `timeout`"),
        (VALIDATOR, "self.step += 1", "self.steps += 1", "pause between steps, s", "no loop in"),
        (NEURON, "self._fake_prob = ", "self.share = ", "shares of the sources", "assigns `self._fake_prob` 0 times"),
        (TRACKER, "mcc = max(", "mcc, _ = max(", "history, MCC", "calls nothing to make `mcc`"),
        (
            REWARD,
            "    earned, details",
            "    match label:\n        case _:\n            pass\n    earned, details",
            "reward, exponent",
            "`match` on line",
        ),
    ],
)
def test_what_is_not_found_is_never_a_pass(file, old, new, fact, reason, tmp_path):
    finding = changed(tmp_path, (file, old, new))[fact]
    assert finding.status == "not read"
    assert reason in finding.reason
    assert str(finding).startswith(f"{fact}: ")


def test_a_rule_that_stands_in_two_files_is_never_a_pass(tmp_path):
    copied = {**R1, "natix/validator/scoring/reward.py": R1[REWARD]}
    finding = differing(write(tmp_path, copied))["reward, exponent"]
    assert finding.reason.startswith("function `get_rewards` stands in natix/validator/reward.py:")
    assert "natix/validator/scoring/reward.py:" in finding.reason


def test_nothing_of_the_source_is_run(tmp_path):
    trap = "\nimport pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
    write(tmp_path, {name: content + trap for name, content in R1.items()})
    assert differing(tmp_path) == {}
    assert list(tmp_path.rglob("ran")) == []


def lines_of(files):
    return [(name, index) for name, content in files.items() for index in range(len(content.splitlines()))]


def check_without_lines(root, left_out):
    """A source without one of its lines is the same or different or not read, and never a traceback."""
    for name, index in left_out:
        lines = R1[name].splitlines()
        write(root, {**R1, name: "\n".join([*lines[:index], *lines[index + 1 :]])})
        for one in compare(root, REGIMES["R1"]):
            assert one.status in ("same", "different", "not read")
            assert json.loads(json.dumps(one.as_json(), allow_nan=False))["fact"] == one.fact
            assert str(one)


def test_a_source_without_a_line_is_no_traceback(tmp_path):
    check_without_lines(tmp_path, lines_of(R1)[3::30])


@pytest.mark.slow  # some 200 checkouts
def test_a_source_without_any_of_its_lines_is_no_traceback(tmp_path):
    check_without_lines(tmp_path, lines_of(R1))


@pytest.mark.parametrize(
    ("file", "old", "new", "fact"),
    [
        (VALIDATOR, "time.sleep(60)", "time.sleep()", "pause between steps, s"),
        (FORWARD, "list(CHALLENGE_TYPE.keys())", "5", "shares of the labels"),
        (FORWARD, "list(CHALLENGE_TYPE.keys())", "[0, 1], p=[1.0]", "shares of the labels"),
        (TRANSFORMS, "[0.4, 0.3, 0.2]", "0.4", "distortions, parameters"),
        (TRANSFORMS, "level == 0", "level == 9", "geometry by level"),
        (NEURON, "0.5", "'half'", "shares of the sources"),
    ],
)
def test_a_source_of_another_layout_is_never_a_pass(file, old, new, fact, tmp_path):
    assert fact in changed(tmp_path, (file, old, new))
