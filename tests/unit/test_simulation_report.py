import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from streetvision.report.simulation import write_simulation_report
from streetvision.simulation import (
    Latency,
    SimulatedMiner,
    Simulation,
    SimulationResult,
    compare,
    competitors,
    without_pictures,
)
from streetvision.subnet.network import long_run


def played(*accuracies: float, others: int = 0, organic: float = 0.0, regime: str = "R1") -> SimulationResult:
    miners = [
        SimulatedMiner(uid=uid, accuracy=accuracy, latency=Latency(spread=0))
        for uid, accuracy in enumerate(accuracies, 1)
    ]
    simulation = Simulation(
        miners,
        without_pictures(regime, seed=0),
        count=120,
        seed=0,
        competitors=competitors(others, first_uid=len(miners) + 1, seed=0),
        organic_per_step=organic,
    )
    asyncio.run(simulation.run())
    return simulation.result()


def called(result: SimulationResult, url: str = "http://127.0.0.1:8091") -> SimulationResult:
    """The same as if the first miner had an address."""
    first = result.miners[0].model_copy(update={"url": url})
    return result.model_copy(update={"miners": (first, *result.miners[1:]), "challenge_set": "abcdef0123456789"})


def words(path: Path) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", path.read_text(), flags=re.DOTALL).split())


def test_the_page_shows_miners_competitors_and_organic_traffic_and_loads_nothing(tmp_path: Path):
    result, path = called(played(0.9, others=15, organic=0.3)), tmp_path / "r.html"
    write_simulation_report(path, result)
    [miner] = result.miners
    text = words(path)
    for shown in (
        "sent a miner 120 challenges, beside 15 simulated competitors",
        f"{miner.score:.3f}",
        f"{miner.mean_reward:.3f} ",
        f"{miner.mean_reward_after_burn_in:.3f} after the first 100",
        f"above {miner.percentile:.1f} % of the network",
        f"{miner.weight:,}",
        f"{100 * miner.pay_share:.2f} %",
        "http://127.0.0.1:8091",
        f"rank {miner.rank}",
        "15 competitors, best first",
        "Traffic that is not scored",
        "level 3",
        "median miner 0.949",
        "from request to reply",
        "abcdef012345",
    ):
        assert shown in text, shown
    assert "Interrupted" not in text
    page = path.read_text()
    for one in result.competitors:
        assert f">{one.score:.3f}</td>" in page
    assert not re.search(r"@import|url\((?!#)|<script|<link|(src|href)=\"(?!#)", page)  # it needs no network
    assert "#0a0b0" not in page  # figures take their colours from the page
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 1_000_000


@pytest.mark.parametrize(("answers", "verdict"), [("same", "As forecast"), ("others", "Outside the forecast")])
def test_the_forecast_stands_beside_the_run(tmp_path: Path, make_predictions, answers: str, verdict: str):
    result = called(played(1.0))  # one that is right answers the same when a challenge comes again
    by_id = {event.challenge_id: event for event in result.events}
    shown = np.array([by_id[name].prediction for name in by_id])
    predictions = make_predictions(
        n=len(by_id),
        challenge_id=np.array(list(by_id)),
        label=np.array([by_id[name].label for name in by_id], dtype=np.uint8),
        probability=shown if answers == "same" else np.abs(shown.round() - 0.5),
    )
    comparison = compare(result, predictions)
    write_simulation_report(tmp_path / "r.html", result, comparison=comparison)
    text = words(tmp_path / "r.html")
    assert verdict in text
    assert "forecast, 95 of 100 runs" in text
    assert f"forecast {comparison.forecast.score.low:.3f} to {comparison.forecast.score.high:.3f}" in text
    assert ("does not answer as its model did" in text) == (answers == "others")


def test_a_miner_that_only_exists_here_is_shown_beside_its_long_run(tmp_path: Path):
    expected = long_run(0.96, no_answer_rate=0.02)
    write_simulation_report(tmp_path / "r.html", played(0.96), long_run=expected)
    text = words(tmp_path / "r.html")
    assert f"96.0 % right, 2.0 % unanswered: score {expected.score.mean:.3f} in the long run" in text
    assert "Challenges without pictures" in text
    assert "from request to reply" not in text


def test_an_interrupted_run_says_so_even_before_its_first_challenge(tmp_path: Path):
    simulation = Simulation([SimulatedMiner(uid=1, accuracy=1.0)], without_pictures("R1", seed=0), count=9, seed=0)
    write_simulation_report(tmp_path / "r.html", simulation.result())
    assert "Interrupted 9 challenges were wanted." in words(tmp_path / "r.html")


def test_errors_are_listed_by_reason_and_no_text_is_markup(tmp_path: Path):
    result = called(played(0.9, 0.8), url="http://<script>")
    broken = result.miners[1].model_copy(update={"errors": {"HTTP <b>": 3, "timeout": 8}})
    write_simulation_report(tmp_path / "r.html", result.model_copy(update={"miners": (result.miners[0], broken)}))
    text = words(tmp_path / "r.html")
    assert "2 timeout 8 2 HTTP &lt;b&gt; 3" in text
    assert "sent 2 miners 120 challenges each" in text
    assert "<script" not in (tmp_path / "r.html").read_text()


def test_under_other_rules_the_network_is_not_compared_with(tmp_path: Path):
    write_simulation_report(tmp_path / "r.html", played(0.9, regime="R0"))
    assert "December 2025" not in words(tmp_path / "r.html")
    assert "median miner" not in words(tmp_path / "r.html")
