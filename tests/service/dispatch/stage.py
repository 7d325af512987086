"""A server with one session, and what a test does to it and sees of it: over the wire, and in the core beside that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.service.dispatch.watch import Watch, watching
from tests.service.harness import Harness, serving
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2
from turnkeeper_service.events.reader import Reader


@asynccontextmanager
async def stage(data_dir: Path, **options: Any) -> AsyncIterator[tuple[Harness, Watch]]:
    """A server with the session ``s``, and a subscriber of it."""
    async with serving(data_dir, **options) as server:
        await server.session("s")
        async with watching(server, "s") as watch:
            yield server, watch


Row = tuple[str, str, str]
"""(run_id, user or assistant or cancelled or failed, text)."""


def row(message: content_pb2.Message) -> Row:
    """A message, as tests compare it."""
    kind = "user" if message.role == content_pb2.ROLE_USER else "assistant"
    if message.status == content_pb2.MESSAGE_STATUS_CANCELLED:
        kind = "cancelled"
    elif message.status == content_pb2.MESSAGE_STATUS_FAILED:
        kind = "failed"
    return message.run_id, kind, "".join(part.text.text for part in message.parts)


async def rows(server: Harness, session_id: str = "s", run_id: str = "") -> list[Row]:
    """The messages of a session, or of one run of it, in order."""
    messages = await server.messages(session_id)
    return [row(message) for message in messages if run_id in ("", message.run_id)]


async def held(server: Harness, run_id: str, session_id: str = "s", text: str = "hello", **fields: Any) -> int:
    """Submit a run that is held as a reservation, before its dispatch; its accept sequence."""
    server.places.hold("dispatch", run_id)
    receipt = await server.submit(session_id, text, run_id=run_id, **fields)
    await server.places.reached("dispatch", run_id)
    return int(receipt.accept_sequence)


def reserved(server: Harness, session_id: str = "s") -> int:
    """How many reservations a session has."""
    counts = server.counts(session_id)
    return counts.reserved if counts is not None else 0


def cancel_mark(server: Harness, session_id: str = "s") -> int | None:
    """How far a cancel reaches that waits for reservations: the highest accept sequence of those that it covers."""
    snapshot = server.snapshot(session_id)
    line = snapshot.line if snapshot is not None else ()
    return max((view.run.sequence for view in line if view.cancel is not None), default=None)


def in_line(server: Harness, session_id: str = "s") -> list[str]:
    """The runs of a session's line, in order."""
    snapshot = server.snapshot(session_id)
    return [view.run.run_id for view in snapshot.line] if snapshot is not None else []


def open_run(server: Harness, session_id: str = "s") -> str:
    """The run that has the floor of a session, "" for none."""
    snapshot = server.snapshot(session_id)
    return str(snapshot.open.run.run_id) if snapshot is not None and snapshot.open is not None else ""


def dispositions(receipt: run_service_pb2.CancelReceipt) -> dict[str, str]:
    """What a cancel says of each run that it reached."""
    name = run_service_pb2.CancelDisposition.Name
    return {run.run_id: name(run.disposition).removeprefix("CANCEL_DISPOSITION_") for run in receipt.runs}


async def clear_queue(server: Harness, session_id: str = "s") -> run_service_pb2.CancelReceipt:
    """Cancel all of a session but its open run."""
    request = run_service_pb2.ClearQueueRequest(session_id=session_id)
    response: run_service_pb2.ClearQueueResponse = await server.runs.ClearQueue(request)
    return response.receipt


async def finish(server: Harness, watch: Watch, run_ids: Iterable[str]) -> list[event_pb2.OutcomeStatus.ValueType]:
    """Release reservations and wait for their terminals."""
    found = []
    for run_id in run_ids:
        server.places.release("dispatch", run_id)
        found.append((await watch.terminal(run_id)).status)
    return found


def lags(server: Harness) -> list[int]:
    """How many durable events each open stream has still to fetch."""
    streams = server.server._streams
    assert streams is not None
    return [tracked.beating.lag for tracked in streams._streams if isinstance(tracked.beating, Reader)]
