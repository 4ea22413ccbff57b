import pytest
from pydantic import ValidationError

from streetvision.training.settings import TrainingSettings


def test_the_default_needs_no_network() -> None:
    assert TrainingSettings().preset == "efficientnet-lite0"
    assert TrainingSettings().views == 4


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rates"):
        TrainingSettings(learning_rates=0.1)


@pytest.mark.parametrize("wrong", [{"views": 0}, {"epochs": 0}, {"seed": -1}, {"learning_rate": 0}])
def test_a_value_out_of_range_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings(**wrong)
