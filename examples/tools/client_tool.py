"""A tool of the client itself: what only this program knows, offered to one session over its conversation.

With `turnkeeper serve` running: `python examples/tools/client_tool.py`. The scripted model needs no key; a real one is
asked in plain words.
"""

import asyncio
import json

from turnkeeper import Client, Event, SessionSettings

# What a model would do by itself: a call, then an answer.
CALL = {"name": "read_cart", "arguments": {"limit": 2}, "id": "1"}
SCRIPT = {"replies": [{"tool_calls": [CALL]}, {"text": "You are about to buy a lamp and two chairs."}]}


async def read_cart(limit: int = 10) -> list[str]:
    """List what is in the user's cart."""
    return ["a lamp", "two chairs", "a rug"][:limit]


async def main() -> None:
    settings = SessionSettings(model="scripted/echo")
    async with Client() as client, client.converse("shop", create_with=settings) as conversation:
        await conversation.offer_tools(read_cart)
        await conversation.submit(json.dumps(SCRIPT))
        conversation.finish()
        async for item in conversation.items():
            if isinstance(item, Event) and item.HasField("tool_call_finished"):
                result = item.tool_call_finished.result
                print(f"{result.name}: {result.content[0].text.text}")
            elif isinstance(item, Event) and item.HasField("run_finished"):
                print(item.run_finished.outcome.text)


asyncio.run(main())
