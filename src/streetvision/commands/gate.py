"""`streetvision gate`: whether a challenger takes the champion's place."""

import argparse
from pathlib import Path

from streetvision.commands.arguments import Commands, add_command


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    gate = add_command(commands, "gate", _gate, "whether a challenger takes the champion's place")
    gate.add_argument("--challenger", type=Path, required=True, help="its prediction table")
    gate.add_argument("--champion", type=Path, help="its prediction table; without one the floor decides")
    gate.add_argument("--challenger-model", type=Path, help="its model directory, for the check of its files")


def _gate(arguments: argparse.Namespace) -> int:
    from streetvision.predictions import read_predictions
    from streetvision.registry.decision import Policy
    from streetvision.registry.gate import decide
    from streetvision.registry.modelcard import check_consistency

    champion = read_predictions(arguments.champion) if arguments.champion else None
    consistency = check_consistency(arguments.challenger_model) if arguments.challenger_model else None
    policy = Policy(seed=arguments.seed)
    decision = decide(champion, read_predictions(arguments.challenger), policy, consistency=consistency)
    if arguments.json:
        print(decision.model_dump_json())
    else:
        print(decision.verdict)
        for check in decision.checks:
            print(f"{check.status:<12} {check.sentence}")
    return decision.exit_code
