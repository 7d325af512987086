"""Providers that misbehave, through the whole service: what the run, readers, others and the sockets see of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from examples.upstream import Answer, Ending, Upstream, token_stream
from examples.upstream.dialects import DIALECTS
from tests.service.failure.remote import BIG
from tests.service.failure.stories import COMPLETED, finished, is_valid, kinds, reason_of, text_of
from tests.service.harness import LIMIT, Harness, serving
from tests.service.manual_clock import ManualClock
from tests.service.providers.recorded_requests import READERS, read
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2, session_service_pb2

FORMATS = sorted(READERS)
PARTIAL = "t0 t1 t2 "
GARBAGE = [
    b"\xff\xfe\x00" * 2000,
    b"<html>sign in</html>",
    b"data: []\n\n" * 3,
    b"data: 7\n\n",
    b"\x00",
    b"data: {}" * 4000,
]
MEGABYTE = 1_000_000


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


@asynccontextmanager
async def served(
    tmp_path: Path, upstream: Upstream, wire_format: str = "openai-chat", clock: ManualClock | None = None, **more: str
) -> AsyncIterator[Harness]:
    """A server whose provider ``up`` is the upstream, with two sessions."""
    settings = {
        "providers.up.format": wire_format,
        "providers.up.base_url": upstream.base_url,
        "providers.up.api_key": "sk-of-the-test",
    }
    settings |= {f"providers.up.{name}_timeout_seconds": value for name, value in more.items()}
    overrides: dict[str, Any] = {name.replace(".", "__"): value for name, value in settings.items()}
    async with serving(tmp_path, clock=clock or ManualClock(), **overrides) as server:
        await server.session("s")
        await server.session("other")
        yield server


def counted(pieces: Iterable[bytes], taken: list[int]) -> Iterator[bytes]:
    """The same pieces; the bytes of those that were taken are added up."""
    for piece in pieces:
        taken[0] += len(piece)
        yield piece


async def others_answer(server: Harness) -> None:
    """A second session gets its answer meanwhile, from the same vendor too; and is the first one to get it."""
    run_ids = [f"other-{number}" for number in range(2)]
    await server.submit("other", "hello", run_ids[0], model="scripted/echo")
    await server.submit("other", "hello", run_ids[1], model="up/tokens-2")
    outcomes = await server.terminals("other", run_ids)
    assert [outcome.status for outcome in outcomes.values()] == [COMPLETED, COMPLETED]


async def shown(server: Harness, text: str, run_id: str = "r") -> None:
    """Wait until a reader was shown so much of the open message."""
    request = run_service_pb2.WatchSessionRequest(session_id="s", after_seq=0)
    found = ""
    async with asyncio.timeout(LIMIT):
        stream = server.runs.WatchSession(request)
        async for response in stream:
            item = response.item
            if item.snapshot.run_id == run_id:
                found = "".join(part.text for part in item.snapshot.parts)
            elif item.delta.run_id == run_id:
                found += item.delta.text
            if found == text:
                break
        stream.cancel()


async def check_end(
    server: Harness, upstream: Upstream, reason: str, text: str, session_id: str = "s", run_id: str = "r"
) -> event_pb2.Outcome:
    """The run's outcome, its rows and its usage; and that the session goes on, with a request that vendors take."""
    outcome = (await server.terminals(session_id, [run_id]))[run_id]
    assert (reason_of(outcome), outcome.text) == (reason, text)
    assert outcome.usage.own.num_calls == 1
    if text:
        assert outcome.usage.own.output_tokens > 0
    asked, answer = [message for message in await server.messages(session_id) if message.run_id == run_id]
    assert asked.status == content_pb2.MESSAGE_STATUS_COMPLETE
    is_cancelled = outcome.status == event_pb2.OUTCOME_STATUS_CANCELLED
    assert answer.status == (
        content_pb2.MESSAGE_STATUS_CANCELLED if is_cancelled else content_pb2.MESSAGE_STATUS_FAILED
    )
    assert text_of(answer) == text
    if not is_cancelled:
        assert outcome.errors[0].title == answer.error.title != ""
        assert "sk-of-the-test" not in str(outcome)
    await upstream.until(lambda: upstream.num_requests_open == 0)
    num_requests, following = len(upstream.requests), f"{run_id}-next"
    await server.submit(session_id, "and now", following, model="up/tokens-2")
    assert (await server.terminals(session_id, [following]))[following].text == "t0 t1 "
    assert len(upstream.requests) == num_requests + 1
    sent = read(upstream.requests[-1].wire_format, upstream.requests[-1].json).messages
    assert all(message.parts for message in sent)
    texts = [part.text.text for message in sent for part in message.parts]
    # Some formats have neighbours of one role as paragraphs of one text.
    contents = [paragraph.strip() for one in texts for paragraph in one.split("\n\n")]
    assert "and now" in contents
    assert not text or text.strip() in contents
    history = await server.history(session_id)
    assert finished(history).keys() == {run_id, following}
    assert kinds(history, run_id).count("step_finished") == 1
    assert is_valid(await server.messages(session_id))
    return outcome


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize(
    ("model", "reason", "text"),
    [
        ("reset-3", "PROVIDER_STREAM_BROKEN", PARTIAL),
        ("truncated-3", "PROVIDER_STREAM_BROKEN", PARTIAL),
        ("ended-3", "PROVIDER_STREAM_BROKEN", PARTIAL),
        ("truncated-0", "PROVIDER_STREAM_BROKEN", ""),
        ("bad-json-3", "PROVIDER_PROTOCOL", PARTIAL),
        ("bad-utf8-3", "PROVIDER_STREAM_BROKEN", PARTIAL),
        ("error-3", "PROVIDER_ERROR", PARTIAL),
    ],
)
@pytest.mark.asyncio
async def test_a_stream_that_breaks(
    model: str, reason: str, text: str, wire_format: str, upstream: Upstream, tmp_path: Path
) -> None:
    async with served(tmp_path, upstream, wire_format) as server:
        await server.submit("s", "hello", "r", model=f"up/{model}")
        await check_end(server, upstream, f"FAILED/{reason}", text)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "PROVIDER_REFUSED"),
        (401, "PROVIDER_UNAUTHENTICATED"),
        (404, "PROVIDER_REFUSED"),
        (429, "PROVIDER_RATE_LIMITED"),
        (500, "PROVIDER_ERROR"),
        (503, "PROVIDER_ERROR"),
    ],
)
@pytest.mark.asyncio
async def test_a_status_that_is_none_of_ours(
    status: int, reason: str, wire_format: str, upstream: Upstream, tmp_path: Path
) -> None:
    async with served(tmp_path, upstream, wire_format) as server:
        await server.submit("s", "hello", "r", model=f"up/status-{status}")
        outcome = await check_end(server, upstream, f"FAILED/{reason}", "")
        assert (outcome.errors[0].http_status, outcome.errors[0].reason) == (status, outcome.reason)
        assert f"status {status} as asked" in outcome.errors[0].detail


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.asyncio
async def test_a_vendor_that_wants_us_to_wait(wire_format: str, upstream: Upstream, tmp_path: Path) -> None:
    async with served(tmp_path, upstream, wire_format) as server:
        await server.submit("s", "hello", "r", model="up/limited-3600")
        outcome = await check_end(server, upstream, "FAILED/PROVIDER_RATE_LIMITED", "")
        assert outcome.errors[0].http_status == 429
        assert "slow down" in outcome.errors[0].detail


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.asyncio
async def test_garbage(wire_format: str, upstream: Upstream, tmp_path: Path) -> None:
    async with served(tmp_path, upstream, wire_format) as server:
        for number, body in enumerate(GARBAGE):
            session_id, run_id = f"s{number}", f"r{number}"
            await server.session(session_id)
            upstream.plan(Answer.of(body))
            await server.submit(session_id, "hello", run_id, model="up/any")
            outcome = (await server.terminals(session_id, [run_id]))[run_id]
            assert reason_of(outcome) in ("FAILED/PROVIDER_PROTOCOL", "FAILED/PROVIDER_STREAM_BROKEN"), body[:20]
            await check_end(server, upstream, reason_of(outcome), "", session_id, run_id)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.asyncio
