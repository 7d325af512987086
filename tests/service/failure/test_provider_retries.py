"""Calls that fail on the wire and are made again (C-93): how often, when, and that nothing shown twice stays."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from examples.upstream import Answer, Ending, Upstream, token_stream
from tests.service.failure.stories import is_valid, kinds, reason_of, text_of
from tests.service.harness import LIMIT, Harness, serving, submission
from tests.service.manual_clock import ManualClock
from tests.service.providers.recorded_requests import READERS, read
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2

CHAT = "openai-chat"
PARTIAL = "t0 t1 t2 "
DELAYS = (7.0, 14.0)
"""Before the second attempt and before the third; no other wait is as long."""
LIMIT_OF_FAULT = 5.0
"""What a provider that times out is given; every other limit is longer."""


@dataclass(frozen=True)
class Fault:
    """What an attempt meets: what it ends with and what it shows before; ``limit`` names the timeout that ends it."""

    reason: str
    answer: Answer
    text: str = ""
    limit: str = ""


def broken(num_tokens: int, ending: Ending, wire_format: str = CHAT) -> Fault:
    """A stream that ends so behind its tokens."""
    chunks = token_stream(num_tokens, wire_format, has_end=False)
    return Fault("PROVIDER_STREAM_BROKEN", Answer(chunks, ending=ending), "".join(f"t{n} " for n in range(num_tokens)))


TIMEOUTS = {
    "no status line": Fault("FIRST_TOKEN_TIMEOUT", Answer(is_mute=True, ending=Ending.HANG), limit="first_token"),
    "no body": Fault("FIRST_TOKEN_TIMEOUT", Answer(ending=Ending.HANG), limit="first_token"),
    "silence in the body": Fault(
        "IDLE_TIMEOUT", Answer(token_stream(3, has_end=False), ending=Ending.HANG), PARTIAL, limit="idle"
    ),
}
LOSSES = {
    "reset before headers": Fault("PROVIDER_UNREACHABLE", Answer(is_mute=True, ending=Ending.RESET)),
    "end before headers": Fault("PROVIDER_UNREACHABLE", Answer(is_mute=True, ending=Ending.CUT)),
    "end after headers": broken(0, Ending.CUT),
    "reset in the body": broken(3, Ending.RESET),
    "end in the body": broken(3, Ending.CUT),
    "end of HTTP alone": broken(3, Ending.END),
}
FAULTS = {**TIMEOUTS, **LOSSES}


class Reader:
    """The stream of the submitter: holds every delta to what may be shown when."""

    def __init__(self, server: Harness, **fields: Any) -> None:
        self._call = server.runs.Run(run_service_pb2.RunRequest(submission=submission("s", "hello", "r", **fields)))
        self.events: list[event_pb2.Event] = []
        self.shown: dict[int, str] = {}
        """What each attempt has shown."""

    @property
    def discards(self) -> list[tuple[int, str]]:
        """The attempts that were taken back, each with its cause."""
        found = [event.attempt_discarded for event in self.events if event.HasField("attempt_discarded")]
        return [(one.attempt, one.cause) for one in found]

    @property
    def delays(self) -> list[tuple[int, float]]:
        """The attempts that were announced, each with the seconds before it."""
        return [
            (event.attempt, event.retry_scheduled.delay.ToNanoseconds() / 1e9)
            for event in self.events
            if event.HasField("retry_scheduled")
        ]

    async def read(self) -> None:
        """Read one item."""
        async with asyncio.timeout(LIMIT):
            item = (await self._call.read()).item
        if item.HasField("event"):
            self.events.append(item.event)
        elif item.HasField("delta"):
            delta = item.delta
            assert delta.attempt == len(self.discards) + 1, "an attempt shows something before the last one is void"
            assert delta.offset == len(self.shown.get(delta.attempt, ""))
            self.shown[delta.attempt] = self.shown.get(delta.attempt, "") + delta.text

    async def shows(self, attempt: int, text: str) -> None:
        """Read until an attempt has shown so much."""
        while self.shown.get(attempt, "") != text:
            await self.read()

    async def end(self) -> event_pb2.Outcome:
        """Read up to the run's terminal."""
        while not self.events or not self.events[-1].HasField("run_finished"):
            await self.read()
        return self.events[-1].run_finished.outcome


