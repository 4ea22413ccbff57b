"""`streetvision subnet replay`: what recorded answers earned."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from streetvision.commands.arguments import Commands, add_command
from streetvision.commands.files import input_name, open_input
from streetvision.errors import SettingsError

if TYPE_CHECKING:
    from streetvision.subnet.replay import Event, Replay

_BROKEN_PIPE = 141  # as of a program that SIGPIPE ended
_FORMAT = """
EVENTS has one JSON object a line, oldest first: {"prediction": P, "label": 0 or 1, "hotkey": "..."}.
P is a number or a text such as "NaN" or "-1"; -1 is no answer. Another hotkey begins with an empty history.

With --json every event gives one line as soon as it is read: reward, mcc (of the last 100 answers), accuracy
(of the last 10), penalty and score (moving average of the rewards, from 0).
Without it a summary is printed and a plot is written, for events.jsonl to events.replay.png beside it.
"""


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    replay = add_command(commands, "replay", _replay, "what recorded answers earned, as a validator counts")
    replay.formatter_class = argparse.RawDescriptionHelpFormatter
    replay.description = f"{replay.description}\n{_FORMAT}"
    replay.add_argument("events", type=Path, metavar="EVENTS", help="a file, or - for standard input")
    replay.add_argument("--regime", default="R1", help="the subnet's rules, R0 (of a registered model) to R3")
    replay.add_argument("--plot", type=Path, metavar="FILE.png", help="default without --json: beside EVENTS")


def _replay(arguments: argparse.Namespace) -> int:
    from streetvision.subnet.regimes import active
    from streetvision.subnet.replay import Replay

    replay = Replay(exponent=active(arguments.regime).reward_exponent)
    plot = _plot_path(arguments)
    try:
        if arguments.json:
            for event in _events(arguments.events):
                print(json.dumps(asdict(replay.add(event)), allow_nan=False), flush=True)
        else:
            _follow(arguments.events, replay)
            _print_summary(replay)
        if plot:
            _write_plot(plot, replay, regime=arguments.regime)
            if not arguments.json:
                print(f"plot               {plot}", flush=True)
    except BrokenPipeError:  # `| head` has seen enough: what is left to say goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return 0


def _events(path: Path) -> "Iterator[Event]":
    from streetvision.subnet.replay import read_events

    with open_input(path) as file:
        yield from read_events(file, input_name(path))


def _plot_path(arguments: argparse.Namespace) -> Path | None:
    events: Path = arguments.events
    plot: Path | None = arguments.plot
    if plot is None:
        if arguments.json:
            return None
        return events.with_suffix(".replay.png") if events.is_file() else Path("replay.png")
    if plot.suffix.lower() != ".png":
        raise SettingsError(f"the plot's file is `{plot}`, expected a name that ends in `.png`")
    if plot.exists() and events.exists() and plot.samefile(events):
        raise SettingsError(f"the plot's file is `{plot}`, which holds the events", hint="choose another name")
    return plot


def _follow(path: Path, replay: "Replay") -> None:
    from streetvision.progress import Progress

    total = 0
    if path.is_file():  # of a pipe nobody knows
        with open_input(path) as file:
            total = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    with Progress("replayed", total=total, unit="event") as progress:
        for event in _events(path):
            replay.add(event)
            progress.advance(1)


def _print_summary(replay: "Replay") -> None:
    summary = replay.summary()
    after = summary.mean_reward_after_burn_in
    print(
        f"events             {summary.events:,}, {summary.answered:,} of them answered\n"
        f"mean reward        {summary.mean_reward:.4f}\n"
        f"  after burn-in    {'-, needs more than 100 events' if after is None else format(after, '.4f')}\n"
        f"final score        {summary.score:.4f}\n"
        f"MCC                {summary.mcc:.4f}, of the last 100 answers\n"
        f"accuracy           {summary.accuracy:.4f}, of the last 10 answers\n"
        f"hotkey changes     {summary.hotkey_changes:,}\n"
        f"poisoned events    {summary.poisoned:,}, by {summary.poisonous:,} answers of neither class",
        flush=True,
    )


def _write_plot(path: Path, replay: "Replay", *, regime: str) -> None:
    from streetvision import atomic
    from streetvision.report.replay import replay_png

    atomic.write_bytes(path, replay_png(replay, network=regime == "R1"))
