import pytest

from streetvision.errors import SettingsError
from streetvision.subnet import distortions
from streetvision.subnet.regimes import DISTORTIONS, LEVELS, REGIMES, STRONGEST, active, by_name


def test_the_regimes_follow_each_other():
    assert list(REGIMES) == ["R0", "R1", "R2", "R3", "R4"]
    days = [regime.since for regime in REGIMES.values() if regime.since is not None]
    assert days == sorted(days)
    assert len(days) == 4


def test_source_shares_sum_to_one_unless_halted():
    for regime in REGIMES.values():
        assert sum(regime.source_shares.values()) == pytest.approx(0.0 if regime.halted else 1.0)


def test_half_of_the_challenges_are_synthetic_in_r1_and_a_third_in_r3():
    assert REGIMES["R1"].fake_share == 0.5
    assert REGIMES["R3"].fake_share == pytest.approx(1 / 3)


def test_only_the_first_regime_has_another_route():
    assert [regime.route for regime in REGIMES.values()] == ["/ExtendedImageSynapse"] + ["/ImageSynapse"] * 4


def test_pictures_keep_their_size_only_without_augmentation():
    for regime in REGIMES.values():
        assert (regime.wire_size_px is None) == (not regime.augmented)


def test_a_halted_regime_is_not_active():
    with pytest.raises(SettingsError, match="`R4` is halted"):
        active("R4")


@pytest.mark.parametrize("lookup", [by_name, active])
def test_an_unknown_regime_is_refused_by_name(lookup):
    with pytest.raises(SettingsError, match="regime is `R9`, expected one of R0, R1, R2, R3, R4"):
        lookup("R9")


def test_every_level_draws_distortions_that_have_parameters():
    assert tuple(STRONGEST) == LEVELS
    for strongest in STRONGEST.values():
        assert all(most <= len(DISTORTIONS[code]) for code, most in strongest.items())


def test_distortions_are_made_with_the_parameters_of_the_rules():
    made = {
        "CS": distortions.CHROMA_SCALE,
        "CC": distortions.BRIGHTNESS_SCALE,
        "JPEG": distortions.COARSENESS,
        "GNC": distortions.NOISE_VARIANCE,
        "GB": distortions.BLUR_KERNEL_PX,
    }
    assert made == {
        "CS": (1.0, 0.4, 0.3),
        "CC": (1.0, 0.85, 0.725),
        "JPEG": (1, 2, 3),
        "GNC": (0.0, 0.001, 0.002),
        "GB": (1, 7, 9),
    }


def test_only_the_first_regime_s_message_names_a_model():
    assert [list(regime.message) for regime in REGIMES.values()] == [
        ["testnet_label", "image", "prediction", "model_url"]
    ] + [["testnet_label", "image", "prediction"]] * 4
