"""A scheduler in plain Python, which the compiled one is measured against.

It does accept, dispatch, conclude, finish, cancel, limits and tenants in turn, with dicts, on one thread; nothing else.
"""

from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field


class Refused(Exception):
    """A call that the state does not allow."""


@dataclass(slots=True)
class Run:
    """One accepted run."""

    tenant: str
    session: str
    run: str
    sequence: int
    place: str = "reserved"
    cancelled: bool = False


@dataclass(slots=True)
class Session:
    """Runs in accept order, and the one that has the floor or waits for it."""

    line: dict[str, Run] = field(default_factory=dict)
    open: Run | None = None


# What is covered and where it was, what had concluded, what starts.
Cancelled = tuple[list[tuple[str, str]], list[str], list[Run]]


class PythonScheduler:
    """One object, one thread."""

    def __init__(self, line: int = 10_000, open_runs: int = 100_000, running: int = 256, per_tenant: int = 64) -> None:
        self._limits = (line, open_runs, running, per_tenant)
        self._sessions: dict[tuple[str, str], Session] = {}
        self._running: defaultdict[str, int] = defaultdict(int)
        self._total = self._runs = self._last = 0
        self._waiting: OrderedDict[str, deque[Run]] = OrderedDict()

    def accept(self, tenant: str, session: str, run: str) -> tuple[int, int]:
        """Stamp a reservation; the stamp, and how many runs are ahead."""
        entry = self._sessions.get((tenant, session)) or Session()
        if run in entry.line or (entry.open and entry.open.run == run):
            raise Refused
        if len(entry.line) >= self._limits[0] or self._runs >= self._limits[1]:
            raise Refused
        self._last, self._runs = self._last + 1, self._runs + 1
        ahead = sum(not run.cancelled for run in entry.line.values()) + bool(entry.open and not entry.open.cancelled)
        entry.line[run] = Run(tenant, session, run, self._last)
        self._sessions[tenant, session] = entry
        return self._last, ahead

    def dispatch(self, tenant: str, session: str, run: str) -> tuple[str, list[Run]]:
        """Release a reservation."""
        entry, found = self._find(tenant, session, run, "reserved")
        if found.cancelled:
            self._take(entry, found)
            return "cancelled", []
        found.place = "queued"
        starts = self._advance(entry)
        return "started" if found.place == "running" else found.place, starts

    def conclude(self, tenant: str, session: str, run: str) -> str:
        """Fix the outcome."""
        found = self._find(tenant, session, run, "running")[1]
        found.place = "concluded"
        return "cancelled" if found.cancelled else "concluded"

    def finish(self, tenant: str, session: str, run: str) -> list[Run]:
        """Hand floor and permit on: first to those who wait, then to the session's own next."""
        entry, found = self._find(tenant, session, run, "concluded")
        self._total -= 1
        self._running[tenant] -= 1
        if tenant in self._waiting and self._running[tenant] == self._limits[3] - 1:
            self._waiting.move_to_end(tenant)
        starts = []
        if (name := next(filter(self._may_run, self._waiting), None)) is not None:
            queue = self._waiting.pop(name)
            starts.append(self._run(queue.popleft()))
            self._waiting.update({name: queue} if queue else {})
        entry.open = None
        starts += self._advance(entry)
        self._leave(entry, found)
        return starts

    def cancel(self, tenant: str, session: str, run: str | None = None) -> Cancelled:
        """Cover one run, or all of the session."""
        entry = self._sessions.get((tenant, session), Session())
        runs = [found for found in (entry.open, *entry.line.values()) if found and run in (None, found.run)]
        runs.sort(key=lambda found: found.sequence)
        covered = [(found.run, found.place) for found in runs if found.place != "concluded"]
        for found in runs:
            found.cancelled |= found.place != "concluded"
            if found.place in ("queued", "waiting"):
                self._take(entry, found)
        return covered, [found.run for found in runs if found.place == "concluded"], self._advance(entry)

    def counts(self) -> tuple[int, int, int]:
        """Sessions, runs, running turns."""
        return len(self._sessions), self._runs, self._total

    def _find(self, tenant: str, session: str, run: str, *places: str) -> tuple[Session, Run]:
        entry = self._sessions.get((tenant, session), Session())
        found = entry.line.get(run) or entry.open
        if found is None or found.run != run or found.place not in places:
            raise Refused
        return entry, found

    def _take(self, entry: Session, found: Run) -> None:
        if found is not entry.open:
            del entry.line[found.run]
        else:
            entry.open = None
            self._waiting[found.tenant].remove(found)
            if not self._waiting[found.tenant]:
                del self._waiting[found.tenant]
        self._leave(entry, found)

    def _leave(self, entry: Session, found: Run) -> None:
        self._runs -= 1
        if entry.open is None and not entry.line:
            del self._sessions[found.tenant, found.session]

    def _advance(self, entry: Session) -> list[Run]:
        head = next((run for run in entry.line.values() if not run.cancelled), None)
        if entry.open is not None or head is None or head.place != "queued":
            return []
        entry.open = entry.line.pop(head.run)
        if self._may_run(head.tenant):
            return [self._run(head)]
        head.place = "waiting"
        self._waiting.setdefault(head.tenant, deque()).append(head)
        return []

    def _may_run(self, tenant: str) -> bool:
        return self._total < self._limits[2] and self._running[tenant] < self._limits[3]

    def _run(self, run: Run) -> Run:
        self._total, run.place = self._total + 1, "running"
        self._running[run.tenant] += 1
        return run
