"""Where this machine keeps what, and what is up."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from serving.local import processes
from streetvision import atomic
from streetvision.errors import BusyError, SettingsError

MODULES = {"predictor": "serving.predictor", "miner": "serving.miner", "mlflow": "mlflow"}


@dataclass(frozen=True)
class State:
    """Where this machine keeps what, all below one folder."""

    root: Path

    @property
    def file(self) -> Path:
        """What is up, for people and scripts."""
        return self.root / "state.json"

    @property
    def summary(self) -> Path:
        """What the last main job came to."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """The last evaluation, for a browser."""
        return self.root / "report.html"

    @property
    def simulation(self) -> Path:
        """What the last simulated validator saw, for a browser."""
        return self.root / "simulation.html"

    @property
    def predictions(self) -> Path:
        """The served model's answers to the challenge set, which a simulation is compared with."""
        return self.root / "predictions.parquet"

    @property
    def wallets(self) -> Path:
        """Hotkeys of our own; the person's wallets are never read."""
        return self.root / "wallets"

    def metagraph(self, *, stay: bool) -> Path:
        """Who is registered on the mock network of `make up` (`stay`) or of a run."""
        return self.root / ("metagraph.json" if stay else "metagraph-run.json")

    def miner(self, *, stay: bool) -> Path:
        """What the miner of `make up` (`stay`) or of a run keeps: its nonces and its prediction log."""
        return self.root / ("miner" if stay else "miner-run")

    @property
    def tracking_uri(self) -> str:
        """MLflow's database."""
        return f"sqlite:///{self.root}/mlflow.db"

    def log(self, name: str) -> Path:
        """A server's log."""
        return self.root / "logs" / f"{name}.log"

    @contextmanager
    def locked(self) -> Generator[None]:
        """Holds the folder for one command at a time.

        Raises:
            BusyError: another command holds it.
        """
        lock = FileLock(self.root / "lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as err:
            raise BusyError(
                f"another `make run`, `make up` or `make down` is at work in `{self.root}`", hint="wait for it to end"
            ) from err
        except OSError as err:
            raise atomic.storage_error(self.root, err) from err
        try:
            yield
        finally:
            lock.release()

    def read_summary(self) -> dict[str, Any]:
        """What the last main job came to.

        Raises:
            SettingsError: the file is damaged.
        """
        try:
            summary: dict[str, Any] = json.loads(self.summary.read_text())
            _ = summary["served"]["path"], summary["challenge_set"]
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise SettingsError(f"`{self.summary}` is damaged: {err}", hint="run `make run` again") from err
        return summary

    def servers(self) -> list["Server"]:
        """What `state.json` says is up, and whether it really is.

        Raises:
            SettingsError: the file is damaged.
        """
        try:
            content = json.loads(self.file.read_text())
            pids = {name: int(content[name]["pid"]) for name in MODULES}
            shown = [content[name]["url"] for name in MODULES] + [content["model_dir"], content["images"]]
            shown += [content["miner"][key] for key in ("hotkey", "metrics_url")]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as err:
            raise SettingsError(f"`{self.file}` is damaged: {err}", hint="run `make down`, then `make up`") from err
        return [Server(name, pids[name], processes.runs(pids[name], module)) for name, module in MODULES.items()]


@dataclass(frozen=True)
class Server:
    """One process of `make up`."""

    name: str
    pid: int
    running: bool
