"""The validator's side in a pod: signed challenges at an even pace, and one JSON line for each answer.

It runs in the miner's image, which has the subnet's wire format in it. Challenges go out when they are due, whatever
became of those before; each validator session asks one thing at a time, so there are as many as can be in flight.
"""

import argparse
import asyncio
import itertools
import json
import time
from pathlib import Path

from serving.miner.probe import plain_picture
from streetvision.subnet.dendrite import Dendrite
from streetvision.subnet.wallet import load_keypair

# Plain colours: each model of the drills answers with another number, so that an answer tells whose it is.
COLOURS = ((40, 120, 200), (200, 40, 120), (120, 200, 40), (90, 30, 60))
DEADLINE_S = 9.0  # where a validator hangs up


async def drive(arguments: argparse.Namespace) -> None:
    """Sends until the file `--stop` is there, and waits for the answers that are due."""
    keypair = load_keypair(arguments.wallets, arguments.wallet, arguments.hotkey)
    pictures = [plain_picture(colour) for colour in COLOURS]
    free: asyncio.Queue[Dendrite] = asyncio.Queue()
    in_flight = int(arguments.per_second * (DEADLINE_S + 1)) + 1
    for _ in range(in_flight):
        free.put_nowait(Dendrite(keypair, route=arguments.route, timeout_s=DEADLINE_S))

    async def ask(session: Dendrite, number: int) -> None:
        colour = number % len(COLOURS)
        sent_s = time.time()
        answer = await session.ask(arguments.url, arguments.miner, pictures[colour])
        free.put_nowait(session)
        seen = {
            "number": number,
            "sent_s": sent_s,
            "colour": COLOURS[colour],
            "prediction": answer.prediction,
            "error": answer.error,
            "latency_ms": answer.latency_ms,
        }
        print(json.dumps(seen), flush=True)  # noqa: T201 - its log is what the test reads

    begun_s = time.monotonic()
    async with asyncio.TaskGroup() as asked:
        for number in itertools.count():
            due_s = begun_s + number / arguments.per_second
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if arguments.stop.exists() or time.monotonic() - begun_s > arguments.longest_s:
                break
            asked.create_task(ask(await free.get(), number))


def main() -> None:
    """Drives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="of the miner")
    parser.add_argument("--miner", required=True, help="ss58 address of its hotkey")
    parser.add_argument("--wallets", type=Path, required=True)
    parser.add_argument("--wallet", required=True)
    parser.add_argument("--hotkey", required=True)
    parser.add_argument("--route", default="/ExtendedImageSynapse")
    parser.add_argument("--per-second", type=float, default=5.0)
    parser.add_argument("--longest-s", type=float, default=1800.0)
    parser.add_argument("--stop", type=Path, default=Path("/tmp/stop"))
    asyncio.run(drive(parser.parse_args()))


if __name__ == "__main__":
    main()
