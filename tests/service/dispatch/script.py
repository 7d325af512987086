"""Prompts that say what the scripted provider answers, and the provider itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.service.harness import LIMIT, Harness
from turnkeeper_service.providers.scripted import ScriptedProvider


def reply(text: str = "done", **fields: Any) -> str:
    """A prompt that is answered with this text; ``gate="g"`` waits at a gate first, ``fail=...`` fails."""
    return json.dumps({"text": text, **fields})


def provider(server: Harness) -> ScriptedProvider:
    """The provider that the server's runs are answered by."""
    providers = server.server._providers
    assert providers is not None
    scripted, _ = providers.resolve("scripted/echo")
    assert isinstance(scripted, ScriptedProvider)
    return scripted


async def at_gate(server: Harness, name: str, times: int = 1) -> None:
    """Wait until so many requests in all have come to a gate."""
    async with asyncio.timeout(LIMIT):
        await server.gates.reached(name, times)
