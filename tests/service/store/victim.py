"""A process that writes until it is killed: whole sessions, some at once, each number printed when acknowledged."""

from __future__ import annotations

import asyncio
import sys

from turnkeeper_service.store.conformance.rows import event, message, new_session, partial, run
from turnkeeper_service.store.sqlite import SqliteStore

WRITERS = 8
EVENTS = 5


async def main(directory: str) -> None:
    store = SqliteStore(directory)
    boot = await store.open()
    numbers = iter(range(boot.last_sequence + 1, 1 << 40))

    async def write() -> None:
        for number in numbers:
            name = f"s{number}"
            commit = new_session(name, run(f"r{number}", number, name))
            commit.events = [event(seq, f"r{number}", b"x" * 700) for seq in range(1, EVENTS + 1)]
            commit.messages = [message(1, run_id=f"r{number}")]
            commit.partials = [partial(0, b"x" * 5_000, run_id=f"r{number}")]
            await store.commit(commit)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()

    await asyncio.gather(*(write() for _ in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
