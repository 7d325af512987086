"""The load: gRPC calls on raw bytes, so that the client costs little, every answer looked at before it counts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from turnkeeper.v1 import event_pb2
from turnkeeper.v1 import run_service_pb2 as pb
from turnkeeper.v1 import session_service_pb2 as sessions_pb

from .processes import Process, address_of

RUNS = "/turnkeeper.v1.RunService/"
SESSIONS = "/turnkeeper.v1.SessionService/"
TOKENS = 64


@dataclass
class Measure:
    """What one run came to: how many of what, in which time, at which CPU of the server."""

    count: int
    seconds: float
    cpu_seconds: float
    waits: list[float] = field(default_factory=list)
    """Seconds, one per sample."""

    @property
    def rate(self) -> float:
        """Per second."""
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's CPU for each."""
        return self.cpu_seconds / self.count * 1e6


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


async def measure(
    process: Process,
    workers: int,
    seconds: float,
    one: Callable[[], Awaitable[float]],
    warmup: int = 1,
    spread: float = 0.0,
) -> Measure:
    """Let workers do one thing after another; ``one`` returns the sample that it measured."""
    for _ in range(warmup):
        await asyncio.gather(*(one() for _ in range(workers)))
    waits: list[float] = []
    cpu, start = process.cpu_seconds(), time.perf_counter()

    async def work(delay: float) -> None:
        await asyncio.sleep(delay)
        while time.perf_counter() - start < seconds:
            waits.append(await one())

    await asyncio.gather(*(work(spread * number / workers) for number in range(workers)))
    return Measure(len(waits), time.perf_counter() - start, process.cpu_seconds() - cpu, waits)


async def turns(
    process: Process, workers: int, seconds: float, names: Sequence[str], model: str, spread: float = 0.0
) -> Measure:
    """Whole turns by ``Run``, each seen to its terminal and checked; samples are times to the first delta.

    With ``spread`` the workers begin over so many seconds, and nothing is run before.
    """
    expected = "".join(f"t{number} " for number in range(TOKENS))
    free = deque(names)
    async with connect(process) as client:

        async def one() -> float:
            session = free.popleft()
            request = prompt(session, "Tell me everything, please.", model)
            start = time.perf_counter()
            first = 0.0
            last = b""
            async for last in client.run(request):
                if not first and _is_delta(last):
                    first = time.perf_counter() - start
            outcome = pb.RunResponse.FromString(last).items[-1].event.run_finished.outcome
            if outcome.status != event_pb2.OUTCOME_STATUS_COMPLETED or outcome.text != expected:
                raise RuntimeError(f"a turn went wrong: {outcome}")
            free.append(session)
            return first

        return await measure(process, workers, seconds, one, warmup=0 if spread else 1, spread=spread)


def _is_delta(response: bytes) -> bool:
    """Whether a response holds a delta."""
    return any(item.HasField("delta") for item in pb.RunResponse.FromString(response).items)


async def submits(process: Process, workers: int, seconds: float, names: Sequence[str]) -> Measure:
    """``SubmitRun`` into sessions whose floor is taken: accepted, durable, in line."""
    free = deque(names)
    async with connect(process) as client:

        async def one() -> float:
            request = prompt(free[0], "Tell me everything, please.")
            free.rotate(-1)
            start = time.perf_counter()
            response = await client.submit(request)
            elapsed = time.perf_counter() - start
            if not response:
                raise RuntimeError("no receipt")
            return elapsed

        return await measure(process, workers, seconds, one)


async def hold_floors(client: Client, names: Sequence[str]) -> None:
    """Start a run in each session that never ends by itself."""
    for name in names:
        await client.submit(prompt(name, '{"hang": true}', "scripted/echo"))


async def conversations(
    process: Process, streams: int, tokens: int, names: Sequence[str], pace_ms: float = 0.0001
) -> tuple[Measure, Measure]:
    """Each of many streams asks for one long answer, by default a token per turn of the loop: messages, and tokens."""
    async with connect(process) as client:

        async def one(name: str, count: int) -> int:
            call = client.converse()
            opening = pb.ConverseRequest(open=pb.OpenFrame(session_id=name))
            await call.write(opening.SerializeToString())
            text = f'{{"tokens": {count}, "pace_ms": {pace_ms:f}}}'
            await call.write(pb.ConverseRequest(submit=submission("", text, "scripted/echo")).SerializeToString())
            await call.done_writing()
            received = 0
            while await call.read() is not grpc.aio.EOF:
                received += 1
            if received < 2:
                raise RuntimeError("a conversation ended early")
            return received

        await asyncio.gather(*(one(name, 10) for name in names[:streams]))
        cpu, start = process.cpu_seconds(), time.perf_counter()
        received = sum(await asyncio.gather(*(one(name, tokens) for name in names[:streams])))
        elapsed, used = time.perf_counter() - start, process.cpu_seconds() - cpu
    return Measure(received, elapsed, used), Measure(tokens * streams, elapsed, used)


async def echoes(process: Process, streams: int, seconds: float) -> Measure:
    """One message in, one message out, on many streams, a window of 16 open on each."""
    frame = pb.ConverseRequest(submit=submission("", "w100 ", "scripted/echo")).SerializeToString()
    async with connect(process) as client:
        start = time.perf_counter()
        cpu = process.cpu_seconds()

        async def one() -> int:
            call = client.converse()
            received = 0
            for _ in range(16):
                await call.write(frame)
            while time.perf_counter() - start < seconds:
                await call.read()
                received += 1
                await call.write(frame)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                received += 1
            return received

        received = sum(await asyncio.gather(*(one() for _ in range(streams))))
        return Measure(received, time.perf_counter() - start, process.cpu_seconds() - cpu)
