"""`python prove.py URL ...`: the server answers by each of its names, refuses strangers, and keeps what it is given."""

import base64
import http.client
import json
import logging
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

API = "/api/2.0/mlflow/experiments"
EXPERIMENT = "helm-test"

log = logging.getLogger("prove")


class Server:
    """An MLflow server by one of its names.

    Args:
        url: of the server.
        name: of the user; empty where everybody may ask.
        password: of the user.
    """

    def __init__(self, url: str, name: str, password: str) -> None:
        self.url = url
        self._authorization = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode() if name else ""

    def ask(self, path: str, body: Any = None, *, host: str = "", known: bool = True) -> tuple[int, Any]:
        """Status and JSON of an answer; POSTs the body if there is one.

        Args:
            path: below the API's experiments.
            body: for JSON.
            host: name to ask for in place of the one in the URL.
            known: whether to say who asks.
        """
        request = urllib.request.Request(self.url + API + path, data=body and json.dumps(body).encode())  # noqa: S310
        request.add_header("Content-Type", "application/json")
        if host:
            request.add_header("Host", host)
        if known and self._authorization:
            request.add_header("Authorization", self._authorization)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            return refused.code, None

    def wait(self, timeout_s: float) -> None:
        """Returns when somebody answers."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.ask("/search?max_results=1")
            except (OSError, http.client.HTTPException) as err:
                if time.monotonic() > deadline:
                    sys.exit(f"nobody answers at {self.url} within {timeout_s:.0f} s: {err}")
                time.sleep(2)
            else:
                return

    def expect(self, what: str, found: object, expected: object) -> None:
        """Ends the program where the server does something else."""
        if found != expected:
            sys.exit(f"{self.url}: {what}: got {found}, expected {expected}")
        log.info("%s: %s", self.url, what)


def main(urls: list[str]) -> None:
    """Asks by every URL; ends with a sentence and exit code 1 at the first wrong answer."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
    name, password = (os.environ.get(f"MLFLOW_TRACKING_{one}", "") for one in ("USERNAME", "PASSWORD"))
    for url in urls:
        server = Server(url, name, password)
        server.wait(120)
        server.expect("answers", server.ask("/search?max_results=1")[0], 200)
        server.expect("refuses another name", server.ask("/search?max_results=1", host="example.com")[0], 403)
        if name:
            server.expect("refuses who has no password", server.ask("/search?max_results=1", known=False)[0], 401)
        _keep(server)


def _keep(server: Server) -> None:
    by_name = f"/get-by-name?experiment_name={EXPERIMENT}"
    if server.ask(by_name)[0] == 404:
        server.expect("takes an experiment", server.ask("/create", {"name": EXPERIMENT})[0], 200)
    experiment = server.ask(by_name)[1]["experiment"]["experiment_id"]
    value = f"{urllib.parse.urlsplit(server.url).hostname} {time.time_ns()}"
    tag = {"experiment_id": experiment, "key": "proven", "value": value}
    server.expect("takes a tag", server.ask("/set-experiment-tag", tag)[0], 200)
    tags = server.ask(f"/get?experiment_id={experiment}")[1]["experiment"]["tags"]
    server.expect("keeps the tag", {tag["key"]: tag["value"] for tag in tags}.get("proven"), value)


if __name__ == "__main__":
    main(sys.argv[1:])
