"""An imitation of Kubeflow's API to speak with, and the commands as a person calls them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pipelines.__main__ import main
from tests.pipelines.kfp_api import KfpApi, serve

# what a cluster's run must be told
GIVEN = ("tracking_uri=http://mlflow:5000", "models_uri=s3://bucket/models", "submitted_by=5F")


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch):
    """Settings of the shell that the tests run in stay out of them."""
    for name in ("CODE_VERSION", "GIT_SHA", "IMAGE_PREFIX", "IMAGE_TAG"):
        monkeypatch.delenv(f"STREETVISION_{name}", raising=False)
    for name in ("HOST", "NAMESPACE", "TOKEN_FILE", "CA_FILE", "EXPERIMENT", "OWNER", "PARAMETERS", "TIMEOUT_S"):
        monkeypatch.delenv(f"STREETVISION_KFP_{name}", raising=False)


@pytest.fixture
def api() -> Iterator[KfpApi]:
    with serve() as served:
        yield served


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """`python -m pipelines` with these words; what it said comes back too."""

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as err:  # argparse's own
            code = int(err.code or 0)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call
