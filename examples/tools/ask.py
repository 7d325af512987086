"""A turn that calls the tools of `library.py`, with a scripted model: it needs no key.

In one terminal, from the root of the repository:

    PYTHONPATH=examples/tools turnkeeper serve --config examples/tools/turnkeeper.toml

in another: `python examples/tools/ask.py`.
"""

import asyncio
import json

from turnkeeper import Client, Event, SessionSettings
from turnkeeper.v1.content_pb2 import ToolResult

# What a model would do by itself: three calls, then an answer.
CALLS = [
    {"name": "find_book", "arguments": {"title": "Momo"}, "id": "1"},
    {"name": "due_date", "arguments": {"borrowed": "2026-03-01", "weeks": 12}, "id": "2"},
    {"name": "due_date", "arguments": {"borrowed": "2026-03-01"}, "id": "3"},
    {"name": "order_book", "arguments": {"title": "Emma"}, "id": "4"},
]
SCRIPT = {"replies": [{"tool_calls": CALLS}, {"text": "Momo is on shelf E-12; bring it back by 22 March."}]}


async def main() -> None:
    async with Client() as client:
        session = await client.create_session(settings=SessionSettings(model="scripted/echo"))
        async with client.converse(session.session_id) as conversation:
            await conversation.submit(json.dumps(SCRIPT))
            async for item in conversation.items():
                if not isinstance(item, Event):
                    continue
                if item.HasField("approval_requested"):
                    asked = item.approval_requested
                    print(f"may it {asked.tool_call.name}? not today")
                    await conversation.answer_approval(asked.approval_id, allow=False, comment="the budget is spent")
                elif item.HasField("tool_call_finished"):
                    show(item.tool_call_finished.result)
                elif item.HasField("tool_call_skipped"):
                    show(item.tool_call_skipped.result)
                elif item.HasField("run_finished"):
                    print(item.run_finished.outcome.text)
                    break


def show(result: ToolResult) -> None:
    said = "".join(part.text.text for part in result.content)
    print(f"{result.name}: {'error: ' if result.is_error else ''}{said}")


asyncio.run(main())