@dataclass
class Vendor:
    """A server with two retries whose provider ``up`` is on the loopback, and its clock."""

    server: Harness
    clock: ManualClock

    async def fail(self, upstream: Upstream, fault: Fault, reader: Reader, attempt: int) -> None:
        """See to it that the attempt ends as its fault says."""
        await upstream.until(lambda: len(upstream.requests) == attempt)
        if fault.limit:
            await reader.shows(attempt, fault.text)
            self.clock.advance(LIMIT_OF_FAULT)

    async def retry(self, attempt: int) -> None:
        """Wait until the next attempt is waited for, and let it begin."""
        delay = DELAYS[attempt - 1]
        await self.clock.armed(delay)
        self.clock.advance(delay)


@asynccontextmanager
async def vendor(
    tmp_path: Path, base_url: str, limit: str = "", wire_format: str = CHAT, **more: str
) -> AsyncIterator[Vendor]:
    """See Vendor."""
    limits = {
        name: str(LIMIT_OF_FAULT if name == limit else 1000.0) for name in ("connect", "first_token", "idle", "total")
    }
    options: dict[str, Any] = {
        "providers__up__format": wire_format,
        "providers__up__base_url": base_url,
        **{f"providers__up__{name}_timeout_seconds": value for name, value in limits.items()},
        "retries__max_retries": str(len(DELAYS)),
        "retries__first_delay_seconds": str(DELAYS[0]),
        "retries__jitter": "0",
        **more,
    }
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, **options) as server:
        await server.session("s")
        yield Vendor(server, clock)


