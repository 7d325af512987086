"""Compares tasks, timers, file descriptors and sockets before and after a test.

A test passes only if it gives back what it took. The comparison is with the state at the start of the test, after the
session's and the module's fixtures are up, so what those hold is not counted. It runs after the test's own fixtures
have been torn down, and still inside the test's event loop: what a test leaves to the loop's end is a leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

# Threads of gRPC's core close their sockets after the call that ends them has returned. What is clean is seen as clean
# at once; only a leak costs this long.
SETTLE_SECONDS = 2.0
LOOP_TURNS = 20
# Opened once per process, on first use, and kept.
KEPT = ("/dev/urandom", "/dev/null", "/proc/", "/sys/")


@dataclass(frozen=True)
class Snapshot:
    """What is open at one instant."""

    tasks: frozenset[asyncio.Task[Any]] = frozenset()
    timers: frozenset[asyncio.Handle] = frozenset()
    descriptors: dict[int, str] = field(default_factory=dict)

    @classmethod
    def take(cls, loop: asyncio.AbstractEventLoop | None) -> Snapshot:
        """Look at the process and, if there is one, at the test's loop."""
        if loop is None:
            return cls(descriptors=_descriptors())
        tasks = frozenset(task for task in asyncio.all_tasks(loop) if not task.done())
        timers = frozenset(handle for handle in _scheduled(loop) if not handle.cancelled())
        return cls(tasks=tasks, timers=timers, descriptors=_descriptors())

    def leaked_since(self, before: Snapshot) -> list[str]:
        """Say what is open now and was not then."""
        lines = [f"task {task.get_name()}: {_where(task)}" for task in self.tasks - before.tasks]
        lines += [f"timer: {handle!r}" for handle in self.timers - before.timers]
        lines += _new_descriptors(before.descriptors, self.descriptors)
        return sorted(lines)


@pytest.fixture(scope="session", autouse=True)
def opened_once() -> None:
    """Open, before the first test, what libraries open once per process and keep: libuv's pipe for signals."""
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def no_leaks(opened_once: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves something open."""
    runner = _runner(request)
    watch = _TimerWatch(runner.get_loop()) if runner is not None else None
    before = _observe(runner)
    yield
    marker = request.node.get_closest_marker("leaks")
    leaked = _settle(runner, before)
    if watch is not None:
        watch.stop()
    if marker is None and leaked:
        pytest.fail("left open:\n  " + "\n  ".join(leaked), pytrace=False)


def _runner(request: pytest.FixtureRequest) -> asyncio.Runner | None:
    """The runner that pytest-asyncio drives this test with, if it is an asynchronous one."""
    marker = request.node.get_closest_marker("asyncio")
    function = getattr(request.node, "obj", None)
    function = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    if marker is None or not inspect.iscoroutinefunction(function):
        return None
    scope = marker.kwargs.get("loop_scope") or request.config.getini("asyncio_default_test_loop_scope") or "function"
    runner: asyncio.Runner = request.getfixturevalue(f"_{scope}_scoped_runner")
    return runner


def _observe(runner: asyncio.Runner | None) -> Snapshot:
    return Snapshot.take(None) if runner is None else runner.run(_snapshot_inside())


async def _snapshot_inside() -> Snapshot:
    here = asyncio.current_task()
    seen = Snapshot.take(asyncio.get_running_loop())
    return Snapshot(frozenset(task for task in seen.tasks if task is not here), seen.timers, seen.descriptors)


def _settle(runner: asyncio.Runner | None, before: Snapshot) -> list[str]:
    """Let what is ending end: turns of the loop and collections first, other threads' closings after that."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        if runner is not None:
            runner.run(_turns())
        leaked = _observe(runner).leaked_since(before)
        if leaked:
            gc.collect()
            if runner is not None:
                # Generators that were collected are closed by tasks of their own.
                runner.run(_turns())
            leaked = _observe(runner).leaked_since(before)
        is_waiting_for_threads = any(line.startswith("descriptor") for line in leaked)
        if not is_waiting_for_threads or time.monotonic() > deadline:
            return leaked
        os.sched_yield()


async def _turns() -> None:
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)


def _scheduled(loop: asyncio.AbstractEventLoop) -> list[asyncio.Handle]:
    """Timers of asyncio's own loop, or those that the watch saw being set on another (uvloop shows none)."""
    watch: _TimerWatch | None = loop.__dict__.get("_timer_watch")
    if watch is not None:
        return watch.open()
    return list(getattr(loop, "_scheduled", ()))


class _TimerWatch:
    """Notes the timers of a loop that does not list them; asyncio's loops list theirs and are left alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: set[asyncio.TimerHandle] = set()
        self._is_active = not hasattr(loop, "_scheduled")
        if self._is_active:
            loop.__dict__["_timer_watch"] = self
            for name in ("call_later", "call_at"):
                loop.__dict__[name] = self._noting(getattr(loop, name))

    def open(self) -> list[asyncio.Handle]:
        """Timers that have neither fired nor been cancelled."""
        return [handle for handle in self._open if not handle.cancelled()]

    def stop(self) -> None:
        """Give the loop its own methods back."""
        if self._is_active:
            for name in ("_timer_watch", "call_later", "call_at"):
                self._loop.__dict__.pop(name, None)

    def _noting(self, schedule: Callable[..., asyncio.TimerHandle]) -> Callable[..., asyncio.TimerHandle]:
        def call(when: float, callback: Callable[..., object], *args: object, **kwargs: Any) -> asyncio.TimerHandle:
            def fire() -> None:
                self._open.discard(handle)
                callback(*args)

            handle = schedule(when, fire, **kwargs)
            self._open.add(handle)
            return handle

        return call


def _where(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    name = getattr(task.get_coro(), "__qualname__", repr(task))
    return f"{name} at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else name


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith(KEPT):
                found[int(name)] = target
    return found


def _new_descriptors(before: dict[int, str], after: dict[int, str]) -> list[str]:
    """Sockets, pipes and files are named by what they are; anonymous inodes (polls, events) can only be counted."""
    old = Counter(before.values())
    lines: list[str] = []
    for number, target in sorted(after.items()):
        if old[target] > 0:
            old[target] -= 1
        else:
            lines.append(f"descriptor {number}: {_describe(number, target)}")
    return lines


def _describe(number: int, target: str) -> str:
    if not target.startswith("socket:"):
        return target
    try:
        with socket.socket(fileno=os.dup(number)) as sock:
            kind = "listening" if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else "open"
            peer = ""
            with contextlib.suppress(OSError):
                peer = f" to {sock.getpeername()}"
            return f"{kind} {sock.family.name} socket {sock.getsockname()}{peer}"
    except OSError:
        return target
