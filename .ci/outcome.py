"""Whether the last run of the main job came to the verdict that it must come to: `python .ci/outcome.py promote`."""

import json
import sys
from pathlib import Path


def main(verdict: str) -> None:
    """Raises AssertionError where the summary says anything else."""
    summary = json.loads(Path(".streetvision/summary.json").read_text())
    seen = summary["simulation"]
    assert summary["verdict"] == verdict, summary["verdict"]
    assert seen["answered"] == seen["sent"], seen
    assert not seen["errors"], seen
    assert abs(seen["reward_observed"] - seen["reward_predicted"]) < 1e-9, seen
    assert seen["forecast"]["score_inside"], seen
    assert seen["forecast"]["mean_reward_inside"], seen
    assert summary["champion"]["sha256"] == summary["served"]["sha256"]
    page = Path(summary["report"]).read_bytes()
    assert len(page) < 4_000_000
    assert b"<html" in page
    print(f"verdict {verdict}, {seen['answered']} of {seen['sent']} answered, {summary['seconds']:.0f} s")  # noqa: T201 - for the log of CI


if __name__ == "__main__":
    main(sys.argv[1])
