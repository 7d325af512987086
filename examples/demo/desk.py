"""The desk of a library: what is asked there, the tools, and the librarian, who allows orders or does not.

One tool is the caller's own and runs in its process; two are the server's. To order takes somebody's leave, which the
librarian gives: another client, in another process than the caller.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from turnkeeper import Client, Event, TurnkeeperError

from .record import Answered
from .talk import BACKOFF

SESSION = "desk"
PROMPT = "You help the readers of a library. Look things up with the tools that you have, and order what is missing."
BOOKS = "Do I have Momo or Emma at home? Find Momo here, and order Emma."
DUNE = "Please order Dune as well."
BUDGET = "the budget of this month is spent"

MODEL = "desk/file:desk.json"
"""What stands in for a model: it calls these tools, one step after another, whatever is asked."""
REPLIES = [
    {
        "text": "I look at your shelf and at ours.",
        "pace_ms": 40,
        "tool_calls": [
            {"name": "is_at_home", "arguments": {"title": "Momo"}},
            {"name": "is_at_home", "arguments": {"title": "Emma"}},
            {"name": "find_book", "arguments": {"title": "Momo"}},
        ],
    },
    {"tool_calls": [{"name": "order_book", "arguments": {"title": "Emma"}}]},
    {"text": "You have neither of them at home. Momo stands on shelf E-12, and Emma is ordered.", "pace_ms": 40},
    {"tool_calls": [{"name": "order_book", "arguments": {"title": "Dune"}}]},
    {"text": "Dune has to wait: the librarian says that the budget of this month is spent.", "pace_ms": 40},
]


async def is_at_home(title: str) -> str:
    """Say whether the reader has a book at home."""
    return f"{title} is not at home"


def config(folder: Path) -> str:
    """The server's part of it."""
    (folder / "desk.json").write_text(json.dumps({"replies": REPLIES}))
    functions = json.dumps([f"examples.tools.library:{name}" for name in ("find_book", "order")])
    provider = f'[providers.desk]\nformat = "scripted"\nscript_root = {json.dumps(str(folder))}\n'
    return f"{provider}\n[tools]\nfunctions = {functions}\n"


class Librarian:
    """Watches the desk over a connection of its own, and answers what is asked there."""

    def __init__(self, address: str, tell: Callable[[str, str, str], None]) -> None:
        self.answered: list[Answered] = []
        self.is_back = asyncio.Event()
        """The server was killed and has come back: what the run `dune` asks is answered only then."""
        self._address = address
        self._tell = tell

    async def work(self) -> None:
        """Answer until cancelled."""
        async with Client(self._address, backoff=BACKOFF) as client, client.watch(SESSION, 0, deltas=False) as items:
            async for item in items:
                if isinstance(item, Event) and item.HasField("approval_requested"):
                    await self._answer(client, item)

    async def _answer(self, client: Client, event: Event) -> None:
        asked = event.approval_requested
        is_allowed = event.run_id != "dune"
        if not is_allowed:
            await self.is_back.wait()
        waiting = {found.approval_id: found.tool_call async for found in client.list_approvals(SESSION)}
        for call in waiting.values():
            self._tell(event.run_id, "sees", f"{call.name} {call.arguments_json}, in ListApprovals")
        comment = "" if is_allowed else BUDGET
        self._tell(event.run_id, "says", "yes" if is_allowed else f"no, {BUDGET}")
        await client.answer_approval(SESSION, asked.approval_id, allow=is_allowed, comment=comment)
        try:
            await client.answer_approval(SESSION, asked.approval_id, allow=not is_allowed)
            second = ""
        except TurnkeeperError as error:
            second = error.reason
            self._tell(event.run_id, "refused", f"a second answer, {'no' if is_allowed else 'yes'}: {second}")
        self.answered.append(Answered(asked.approval_id, is_allowed, asked.approval_id in waiting, second))
