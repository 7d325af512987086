"""What a bad upstream does to a call, over real sockets; time is held, nothing sleeps."""

from __future__ import annotations

import asyncio
import socket

import pytest

from examples.upstream import Answer, Ending, Upstream, token_stream
from tests.service.providers.collect import Collected, after, collect, request
from tests.service.providers.conftest import MakeProvider
from tests.service.providers.held_clock import HeldClock
from turnkeeper_service.providers.base import FailureReason, ModelEvent, ModelFinished, ProviderError
from turnkeeper_service.providers.options import Timeouts

FORMATS = ["openai-chat", "anthropic-messages"]
NO_LIMITS = Timeouts(None, None, None, None)


def error_of(collected: Collected) -> ProviderError:
    assert collected.error is not None
    return collected.error


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", FORMATS)
async def test_tokens_arrive_one_by_one(wire_format: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    collected = await collect(make_provider(wire_format), request("tokens-64"))
    assert collected.text() == "".join(f"t{number} " for number in range(64))
    assert collected.finished.usage.output_tokens == 64


@pytest.mark.asyncio
async def test_a_connection_is_used_again(upstream: Upstream, make_provider: MakeProvider) -> None:
    provider = make_provider()
    for _ in range(3):
        await collect(provider, request("tokens-3"))
    assert upstream.total_connections == 1


@pytest.mark.asyncio
async def test_a_connection_is_used_again_where_the_end_of_http_lags(
    upstream: Upstream, make_provider: MakeProvider
) -> None:
    provider, finished = make_provider(), asyncio.Event()
    upstream.plan(Answer(token_stream(2), before_end=finished))
    async with provider.stream(request()) as events:
        async for event in events:
            if isinstance(event, ModelFinished):
                finished.set()
    await collect(provider, request("tokens-2"))
    assert upstream.total_connections == 1


@pytest.mark.asyncio
async def test_calls_share_nothing_but_the_pool(upstream: Upstream, make_provider: MakeProvider) -> None:
    provider = make_provider(headers={"X-Extra": "1"}, api_key="secret-of-ours")
    upstream.plan(Answer.of(b"".join(token_stream(1)), headers={"set-cookie": "a=b"}))
    await collect(provider, request())
    await collect(provider, request("tokens-1"))
    headers = upstream.requests[1].headers
    assert "cookie" not in headers
    assert (headers["x-extra"], headers["accept-encoding"]) == ("1", "identity")
    assert headers["authorization"] == "Bearer secret-of-ours"


@pytest.mark.asyncio
async def test_environment_proxies_are_not_used(
    upstream: Upstream, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await collect(make_provider(), request("tokens-1"))).error is None


@pytest.mark.asyncio
async def test_refused_connection(make_provider: MakeProvider) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        error = error_of(await collect(make_provider(base_url=f"http://127.0.0.1:{port}"), request()))
    assert (error.reason, error.is_retryable) == (FailureReason.PROVIDER_UNREACHABLE, True)


@pytest.mark.asyncio
@pytest.mark.parametrize("ending", [Ending.CUT, Ending.RESET])
async def test_no_response_line(ending: Ending, upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer(is_mute=True, ending=ending))
    error = error_of(await collect(make_provider(), request()))
    assert (error.reason, error.is_retryable) == (FailureReason.PROVIDER_UNREACHABLE, True)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "reason", "is_retryable"),
    [
        (400, FailureReason.PROVIDER_REFUSED, False),
        (401, FailureReason.PROVIDER_UNAUTHENTICATED, False),
        (403, FailureReason.PROVIDER_UNAUTHENTICATED, False),
        (404, FailureReason.PROVIDER_REFUSED, False),
        (408, FailureReason.PROVIDER_REFUSED, True),
        (409, FailureReason.PROVIDER_REFUSED, True),
        (429, FailureReason.PROVIDER_RATE_LIMITED, True),
        (500, FailureReason.PROVIDER_ERROR, True),
        (529, FailureReason.PROVIDER_ERROR, True),
        (302, FailureReason.PROVIDER_PROTOCOL, False),
    ],
)
async def test_statuses(
    status: int, reason: FailureReason, is_retryable: bool, upstream: Upstream, make_provider: MakeProvider
) -> None:
    error = error_of(await collect(make_provider(), request(f"status-{status}")))
    assert (error.reason, error.is_retryable, error.status) == (reason, is_retryable, status)
    assert f"status {status} as asked" in error.detail


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after_ms": "250", "retry_after": "7"}, 0.25),
        ({"retry_after": "Tue, 14 Nov 2023 22:30:30 GMT"}, 30.0),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
