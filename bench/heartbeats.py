"""A quiet reader of one session, in a process of its own: ``python -m bench.heartbeats HOST:PORT SESSION``.

It answers each line ``listen SECONDS`` with the times between the heartbeats that came meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc

from turnkeeper.v1 import run_service_pb2 as pb


def main() -> None:
    """Read until standard input ends."""
    with contextlib.suppress(OSError):
        # What else loads this core must not be what is measured.
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    address, session = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        watch: Any = channel.unary_stream("/turnkeeper.v1.RunService/WatchSession")
        stream = watch(pb.WatchSessionRequest(session_id=session).SerializeToString())
        last = _beat(stream, time.perf_counter())[0]
        print("listening", flush=True)
        for line in sys.stdin:
            until = time.perf_counter() + float(line.split()[1])
            gaps = []
            while last < until:
                last, gap = _beat(stream, last)
                gaps.append(gap)
            # The first began before anybody listened.
            print(f"gaps {json.dumps(gaps[1:])}", flush=True)
        stream.cancel()


def _beat(stream: Iterator[bytes], last: float) -> tuple[float, float]:
    """When the next heartbeat came, and how long after the last one."""
    next(stream)
    now = time.perf_counter()
    return now, now - last


if __name__ == "__main__":
    main()
