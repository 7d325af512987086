"""What the kernel counts for a process, thread by thread: CPU by ``schedstat``, switches, writes to the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What a thread, or all of a process, has used since it began."""

    cpu_seconds: float = 0.0
    switches: int = 0
    """Voluntary ones: so often it waited for something."""
    disk_writes: int = 0
    """Calls that write, of threads that write to the disk; the main one, which writes to sockets, is none of them."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, one.name) - getattr(other, one.name) for one in fields(self)))


class Watch:
    """Looks at the threads of a process. What one has used stays counted, as it was seen last, when it ends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._tasks = Path(f"/proc/{pid}/task")
        self._threads: dict[int, Usage] = {}
        self._ended = Usage()

    def threads(self) -> dict[int, Usage]:
        """By thread, of those that live."""
        now = dict(self._read())
        for number in self._threads.keys() - now.keys():
            self._ended += self._threads[number]
        self._threads = now
        return now

    def total(self) -> Usage:
        """Of all threads, those that have ended too."""
        return sum(self.threads().values(), self._ended)

    def _read(self) -> Iterator[tuple[int, Usage]]:
        for task in self._tasks.iterdir():
            try:
                cpu = int((task / "schedstat").read_text().split()[0]) / 1e9
                switches = int(_field(task / "status", "voluntary_ctxt_switches"))
                is_store = int(task.name) != self._pid and int(_field(task / "io", "write_bytes")) > 0
                writes = int(_field(task / "io", "syscw")) if is_store else 0
            except (FileNotFoundError, ProcessLookupError):
                continue  # It has ended meanwhile.
            yield int(task.name), Usage(cpu, switches, writes)


def _field(file: Path, name: str) -> str:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value
    raise RuntimeError(f"no {name} in {file}")
