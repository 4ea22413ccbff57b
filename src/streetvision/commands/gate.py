"""`streetvision gate`: whether a challenger takes the champion's place."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streetvision.commands.arguments import Commands, add_command

if TYPE_CHECKING:
    from streetvision.registry.decision import Decision, StratumChange


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    gate = add_command(commands, "gate", _gate, "whether a challenger takes the champion's place")
    gate.add_argument("--challenger", type=Path, required=True, help="its prediction table")
    gate.add_argument("--champion", type=Path, help="its prediction table; without one the floor decides")
    gate.add_argument("--challenger-model", type=Path, help="its model directory, for the check of its files")
    gate.add_argument("--policy", type=Path, help="YAML file of what the challenger has to show (docs/gate.md)")
    gate.set_defaults(seed=None)  # the policy has one


def _gate(arguments: argparse.Namespace) -> int:
    from streetvision.errors import SettingsError
    from streetvision.predictions import read_predictions
    from streetvision.registry.decision import Policy
    from streetvision.registry.gate import decide
    from streetvision.registry.modelcard import check_consistency
    from streetvision.registry.policy import read_policy

    policy = read_policy(arguments.policy) if arguments.policy else Policy()
    if arguments.seed is not None:
        policy = policy.model_copy(update={"seed": arguments.seed})
    if arguments.challenger_model and not arguments.challenger_model.is_dir():
        raise SettingsError(f"--challenger-model is `{arguments.challenger_model}`, expected a folder with a model")
    champion = read_predictions(arguments.champion) if arguments.champion else None
    consistency = check_consistency(arguments.challenger_model) if arguments.challenger_model else None
    decision = decide(champion, read_predictions(arguments.challenger), policy, consistency=consistency)
    if arguments.json:
        print(decision.model_dump_json())
    else:
        print("\n".join(_lines(decision)))
    return decision.exit_code


def _lines(decision: "Decision") -> Iterator[str]:
    """The decision for a terminal: the verdict and why, every check, what McNemar says, every stratum."""
    yield f"{decision.verdict}: {decision.reasons[0]}"
    yield from (f"  {reason}" for reason in decision.reasons[1:] if decision.verdict != "promote")
    yield ""
    yield from _table(
        ("check", "outcome", "champion", "challenger", ""),
        [
            (check.name, check.status, _figure(check.champion), _figure(check.challenger), check.sentence)
            for check in decision.checks
        ],
        words=2,
    )
    if decision.mcnemar:
        found = decision.mcnemar
        yield ""
        yield (
            f"challenger alone is right on {found.better} challenges, champion alone on {found.worse}: "
            f"McNemar's exact two-sided test gives p = {found.p_value:.2g}"
        )
    if decision.strata:
        yield ""
        yield from _table(
            ("stratum", "challenges", "champion", "challenger", "points", "better", "worse", "p if worse"),
            [_stratum(one) for one in decision.strata],
            words=1,
        )


def _stratum(one: "StratumChange") -> tuple[str, ...]:
    return (
        f"{one.source} level {one.level}",
        str(one.n),
        f"{one.champion:.3f}",
        f"{one.challenger:.3f}",
        f"{100 * (one.better - one.worse) / one.n:+.1f}",
        str(one.better),
        str(one.worse),
        f"{one.p_value:.2g}",
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> Iterator[str]:
    """Lines of a table; the first columns, and a last one without a name, are words, the others figures."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = (
            cell.ljust(width) if column < words or not header[column] else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value > 1 else f"{value:.4f}"
