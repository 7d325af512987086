"""A server whose sessions get titles, from a small model that follows a script."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.service.dispatch.watch import Watch, watching
from tests.service.harness import Harness, serving
from turnkeeper.v1 import event_pb2, session_service_pb2

SMALL = "scripted/file:title.json"
GATED = {"text": "A good title", "gate": "title", "usage": {"input_tokens": 30, "output_tokens": 4}}
"""A title that waits for its gate."""


@asynccontextmanager
async def titled(
    tmp_path: Path,
    small: Mapping[str, Any],
    *,
    session: Mapping[str, Any] | None = None,
    is_new: bool = True,
    **options: Any,
) -> AsyncIterator[tuple[Harness, Watch]]:
    """A server whose small model gives this reply, with the session ``s`` and a subscriber of it.

    An option that is None stays unset.
    """
    (tmp_path / "title.json").write_text(json.dumps({"replies": [small]}))
    settings = {
        "defaults__generate_titles": "true",
        "defaults__small_model": SMALL,
        "providers__scripted__format": "scripted",
        "providers__scripted__script_root": str(tmp_path),
        **options,
    }
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    async with serving(tmp_path, **given) as server:
        if is_new:
            await server.session("s", **(session or {}))
        async with watching(server, "s") as watch:
            yield server, watch


async def seen(server: Harness, session_id: str = "s") -> session_service_pb2.Session:
    """A session as GetSession shows it."""
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    response: session_service_pb2.GetSessionResponse = await server.sessions.GetSession(request)
    return response.session


def is_update(event: event_pb2.Event) -> bool:
    """Whether an event tells of a title."""
    return event.HasField("session_updated")


async def told(watch: Watch) -> str:
    """The title of the first event that tells of one, read or to come."""
    return (await watch.until(is_update)).session_updated.title


async def rename(server: Harness, title: str, session_id: str = "s") -> None:
    """Set a session's title."""
    request = session_service_pb2.UpdateSessionRequest(session_id=session_id)
    request.settings.title = title
    request.update_mask.paths.append("title")
    await server.sessions.UpdateSession(request)


def calls_of(session: session_service_pb2.Session) -> dict[str, int]:
    """How many calls of which model a session has paid."""
    return {entry.model: entry.usage.num_calls for entry in session.usage.models}
