from pathlib import Path

import pytest

from serving.predictor.settings import Settings
from streetvision.errors import SettingsError


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--http_port", "0"], "option --http_port: "),
        (["--workers", "2"], "option --workers: "),
        (["--engine", "magic"], "option --engine: "),
        (["--decode-limit-px", "40000001"], "option --decode_limit_px: "),
        (["--threads", "0"], "option --threads: "),
        (["--precision", "fp8"], "option --precision: "),
        (["--decode-limit-s", "0"], "option --decode_limit_s: "),
        (["--predictor_host", "elsewhere"], "option --predictor_host has no effect on this predictor"),
    ],
)
def test_option_out_of_range_is_one_sentence(arguments: list[str], part: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_arguments(arguments)
    assert raised.value.message.startswith(part)
    assert "\n" not in raised.value.message


def test_defaults_are_what_a_cluster_expects() -> None:
    settings = Settings.from_arguments([])
    assert (settings.model_dir, settings.model_name) == (Path("/mnt/models"), "roadwork")
    assert (settings.http_port, settings.grpc_port, settings.enable_grpc) == (8080, 8081, True)
    assert settings.host is None


def test_the_former_name_of_an_option_is_still_taken() -> None:
    assert Settings.from_arguments(["--request-workers", "3"]).decode_workers == 3