async def test_retry_hints(
    headers: dict[str, str], seconds: float | None, upstream: Upstream, make_provider: MakeProvider
) -> None:
    # The held clock stands at 1700001000, 22:30:00 of that day.
    upstream.plan(Answer.error(429, "{}", **headers))
    assert error_of(await collect(make_provider(), request())).retry_after == seconds


@pytest.mark.asyncio
async def test_a_vendor_may_say_whether_to_retry(upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer.error(400, "{}", x_should_retry="true"), Answer.error(503, "{}", x_should_retry="false"))
    provider = make_provider()
    assert error_of(await collect(provider, request())).is_retryable
    assert not error_of(await collect(provider, request())).is_retryable


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "no such tree", "code": 3}}', "no such tree"),
        ('{"error": "no such tree"}', "no such tree"),
        ('{"detail": [{"msg": "no such tree"}]}', "no such tree"),
        ('[{"error": {"message": "no such tree"}}]', "no such tree"),
        ("<h1>no such\n tree</h1>", "<h1>no such tree</h1>"),
        ("", "HTTP 400 without a message"),
    ],
)
async def test_vendor_messages(body: str, message: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer.error(400, body))
    assert message in error_of(await collect(make_provider(), request())).detail


@pytest.mark.asyncio
async def test_a_key_never_shows(upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer.error(401, '{"error": "the key sk-very-secret is wrong"}'))
    provider = make_provider(api_key="sk-very-secret")
    error = error_of(await collect(provider, request()))
    assert "sk-very-secret" not in error.detail + str(error) + repr(provider.__dict__)


@pytest.mark.asyncio
async def test_an_error_body_without_end_is_not_read_to_its_end(
    upstream: Upstream, make_provider: MakeProvider
) -> None:
    upstream.plan(Answer([b"x" * 1000] * 100_000, status=500, content_type="text/plain"))
    error = error_of(await collect(make_provider(), request()))
    assert error.reason is FailureReason.PROVIDER_ERROR
    assert len(error.detail) < 2000
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
async def test_a_json_error_with_status_200(upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer.error(200, '{"error": {"message": "no credit", "code": 503}}'))
    error = error_of(await collect(make_provider(), request()))
    assert (error.reason, error.detail, error.is_retryable) == (FailureReason.PROVIDER_ERROR, "no credit", True)


@pytest.mark.asyncio
async def test_a_page_with_status_200(upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer.of("<html>sign in</html>", content_type="text/html"))
    error = error_of(await collect(make_provider(), request()))
    assert error.reason is FailureReason.PROVIDER_PROTOCOL
    assert "text/html" in error.detail
    assert "sign in" in error.detail


@pytest.mark.asyncio
async def test_a_stream_without_a_content_type(upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer(token_stream(2), content_type=""))
    assert (await collect(make_provider(), request())).text() == "t0 t1 "


