"""A worker: it serves a tool to all sessions of its tenant, from a process of its own, wherever that runs.

With `turnkeeper serve` running: `python examples/tools/worker.py`. Any session may call `weather` from then on; try it
in `turnkeeper chat` with a real model, or with the scripted one, which calls what it is told:

    {"replies": [{"tool_calls": [{"name": "weather", "arguments": {"city": "Florence"}}]}, {"text": "Take a hat."}]}
"""

import asyncio
import contextlib
from typing import Annotated

from turnkeeper import Client, FunctionTool, ToolError

DEGREES = {"Florence": 40, "Oslo": 12}


async def weather(city: Annotated[str, "Its English name."]) -> dict[str, object]:
    """Say how warm it is in a city."""
    if city not in DEGREES:
        # The model reads this, and may try another name.
        raise ToolError(f"no station in {city!r}; there are {', '.join(DEGREES)}")
    return {"city": city, "celsius": DEGREES[city]}


async def main() -> None:
    # Asking twice does no harm, so a call that was lost with its worker may go to another one.
    tools = [FunctionTool(weather, is_replay_safe=True, is_parallel=True)]
    async with Client() as client, client.serve_tools("weather-station", tools) as worker:
        print(f"serving {', '.join(worker.tool_names)} at {client.address}", flush=True)
        await worker.wait()


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
