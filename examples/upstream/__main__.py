"""Runs the upstream alone: ``python -m examples.upstream [--port N] [--script FILE]``.

A script is a JSON list of answers for the first requests, in order; after them the model's name decides. An answer:
``{"stream": PATH, "cut": BYTES, "pace_ms": MS, "ending": "end" | "cut" | "reset" | "hang"}`` plays a file from
``examples/streams``, ``{"recording": PATH, "exchange": N, ...}`` a recorded exchange, and
``{"status": CODE, "body": TEXT, "headers": {...}}`` an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from examples.upstream import RECORDINGS, Answer, Ending, Upstream, load_exchanges, streams_folder


def scripted_answer(item: dict[str, Any]) -> Answer:
    """One answer of a script."""
    cut, pace = int(item.get("cut", 0)), float(item.get("pace_ms", 0)) / 1000
    if "status" in item:
        return Answer.of(
            item.get("body", ""),
            status=item["status"],
            content_type=item.get("content_type", "application/json"),
            headers=item.get("headers", {}),
        )
    if "recording" in item:
        path = Path(os.environ.get(RECORDINGS, "../shared/recordings")) / item["recording"]
        return load_exchanges(path)[int(item.get("exchange", 0))].answer(cut=cut, pace=pace)
    body = (streams_folder() / item["stream"]).read_bytes()
    return Answer.of(body, cut=cut, pace=pace, ending=Ending(item.get("ending", "end")))


async def run(port: int, answers: list[Answer]) -> None:
    """Serve until a signal ends it."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with Upstream(port=port) as upstream:
        upstream.plan(*answers)
        sys.stdout.write(f"upstream {upstream.base_url}\n")
        sys.stdout.flush()
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", type=Path)
    options = parser.parse_args()
    answers = [scripted_answer(item) for item in json.loads(options.script.read_text())] if options.script else []
    try:
        import uvloop
    except ImportError:
        asyncio.run(run(options.port, answers))
    else:
        uvloop.run(run(options.port, answers))


if __name__ == "__main__":
    main()
