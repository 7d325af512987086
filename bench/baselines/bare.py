"""A bare server: the service's methods with nothing behind them.

``SubmitRun`` answers with a receipt as long as a real one. ``Converse`` echoes: for every frame one message back; where
the frame is a prompt ``{"tokens": N}`` it writes N deltas, with nothing to make them. ``WatchSession`` writes the given
number of events. The same loop, gRPC and messages as the service.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import uvloop

from bench.baselines.serve import Handlers, serve
from turnkeeper.v1 import event_pb2
from turnkeeper.v1 import run_service_pb2 as pb


async def submit(request: pb.SubmitRunRequest, context: Any) -> pb.SubmitRunResponse:
    """A receipt."""
    response = pb.SubmitRunResponse()
    receipt = response.receipt
    receipt.run_id = request.submission.run_id or "01990000-0000-7000-8000-000000000000"
    receipt.session_id = request.submission.session_id
    receipt.accept_sequence = 1 << 40
    receipt.state = pb.RUN_STATE_RUNNING
    receipt.accepted_seq = 1
    return response


def delta_of(text: str, offset: int) -> pb.ConverseResponse:
    """A delta of one token, as long as a real one."""
    response = pb.ConverseResponse()
    delta = response.items.add().delta
    delta.message_id, delta.turn_id = "msg-0123456789abcdef01", "turn-0123456789abcdef01"
    delta.run_id = "01990000-0000-7000-8000-000000000000"
    delta.attempt, delta.offset, delta.text, delta.seq = 1, offset, text, 5
    return response


async def converse(frames: AsyncIterator[pb.ConverseRequest], context: Any) -> None:
    """Answer each frame."""
    offset = 0
    async for frame in frames:
        text = frame.submit.prompt[0].text.text if frame.submit.prompt else ""
        asked = json.loads(text) if text.startswith("{") else {"tokens": 1, "pace_ms": 0}
        count, pace = asked["tokens"], asked["pace_ms"] / 1000
        for number in range(count):
            text = f"w{number} "
            await context.write(delta_of(text, offset))
            offset += len(text)
            if count > 1:
                # The service's model yields between two tokens; so does this one.
                await asyncio.sleep(pace)


PAGE = 256


async def watch(request: pb.WatchSessionRequest, context: Any) -> None:
    """Write as many events as the session's name says, as many at a time as the service does."""
    event = event_pb2.Event(session_id=request.session_id, run_id="01990000-0000-7000-8000-000000000000", seq=1 << 14)
    event.time.seconds, event.time.nanos = 1_700_000_000, 1_000
    event.run_accepted.accept_sequence = 1 << 40
    event.run_accepted.prompt.add().text.text = "x" * 40
    count = int(request.session_id)
    for written in range(0, count, PAGE):
        items = [pb.StreamItem(event=event)] * min(PAGE, count - written)
        await context.write(pb.WatchSessionResponse(items=items).SerializeToString())


def handlers(submit: Callable[..., Awaitable[pb.SubmitRunResponse]]) -> Handlers:
    """What a bare server serves."""
    return {
        "SubmitRun": grpc.unary_unary_rpc_method_handler(
            submit,
            request_deserializer=pb.SubmitRunRequest.FromString,
            response_serializer=pb.SubmitRunResponse.SerializeToString,
        ),
        "Converse": grpc.stream_stream_rpc_method_handler(
            converse,
            request_deserializer=pb.ConverseRequest.FromString,
            response_serializer=pb.ConverseResponse.SerializeToString,
        ),
        "WatchSession": grpc.unary_stream_rpc_method_handler(
            watch, request_deserializer=pb.WatchSessionRequest.FromString, response_serializer=None
        ),
    }


if __name__ == "__main__":
    uvloop.run(serve(handlers(submit)))
