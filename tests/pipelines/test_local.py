"""What a step would refuse minutes later is refused at once."""

from pathlib import Path

import pytest

from pipelines.__main__ import main


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("preset=unknown", "preset is `unknown`, expected one of `efficientnet-lite0`"),
        ("views=0", "parameter `views` is 0, expected at least 1"),
        ("challenges=-1", "parameter `challenges` is -1, expected at least 101"),
        ("challenges=x", "parameter `challenges` is `x`, expected Integer"),
        ("nothing=1", "pipeline has no parameter `nothing`"),
        ("views", "`--set views` has no `=`"),
        ("source=missing", "missing"),
    ],
)
def test_a_bad_parameter_is_one_sentence(
    setting: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["local", "retrain", "--state", str(tmp_path / "state"), "--set", setting]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
