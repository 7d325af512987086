"""Runs the server with a profiler at hand: ``python -m bench.profiled FILE serve …``.

From SIGUSR1 on the main thread is profiled; at the end what it did is written to the file.
"""

from __future__ import annotations

import cProfile
import signal
import sys

from turnkeeper_service.__main__ import main


def run() -> None:
    """Run the command line behind the file's name."""
    file = sys.argv.pop(1)
    profile = cProfile.Profile()
    signal.signal(signal.SIGUSR1, lambda *_: profile.enable())
    try:
        main()
    finally:
        profile.disable()
        profile.dump_stats(file)


if __name__ == "__main__":
    run()
