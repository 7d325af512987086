"""The load: gRPC calls on raw bytes, so that the client costs little, every answer looked at before it counts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from turnkeeper.v1 import event_pb2
from turnkeeper.v1 import run_service_pb2 as pb
from turnkeeper.v1 import session_service_pb2 as sessions_pb

from .processes import Process, address_of
from .slices import Unit

RUNS = "/turnkeeper.v1.RunService/"
SESSIONS = "/turnkeeper.v1.SessionService/"
TOKENS = 64
PROMPT = "Tell me everything, please."
STREAMED = "".join(f"t{number} " for number in range(TOKENS))
"""What `bench.upstream` says."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Client:
    """Calls to one server."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        # No serializers: bytes go in and come out.
        self.submit: Any = channel.unary_unary(f"{RUNS}SubmitRun")
        self.cancel: Any = channel.unary_unary(f"{RUNS}CancelRuns")
        self.run: Any = channel.unary_stream(f"{RUNS}Run")
        self.watch: Any = channel.unary_stream(f"{RUNS}WatchSession")
        self.converse: Any = channel.stream_stream(f"{RUNS}Converse")
        self.create: Any = channel.unary_unary(f"{SESSIONS}CreateSession")

    async def sessions(self, prefix: str, count: int) -> list[str]:
        """Create sessions, 64 at a time."""
        names = [f"{prefix}-{number}" for number in range(count)]
        waiting = deque(names)

        async def work() -> None:
            while waiting:
                request = sessions_pb.CreateSessionRequest(session_id=waiting.popleft())
                await self.create(request.SerializeToString())

        await asyncio.gather(*(work() for _ in range(min(64, count))))
        return names


@asynccontextmanager
async def connect(process: Process) -> AsyncIterator[Client]:
    """A client of a server process."""
    options = [("grpc.max_receive_message_length", 16 << 20), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address_of(process), options=options) as channel:
        yield Client(channel)


def submission(session_id: str, text: str, model: str = "", run_id: str = "") -> pb.Submission:
    """A prompt of one text."""
    made = pb.Submission(session_id=session_id, model=model, run_id=run_id)
    made.prompt.add().text.text = text
    return made


def prompt(session_id: str, text: str, model: str = "", run_id: str = "") -> bytes:
    """The request of ``Run``, and as its fields are the same, of ``SubmitRun``."""
    return pb.RunRequest(submission=submission(session_id, text, model, run_id)).SerializeToString()


def turn(client: Client, names: Sequence[str], model: str, text: str = PROMPT, answer: str = STREAMED) -> Unit:
    """A whole turn by ``Run``, seen to its terminal and checked; the sample is the time to its first delta."""
    free = deque(names)

    async def one() -> float:
        session = free.popleft()
        request = prompt(session, text, model)
        start = time.perf_counter()
        first = 0.0
        last = b""
        async for last in client.run(request):
            if not first and _is_delta(last):
                first = time.perf_counter() - start
        outcome = pb.RunResponse.FromString(last).items[-1].event.run_finished.outcome
        if outcome.status != event_pb2.OUTCOME_STATUS_COMPLETED or outcome.text != answer:
            raise RuntimeError(f"a turn went wrong: {outcome}")
        free.append(session)
        return first

    return one


def _is_delta(response: bytes) -> bool:
    """Whether a response holds a delta."""
    return any(item.HasField("delta") for item in pb.RunResponse.FromString(response).items)


def submit(client: Client, names: Sequence[str]) -> Unit:
    """``SubmitRun`` into a session whose floor is taken: accepted, durable, in line; the sample is its time."""
    free = deque(names)

    async def one() -> float:
        request = prompt(free[0], PROMPT)
        free.rotate(-1)
        start = time.perf_counter()
        if not await client.submit(request):
            raise RuntimeError("no receipt")
        return time.perf_counter() - start

    return one


async def hold_floors(client: Client, names: Sequence[str]) -> None:
    """Start a run in each session that never ends by itself."""
    for name in names:
        await client.submit(prompt(name, '{"hang": true}', "scripted/echo"))


async def conversation(client: Client, session: str, tokens: int, pace_ms: float, received: Callable[[], None]) -> None:
    """Ask for one long answer on a stream of its own, and tell of each message that comes."""
    call = client.converse()
    await call.write(pb.ConverseRequest(open=pb.OpenFrame(session_id=session)).SerializeToString())
    text = f'{{"tokens": {tokens}, "pace_ms": {pace_ms:f}}}'
    await call.write(pb.ConverseRequest(submit=submission("", text, "scripted/echo")).SerializeToString())
    await call.done_writing()
    count = 0
    while await call.read() is not grpc.aio.EOF:
        received()
        count += 1
    if count < 2:
        raise RuntimeError("a conversation ended early")


async def conversations(client: Client, names: Sequence[str], tokens: int, pace_ms: float) -> int:
    """One on each session, side by side; how many messages came."""
    count = 0

    def received() -> None:
        nonlocal count
        count += 1

    await asyncio.gather(*(conversation(client, name, tokens, pace_ms, received) for name in names))
    return count
