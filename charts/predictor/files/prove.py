"""Asks each predictor whether it is ready, which model it has, and for one probability."""

import argparse
import io
import json
import sys
import time
import urllib.error
import urllib.request

from PIL import Image

DEADLINE_S = 120.0


def ask(url: str, *, body: bytes | None = None) -> dict:
    """The JSON answer."""
    headers = {"content-type": "image/png"} if body else {}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - the address is the chart's
    with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310
        text = reply.read()
    return json.loads(text) if text else {}


def prove(url: str, model: str, version: str) -> None:
    """Prints what was found.

    Raises:
        SystemExit: it serves another model, or its answer is no probability.
    """
    ask(f"{url}/v2/health/ready")
    versions = ask(f"{url}/v2/models/{model}").get("versions") or []
    if version and versions != [version]:
        sys.exit(f"{url} serves {model} {versions}, expected [{version!r}]")
    buffer = io.BytesIO()
    Image.new("RGB", (224, 224), (120, 110, 100)).save(buffer, "PNG")
    answer = ask(f"{url}/v2/models/{model}/infer", body=buffer.getvalue())
    probability = answer["outputs"][0]["data"][0]
    if not 0.0 <= probability <= 1.0:
        sys.exit(f"{url} answers {probability}, expected a probability in [0, 1]")
    print(f"{url} serves {model} {versions}: a grey picture shows roadwork with probability {probability:.4f}")


def main() -> None:
    """Proves one after the other; each has two minutes, as a rollout may be under way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--version", default="")
    parser.add_argument("url", nargs="+")
    arguments = parser.parse_args()
    for url in arguments.url:
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                prove(url, arguments.model, arguments.version)
                break
            except (OSError, ValueError) as err:
                if time.monotonic() > deadline_s:
                    sys.exit(f"{url} does not answer: {err}")
                time.sleep(2)


if __name__ == "__main__":
    main()
