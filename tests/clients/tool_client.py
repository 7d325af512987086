"""A client that serves the tool `confirm` to the session `s` over Converse; it is run with the server's address.

It says yes to every call but one that asks it to wait, and prints what it does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc.aio

from turnkeeper.v1 import run_service_pb2, run_service_pb2_grpc, tool_service_pb2


async def main(address: str) -> None:
    """Serve until the stream ends."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
        call = stub.Converse()
        await call.write(request(open=run_service_pb2.OpenFrame(session_id="s", client_name="desk")))
        offered = tool_service_pb2.OfferTools(tools=[tool_service_pb2.Tool(name="confirm", is_parallel=True)])
        # Whoever kills it shall not have to wait for it.
        offered.reconnect_grace.seconds = 0
        await call.write(request(offer_tools=offered))
        async for response in call:
            for item in response.items:
                if item.receipt.HasField("tools"):
                    say("serving")
                elif item.HasField("tool_invocation"):
                    await answer(call, item.tool_invocation)


async def answer(call: Any, invocation: tool_service_pb2.ToolInvocation) -> None:
    """Answer a call, or say that it waits."""
    if json.loads(invocation.tool_call.arguments_json or "{}").get("wait"):
        say("waiting")
        return
    given = tool_service_pb2.ToolInvocationResult(lease_id=invocation.lease_id)
    given.result.content.add().text.text = "yes"
    await call.write(request(tool_result=given))


def say(word: str) -> None:
    """Tell whoever runs this."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def request(**frame: Any) -> run_service_pb2.ConverseRequest:
    """One frame."""
    return run_service_pb2.ConverseRequest(**frame)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