async def test_nobody_at_the_address(wire_format: str, tmp_path: Path) -> None:
    gone: dict[str, Any] = {
        "providers__gone__format": wire_format,
        "providers__gone__base_url": "http://127.0.0.1:1",
    }
    async with serving(tmp_path, clock=ManualClock(), **gone) as server:
        await server.session("s")
        await server.submit("s", "hello", "r", model="gone/model")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert reason_of(outcome) == "FAILED/PROVIDER_UNREACHABLE"
        assert outcome.usage.own.num_calls == 1


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize("ending", [Ending.RESET, Ending.CUT])
@pytest.mark.asyncio
async def test_a_vendor_that_hangs_up_at_once(
    ending: Ending, wire_format: str, upstream: Upstream, tmp_path: Path
) -> None:
    async with served(tmp_path, upstream, wire_format) as server:
        upstream.plan(Answer(is_mute=True, ending=ending))
        await server.submit("s", "hello", "r", model="up/any")
        await check_end(server, upstream, "FAILED/PROVIDER_UNREACHABLE", "")


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.asyncio
async def test_a_vendor_that_never_answers(wire_format: str, upstream: Upstream, tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(
        tmp_path, upstream, wire_format, clock, connect="100", first_token="7", idle="100", total="1000"
    ) as server:
        await server.submit("s", "hello", "r", model="up/silent")
        await upstream.until(lambda: upstream.num_requests_open == 1)
        await others_answer(server)
        assert finished(await server.history("s")) == {}
        clock.advance(7)
        await check_end(server, upstream, "FAILED/FIRST_TOKEN_TIMEOUT", "")


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.asyncio
async def test_a_vendor_that_falls_silent(wire_format: str, upstream: Upstream, tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(
        tmp_path, upstream, wire_format, clock, connect="100", first_token="100", idle="5", total="1000"
    ) as server:
        await server.submit("s", "hello", "r", model="up/silent-3")
        await shown(server, PARTIAL)
        await others_answer(server)
        assert finished(await server.history("s")) == {}
        clock.advance(5)
        await check_end(server, upstream, "FAILED/IDLE_TIMEOUT", PARTIAL)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.asyncio
async def test_an_answer_that_comes_byte_by_byte(wire_format: str, upstream: Upstream, tmp_path: Path) -> None:
    async with served(tmp_path, upstream, wire_format) as server:
        upstream.plan(Answer.of(b"".join(token_stream(3, wire_format)), cut=1))
        await server.submit("s", "hello", "r", model="up/any")
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (outcome.status, outcome.text, outcome.usage.own.output_tokens) == (COMPLETED, PARTIAL, 3)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.asyncio
async def test_a_vendor_that_never_ends(wire_format: str, upstream: Upstream, tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, upstream, wire_format, clock, first_token="none", idle="none", total="50") as server:
        begin = token_stream(3, wire_format, has_end=False)
        endless = itertools.chain(begin, itertools.repeat(b": still here\n\n"))
        upstream.plan(Answer(endless, pace=0.001))
        await server.submit("s", "hello", "r", model="up/any")
        await shown(server, PARTIAL)
        await others_answer(server)
        assert upstream.num_requests_open == 1
        clock.advance(50)
        await check_end(server, upstream, "FAILED/TOTAL_TIMEOUT", PARTIAL)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.asyncio
async def test_an_answer_of_a_hundred_megabytes(wire_format: str, upstream: Upstream, tmp_path: Path) -> None:
    async with served(tmp_path, upstream, wire_format) as server:
        dialect, taken = DIALECTS[wire_format], [0]
        pieces = itertools.chain(dialect.begin, itertools.repeat(dialect.delta("x" * 16_000), 100 * MEGABYTE // 16_000))
        upstream.plan(Answer(counted(pieces, taken)))
        await server.submit("s", "hello", "r", model="up/any")
        await others_answer(server)
        async with grpc.aio.insecure_channel(server.server.grpc_address, options=BIG) as channel:
            big = Harness(server.server, channel, server.gates, server.places)
            outcome = (await big.terminals("s", ["r"]))["r"]
            assert reason_of(outcome) == "FAILED/PROVIDER_PROTOCOL"
            assert 8_000_000 < len(outcome.text) <= 8 << 20
            assert outcome.text == "x" * len(outcome.text)
            message = (await big.messages("s"))[-1]
            assert (message.status, text_of(message)) == (content_pb2.MESSAGE_STATUS_FAILED, outcome.text)
            assert outcome.usage.own.output_tokens > 1_000_000
        # The rest of it was never read; what the two sockets hold was under way.
        assert taken[0] < 20 * MEGABYTE
        await upstream.until(lambda: upstream.num_connections <= 1 and upstream.num_requests_open == 0)
        await server.submit("other", "hello", "sentinel")
        await server.terminals("other", ["sentinel"])


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.asyncio
async def test_an_answer_above_the_set_limit(wire_format: str, upstream: Upstream, tmp_path: Path) -> None:
    overrides: dict[str, Any] = {"providers__up__format": wire_format, "providers__up__base_url": upstream.base_url}
    async with serving(tmp_path, limits__max_step_answer_bytes="40000", **overrides) as server:
        await server.session("s")
        await server.submit("s", "hello", "r", model="up/huge-1")
        await check_end(server, upstream, "FAILED/PROVIDER_PROTOCOL", "x" * 48_000)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize(("model", "text"), [("silent", ""), ("silent-3", PARTIAL)])
@pytest.mark.asyncio
async def test_a_cancel_closes_the_socket_and_keeps_the_text(
    model: str, text: str, wire_format: str, upstream: Upstream, tmp_path: Path
) -> None:
    async with served(tmp_path, upstream, wire_format) as server:
        await server.submit("s", "hello", "r", model=f"up/{model}")
        await upstream.until(lambda: upstream.num_requests_open == 1)
        if text:
            await shown(server, text)
        assert upstream.num_connections == 1
        receipt = await server.cancel(run_id="r", wait=True)
        assert reason_of(receipt.runs[0].outcome) == "CANCELLED/USER"
        await upstream.until(lambda: upstream.num_connections == 0)
        await check_end(server, upstream, "CANCELLED/USER", text)


@pytest.mark.asyncio
async def test_a_cancel_in_the_middle_of_a_burst(upstream: Upstream, tmp_path: Path) -> None:
    async with served(tmp_path, upstream) as server:
        endless = itertools.chain(token_stream(3, has_end=False), itertools.repeat(b": " + b"x" * 4000 + b"\n\n"))
        upstream.plan(Answer(endless))
        await server.submit("s", "hello", "r", model="up/any")
        await shown(server, PARTIAL)
        await others_answer(server)
        await server.cancel(run_id="r")
        await check_end(server, upstream, "CANCELLED/USER", PARTIAL)


@pytest.mark.asyncio
async def test_a_stop_lets_the_answer_come_to_its_end(upstream: Upstream, tmp_path: Path) -> None:
    end = asyncio.Event()
    async with served(tmp_path, upstream) as server:
        upstream.plan(Answer(token_stream(3), before_end=end, ending=Ending.END))
        pieces = token_stream(3, has_end=False)
        assert len(pieces) == 3
        await server.submit("s", "hello", "r", model="up/any")
        await server.cancel(run_id="r", mode=event_pb2.CANCEL_MODE_STOP)
        end.set()
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/STOPPED", PARTIAL)
        assert outcome.usage.own.output_tokens == 3


@pytest.mark.asyncio
async def test_a_deleted_session_closes_its_socket(upstream: Upstream, tmp_path: Path) -> None:
    async with served(tmp_path, upstream) as server:
        await server.submit("s", "hello", "r", model="up/silent-3")
        await upstream.until(lambda: upstream.num_requests_open == 1)
        await server.sessions.DeleteSession(session_service_pb2.DeleteSessionRequest(session_id="s", force=True))
        await upstream.until(lambda: upstream.num_connections == 0)
        assert reason_of((await server.run_view("r")).outcome) == "CANCELLED/SESSION_DELETED"


@pytest.mark.asyncio
async def test_a_server_that_closes_leaves_no_socket(upstream: Upstream, tmp_path: Path) -> None:
    async with served(tmp_path, upstream) as server:
        for number in range(8):
            await server.session(f"s{number}")
            await server.submit(f"s{number}", "hello", model="up/silent-3")
        await upstream.until(lambda: upstream.num_requests_open == 8)
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
async def test_many_bad_vendors_do_not_delay_a_good_one(upstream: Upstream, tmp_path: Path) -> None:
    models = ["silent", "silent-3", "reset-3", "status-500", "bad-json-3", "limited-60"] * 5
    async with served(tmp_path, upstream) as server:
        for number, model in enumerate(models):
            await server.session(f"bad{number}")
            await server.submit(f"bad{number}", "hello", f"bad{number}", model=f"up/{model}")
        await others_answer(server)
        for number, model in enumerate(models):
            if model.startswith("silent"):
                assert (await server.run_view(f"bad{number}")).state == run_service_pb2.RUN_STATE_RUNNING
                await server.cancel(run_id=f"bad{number}", wait=True)
            else:
                outcome = (await server.terminals(f"bad{number}", [f"bad{number}"]))[f"bad{number}"]
                assert outcome.status == event_pb2.OUTCOME_STATUS_FAILED
        assert upstream.max_requests_open >= 10