@pytest.mark.asyncio
async def test_an_encoding_that_nobody_asked_for(upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer.of(b"\x1f\x8b", headers={"content-encoding": "gzip"}))
    assert error_of(await collect(make_provider(), request())).reason is FailureReason.PROVIDER_PROTOCOL


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("reset-3", FailureReason.PROVIDER_STREAM_BROKEN),
        ("truncated-3", FailureReason.PROVIDER_STREAM_BROKEN),
        ("ended-3", FailureReason.PROVIDER_STREAM_BROKEN),
        ("bad-json-3", FailureReason.PROVIDER_PROTOCOL),
        ("bad-utf8-3", FailureReason.PROVIDER_STREAM_BROKEN),
        ("error-3", FailureReason.PROVIDER_ERROR),
    ],
)
async def test_streams_that_break(
    model: str, reason: FailureReason, wire_format: str, upstream: Upstream, make_provider: MakeProvider
) -> None:
    collected = await collect(make_provider(wire_format), request(model))
    assert error_of(collected).reason is reason
    assert collected.text() == "t0 t1 t2 "


@pytest.mark.asyncio
async def test_half_an_event_at_the_end_is_a_broken_stream(upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer.of(b"".join(token_stream(2, has_end=False)) + b'data: {"choices":[{"del', ending=Ending.CUT))
    assert error_of(await collect(make_provider(), request())).reason is FailureReason.PROVIDER_STREAM_BROKEN
    upstream.plan(Answer.of(b"".join(token_stream(2, has_end=False)) + b'data: {"choices":[{"del'))
    assert error_of(await collect(make_provider(), request())).reason is FailureReason.PROVIDER_STREAM_BROKEN


@pytest.mark.asyncio
async def test_a_whole_answer_survives_a_lost_connection(upstream: Upstream, make_provider: MakeProvider) -> None:
    without_done = token_stream(2)[:-1]
    upstream.plan(Answer(without_done, ending=Ending.CUT))
    collected = await collect(make_provider(), request())
    assert collected.error is None
    assert collected.finished.usage.output_tokens == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", FORMATS)