@contextmanager
def unheard() -> Iterator[int]:
    """A port that is ours and that nobody listens on: what connects to it is refused."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


def check_failed(reader: Reader, outcome: event_pb2.Outcome, reason: str, text: str) -> None:
    """Three attempts: two were taken back and announced, what the last one has shown is what there is."""
    assert (reason_of(outcome), outcome.text) == (f"FAILED/{reason}", text)
    assert reader.discards == [(1, reason), (2, reason)]
    assert reader.delays == [(2, DELAYS[0]), (3, DELAYS[1])]
    assert reader.shown == (dict.fromkeys((1, 2, 3), text) if text else {})
    assert [event_pb2.OutcomeReason.Name(one.reason).removeprefix("OUTCOME_REASON_") for one in outcome.errors] == [
        reason
    ] * 3
    assert (outcome.usage.own.num_calls, outcome.num_steps) == (3, 1)
    assert (outcome.usage.own.output_tokens > 0) == bool(text)


async def always_fails(tmp_path: Path, upstream: Upstream, fault: Fault, wire_format: str = CHAT) -> None:
    async with vendor(tmp_path, upstream.base_url, fault.limit, wire_format) as up:
        upstream.plan(*[fault.answer] * 3)
        reader = Reader(up.server, model="up/any")
        for attempt in (1, 2, 3):
            await up.fail(upstream, fault, reader, attempt)
            if attempt < 3:
                await up.retry(attempt)
        outcome = await reader.end()
        check_failed(reader, outcome, fault.reason, fault.text)
        answer = (await up.server.messages("s"))[-1]
        assert (answer.status, text_of(answer)) == (content_pb2.MESSAGE_STATUS_FAILED, fault.text)
        # One more request of any other run is the fourth: nothing is tried again behind the run's back.
        await up.server.submit("s", "and now", "next", model="up/tokens-2")
        assert (await up.server.terminals("s", ["next"]))["next"].text == "t0 t1 "
        assert len(upstream.requests) == 4
        first, second, third = (read(wire_format, one.json).messages for one in upstream.requests[:3])
        assert first == second == third
        assert is_valid(await up.server.messages("s"))


@pytest.mark.parametrize("kind", TIMEOUTS)
@pytest.mark.spec("subturns:T94")
@pytest.mark.asyncio
async def test_a_provider_that_always_times_out(kind: str, upstream: Upstream, tmp_path: Path) -> None:
    await always_fails(tmp_path, upstream, TIMEOUTS[kind])


@pytest.mark.spec("subturns:T94")
@pytest.mark.asyncio
async def test_a_provider_that_never_lets_anybody_in(upstream: Upstream, tmp_path: Path) -> None:
    # TCP stands, TLS never does: the upstream takes the greeting for a request that is not over yet.
    url = upstream.base_url.replace("http:", "https:")
    async with vendor(tmp_path, url, "connect") as up:
        reader = Reader(up.server, model="up/any")
        for attempt in (1, 2, 3):
            await upstream.until(lambda count=attempt: upstream.total_connections == count)  # type: ignore[misc]
            up.clock.advance(LIMIT_OF_FAULT)
            if attempt < 3:
                await up.retry(attempt)
        outcome = await reader.end()
        check_failed(reader, outcome, "PROVIDER_UNREACHABLE", "")
        assert {one.title for one in outcome.errors} == {"Connect timeout"}
        await upstream.until(lambda: upstream.num_connections == 0)
        await up.server.submit("s", "sentinel", "sentinel", model="scripted/echo")
        await up.server.terminals("s", ["sentinel"])
        assert upstream.total_connections == 3


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.spec("subturns:T97")
@pytest.mark.asyncio
async def test_a_connection_that_is_always_lost(kind: str, upstream: Upstream, tmp_path: Path) -> None:
    await always_fails(tmp_path, upstream, LOSSES[kind])


@pytest.mark.parametrize("wire_format", sorted(READERS.keys() - {CHAT}))
@pytest.mark.spec("subturns:T97")
@pytest.mark.asyncio
async def test_a_connection_that_is_always_lost_in_the_body(
    wire_format: str, upstream: Upstream, tmp_path: Path
) -> None:
    await always_fails(tmp_path, upstream, broken(3, Ending.CUT, wire_format), wire_format)


@pytest.mark.spec("subturns:T97")
@pytest.mark.asyncio
async def test_a_connection_that_is_always_refused(tmp_path: Path) -> None:
    with unheard() as port:
        async with vendor(tmp_path, f"http://127.0.0.1:{port}") as up:
            reader = Reader(up.server, model="up/any")
            for attempt in (1, 2):
                await up.retry(attempt)
            check_failed(reader, await reader.end(), "PROVIDER_UNREACHABLE", "")


async def check_recovered(up: Vendor, upstream: Upstream, reader: Reader, fault: Fault) -> None:
    """The second attempt was the last, and the answer is its alone."""
    outcome = await reader.end()
    assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", PARTIAL)
    assert reader.discards == [(1, fault.reason)]
    assert reader.delays == [(2, DELAYS[0])]
    assert reader.shown == {**({1: fault.text} if fault.text else {}), 2: PARTIAL}
    assert len(outcome.errors) == 1
    assert outcome.usage.own.num_calls == 2
    assert [text_of(one) for one in await up.server.messages("s")] == ["hello", PARTIAL]
    assert kinds(await up.server.history("s"), "r").count("step_finished") == 1
    await upstream.until(lambda: upstream.num_requests_open == 0)


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.asyncio
async def test_the_second_attempt_is_answered(kind: str, upstream: Upstream, tmp_path: Path) -> None:
    fault = FAULTS[kind]
    async with vendor(tmp_path, upstream.base_url, fault.limit) as up:
        upstream.plan(fault.answer, Answer(token_stream(3)))
        reader = Reader(up.server, model="up/any")
        await up.fail(upstream, fault, reader, 1)
        await up.retry(1)
        await check_recovered(up, upstream, reader, fault)
        assert len(upstream.requests) == 2


@pytest.mark.asyncio
async def test_a_vendor_that_begins_to_listen(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        port = stack.enter_context(unheard())
        up = await stack.enter_async_context(vendor(tmp_path, f"http://127.0.0.1:{port}"))
        reader = Reader(up.server, model="up/tokens-3")
        await up.clock.armed(DELAYS[0])
        upstream = await stack.enter_async_context(Upstream(port=port))
        await up.retry(1)
        await check_recovered(up, upstream, reader, Fault("PROVIDER_UNREACHABLE", Answer()))
        assert len(upstream.requests) == 1
