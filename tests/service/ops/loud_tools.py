"""Tools that write to standard error in every way that there is, none of them by the log."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import warnings


class Unhappy:
    """It cannot be deleted."""

    def __del__(self) -> None:
        raise ValueError("SAID")


async def shout() -> str:
    """Write to standard error."""
    sys.stderr.write("raw SAID\n")
    sys.stderr.flush()
    os.write(2, b"E0000 00:00:1733048331.123456   12345 chttp2_server.cc:12] native line\n\xff no text\nwithout end")
    os.write(2, b" of line\n")
    warnings.warn("old SAID", stacklevel=1)
    Unhappy()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    asyncio.get_running_loop().call_soon(fail)
    left = asyncio.ensure_future(failing())
    await asyncio.wait({left})
    del left
    await asyncio.to_thread(os.system, "echo child >&2")
    gc.collect()
    return "shouted"


def fail() -> None:
    """Fail."""
    raise ValueError("SAID")


async def failing() -> None:
    """Fail, while nobody looks."""
    fail()