async def test_an_answer_without_end(wire_format: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    collected = await collect(make_provider(wire_format), request("huge-100"))
    assert error_of(collected).reason is FailureReason.PROVIDER_PROTOCOL
    assert 8_000_000 < len(collected.text()) <= 8 * 1024 * 1024
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
async def test_an_event_without_end(upstream: Upstream, make_provider: MakeProvider) -> None:
    upstream.plan(Answer([b"data: ", *[b"x" * 16_000] * 6000]))
    assert error_of(await collect(make_provider(), request())).reason is FailureReason.PROVIDER_PROTOCOL
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("model", ["silent", "silent-3"])
async def test_cancelling_closes_the_socket(model: str, upstream: Upstream, make_provider: MakeProvider) -> None:
    seen = asyncio.Event()
    num_characters = len("t0 t1 t2 ") if model == "silent-3" else 0
    task = asyncio.create_task(after(make_provider().stream(request(model)), num_characters, seen))
    await upstream.until(lambda: upstream.num_requests_open == 1)
    if num_characters:
        await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
async def test_leaving_early_closes_the_socket(upstream: Upstream, make_provider: MakeProvider) -> None:
    async with make_provider().stream(request("huge-100")) as events:
        async for _ in events:
            break
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
async def test_a_server_that_keeps_a_finished_stream_open_delays_nobody(
    upstream: Upstream, make_provider: MakeProvider, clock: HeldClock
) -> None:
    upstream.plan(Answer(token_stream(2), ending=Ending.HANG))
    finished = asyncio.Event()

    async def read() -> None:
        async with make_provider().stream(request()) as events:
            async for event in events:
                if isinstance(event, ModelFinished):
                    finished.set()

    task = asyncio.create_task(read())
    await finished.wait()
    assert await clock.advance_until(task, 0.05) <= 0.2
    await task
    await upstream.until(lambda: upstream.num_connections == 0)


async def time_out(
    task: asyncio.Task[list[ModelEvent]], clock: HeldClock, step: float = 1.0
) -> tuple[ProviderError, float]:
    seconds = await clock.advance_until(task, step)
    with pytest.raises(ProviderError) as caught:
        await task
    return caught.value, seconds


@pytest.mark.asyncio
async def test_connect_timeout(upstream: Upstream, make_provider: MakeProvider, clock: HeldClock) -> None:
    # TCP stands, TLS never does: the upstream takes the greeting for a request that is not over yet.
    url = upstream.base_url.replace("http:", "https:")
    provider = make_provider(base_url=url, timeouts=Timeouts(connect=10))
    task = asyncio.create_task(after(provider.stream(request()), 0, asyncio.Event()))
    await upstream.until(lambda: upstream.total_connections == 1)
    error, seconds = await time_out(task, clock)
    assert (error.reason, seconds) == (FailureReason.PROVIDER_UNREACHABLE, 10)
    assert "10 s" in error.detail


@pytest.mark.asyncio
@pytest.mark.parametrize("is_mute", [True, False])
async def test_first_token_timeout(
    is_mute: bool, upstream: Upstream, make_provider: MakeProvider, clock: HeldClock
) -> None:
    upstream.plan(Answer(is_mute=is_mute, ending=Ending.HANG))
    provider = make_provider(timeouts=Timeouts(connect=3, first_token=20, idle=5, total=100))
    task = asyncio.create_task(after(provider.stream(request()), 0, asyncio.Event()))
    await upstream.until(lambda: upstream.num_requests_open == 1)
    error, seconds = await time_out(task, clock)
    assert (error.reason, seconds) == (FailureReason.FIRST_TOKEN_TIMEOUT, 20)
    assert "20 s" in error.detail
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
async def test_idle_timeout(upstream: Upstream, make_provider: MakeProvider, clock: HeldClock) -> None:
    seen = asyncio.Event()
    provider = make_provider(timeouts=Timeouts(connect=60, first_token=60, idle=5, total=100))
    task = asyncio.create_task(after(provider.stream(request("silent-3")), len("t0 t1 t2 "), seen))
    await seen.wait()
    error, seconds = await time_out(task, clock)
    assert error.reason is FailureReason.IDLE_TIMEOUT
    # The clock may stand between the last chunk and the wait for the next when the first step is made.
    assert 5 <= seconds <= 6
    assert "5 s" in error.detail
    await upstream.until(lambda: upstream.num_connections == 0)


@pytest.mark.asyncio
async def test_total_timeout(upstream: Upstream, make_provider: MakeProvider, clock: HeldClock) -> None:
    provider = make_provider(timeouts=Timeouts(None, None, None, 50))
    task = asyncio.create_task(after(provider.stream(request("silent-2")), 0, asyncio.Event()))
    await upstream.until(lambda: upstream.num_requests_open == 1)
    error, seconds = await time_out(task, clock)
    assert (error.reason, seconds, error.is_retryable) == (FailureReason.TOTAL_TIMEOUT, 50, False)
    assert "50 s" in error.detail


@pytest.mark.asyncio
async def test_a_slow_reader_is_not_the_providers_silence(
    upstream: Upstream, make_provider: MakeProvider, clock: HeldClock
) -> None:
    provider = make_provider(timeouts=Timeouts(5, 5, 5, None))
    collected = Collected()
    async with provider.stream(request("tokens-8-pace-1")) as events:
        async for event in events:
            collected.events.append(event)
            clock.advance(60)
            await asyncio.sleep(0)
    assert collected.text() == "".join(f"t{number} " for number in range(8))
    assert collected.finished.usage.output_tokens == 8


@pytest.mark.asyncio
async def test_a_cancel_wins_over_a_timeout(upstream: Upstream, make_provider: MakeProvider, clock: HeldClock) -> None:
    provider = make_provider(timeouts=Timeouts(None, 5, None, None))
    task = asyncio.create_task(after(provider.stream(request("silent")), 0, asyncio.Event()))
    await upstream.until(lambda: upstream.num_requests_open == 1)
    clock.advance(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_a_closed_provider_says_so(upstream: Upstream, make_provider: MakeProvider) -> None:
    provider = make_provider(timeouts=NO_LIMITS)
    await collect(provider, request("tokens-1"))
    await provider.close()
    await provider.close()
    with pytest.raises(RuntimeError):
        await collect(provider, request("tokens-1"))
    await upstream.until(lambda: upstream.num_connections == 0)
