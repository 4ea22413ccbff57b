import logging

import pytest

from streetvision.progress import Progress


def test_without_a_terminal_the_rate_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("features", total=3, unit="view") as progress:
        progress.advance(3)
    assert "features: 3 of 3 views" in caplog.text


@pytest.mark.parametrize(("total", "enabled"), [(0, True), (3, False)])
def test_nothing_is_said_when_there_is_nothing_to_say(
    caplog: pytest.LogCaptureFixture, total: int, enabled: bool
) -> None:
    with caplog.at_level(logging.INFO), Progress("features", total=total, enabled=enabled, unit="view"):
        pass
    assert caplog.text == ""
