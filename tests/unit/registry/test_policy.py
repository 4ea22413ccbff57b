import re
from pathlib import Path

import pytest

from streetvision.errors import SettingsError
from streetvision.registry.decision import Policy
from streetvision.registry.policy import read_policy


@pytest.fixture
def policy_file(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return path

    return write


def test_what_the_file_leaves_out_is_as_by_default(policy_file):
    policy = read_policy(policy_file("min_gain: 0.02\nmin_challenges: 8000\nmax_p99_ms: 500\n"))
    assert policy == Policy(min_gain=0.02, min_challenges=8000, max_p99_ms=500.0)


@pytest.mark.parametrize("text", ["", "# min_gain: 0.02\n", "---\n"])
def test_a_file_that_asks_nothing_is_the_default(policy_file, text: str):
    assert read_policy(policy_file(text)) == Policy()


def test_every_field_can_be_written(policy_file):
    lines = (f"{name}: {value}" for name, value in Policy(min_gain=0.5, seed=3).model_dump().items())
    assert read_policy(policy_file("\n".join(lines))) == Policy(min_gain=0.5, seed=3)


def test_the_documented_file_is_the_default_policy(policy_file):
    page = (Path(__file__).parents[3] / "docs" / "gate.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert set(re.findall(r"^\w+", example, flags=re.MULTILINE)) == set(Policy.model_fields)
    assert read_policy(policy_file(example)) == Policy()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("min_gian: 0.02", "there is no field `min_gian`"),
        ("1: 0.02", "there is no field `1`"),
        ("min_gain: much", "`min_gain` is `much`, expected a valid number"),
        ("min_gain: '0.02'", "`min_gain` is `0.02`, expected a valid number"),
        ("min_gain: yes", "`min_gain` is `True`, expected a valid number"),
        ("min_gain:", "`min_gain` is `None`, expected a valid number"),
        ("min_gain: .nan", "`min_gain` is `nan`, expected a finite number"),
        ("min_gain: -0.1", "`min_gain` is `-0.1`, expected greater than or equal to 0"),
        ("min_challenges: 4000.5", "`min_challenges` is `4000.5`, expected a valid integer"),
        ("stratum_loss: 2", "`stratum_loss` is `2`, expected less than or equal to 1"),
        ("min_gain: [0.02]", "`min_gain` is `[0.02]`, expected a valid number"),
        ("min_gain: 0.02\nmin_gain: 0.0", "has `min_gain` 2 times, expected one"),
        ("- min_gain", "is a list, expected fields and values"),
        ("min_gain", "is a str, expected fields and values"),
        ("min_gain: [", "is no YAML: "),
        ("min_gain: !!python/name:os.system", "is no YAML: "),
        ("a: 1\n---\nb: 2", "is no YAML: "),
    ],
)
def test_an_unusable_policy_is_named_with_its_fault(policy_file, text: str, sentence: str):
    path = policy_file(text)
    with pytest.raises(SettingsError) as caught:
        read_policy(path)
    assert sentence in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_policy_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"cannot read policy `.*policy.yaml`: .*No such file"):
        read_policy(tmp_path / "policy.yaml")
    (tmp_path / "policy.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot read policy"):
        read_policy(tmp_path / "policy.yaml")
