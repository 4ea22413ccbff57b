import json
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Keyfile, Keypair

from serving.miner.probe import ProbeError, main, plain_picture, probe
from streetvision.imaging import decode
from tests.serving.miner.predictors import good, scripted

# Fixtures come from the conftest.py beside this file.
ALICE = Keypair.create_from_uri("//Alice")
BOB = Keypair.create_from_uri("//Bob")


@pytest.fixture
def arguments(miner: Any, predictor: Any) -> list[str]:
    return [f"--miner={miner.validator.url}", f"--operator={miner.operator}", f"--predictor={predictor.url}"]


@pytest.fixture
def hotkey(tmp_path: Path) -> str:
    file = tmp_path / "hotkey"
    Keyfile(str(file)).set_keypair(ALICE, encrypt=False, overwrite=False)
    return f"--validator={file}"


def test_a_signed_challenge_is_answered_as_the_predictor_says(
    arguments: list[str], hotkey: str, predictor: Any, capsys: pytest.CaptureFixture[str]
):
    predictor.say(0.31)
    assert main([*arguments, hotkey, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["hotkey"], shown["challenge"], shown["probability"]) == (BOB.ss58_address, "answered", 0.31)
    assert main([*arguments, hotkey]) == 0
    assert (
        f"{BOB.ss58_address} answers a signed challenge with 0.3100, as its predictor does" in capsys.readouterr().out
    )


def test_the_picture_is_one_of_the_subnets_size_in_one_colour():
    decoded = decode(plain_picture((150, 120, 90)))
    assert decoded.shape == (224, 224, 3)
    assert (decoded == (150, 120, 90)).all()


def test_without_a_validator_a_stranger_must_be_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["challenge"] == "refused"


async def test_another_answer_than_the_predictors_is_found(miner: Any, predictor: Any, tmp_path: Path):
    file = tmp_path / "hotkey"
    Keyfile(str(file)).set_keypair(ALICE, encrypt=False, overwrite=False)
    async with scripted(good(0.62)) as other:
        with pytest.raises(ProbeError, match="answers 0.77, expected 0.62, what its predictor"):
            await probe(
                miner=miner.validator.url,
                operator=miner.operator,
                predictor=other.url,
                validator=file,
                timeout_s=10.0,
            )


def test_a_miner_that_is_not_ready_is_named_with_its_reason(
    arguments: list[str], predictor: Any, capsys: pytest.CaptureFixture[str]
):
    predictor.status = 503
    assert main([*arguments, "--timeout-s", "0"]) == 1
    assert "is not ready after 0 s" in capsys.readouterr().err


def test_an_abstention_is_no_answer(
    arguments: list[str], hotkey: str, predictor: Any, capsys: pytest.CaptureFixture[str]
):
    predictor.answer = b"{}"
    assert main([*arguments, hotkey]) == 1
    assert "it abstained" in capsys.readouterr().err


def test_a_validator_without_a_hotkey_file_is_bad_input(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*arguments, f"--validator={tmp_path / 'none'}"]) == 2
    assert "cannot be read" in capsys.readouterr().err
