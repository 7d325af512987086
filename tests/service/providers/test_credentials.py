"""Keys that change while the server runs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from examples.upstream import Answer, Request, Upstream, token_stream
from tests.service.providers.collect import collect, request
from tests.service.providers.conftest import MakeProvider
from tests.service.providers.fake_provider import FakeProvider, answered, error
from tests.service.providers.held_clock import HeldClock
from turnkeeper_service.process.clock import SystemClock
from turnkeeper_service.providers.base import FailureReason
from turnkeeper_service.providers.options import Secret
from turnkeeper_service.providers.policy.credentials import Credential, RenewingProvider, key_command, key_file


def takes(key: str) -> Upstream:
    def handle(asked: Request) -> Answer:
        if asked.headers.get("authorization") != f"Bearer {key}":
            return Answer.error(401, '{"error":"no such key"}')
        return Answer(token_stream(2))

    return Upstream(handle)


@pytest.mark.asyncio
async def test_a_key_is_read_again_from_its_file(tmp_path: Path, make_provider: MakeProvider) -> None:
    path = tmp_path / "key"
    path.write_text("new-key-of-ours\n")
    async with takes("new-key-of-ours") as upstream:
        provider = make_provider(base_url=upstream.base_url, api_key="old-key-of-ours", key_source=key_file(path))
        for _ in range(2):
            assert (await collect(provider, request())).text() == "t0 t1 "
        sent = [asked.headers["authorization"] for asked in upstream.requests]
        assert sent == ["Bearer old-key-of-ours", "Bearer new-key-of-ours", "Bearer new-key-of-ours"]
        await provider.close()


@pytest.mark.asyncio
async def test_a_key_is_read_once_for_calls_that_fail_together(make_provider: MakeProvider) -> None:
    num_read = 0

    async def source() -> str:
        nonlocal num_read
        num_read += 1
        await asyncio.sleep(0)
        return "new-key-of-ours"

    async with takes("new-key-of-ours") as upstream:
        provider = make_provider(base_url=upstream.base_url, api_key="old-key-of-ours", key_source=source)
        answers = await asyncio.gather(*(collect(provider, request()) for _ in range(8)))
        assert {answer.text() for answer in answers} == {"t0 t1 "}
        assert num_read == 1
        await provider.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("content", ["old-key-of-ours", "", None])
async def test_without_another_key_the_refusal_stands(
    content: str | None, tmp_path: Path, make_provider: MakeProvider
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    async with takes("a third key") as upstream:
        provider = make_provider(base_url=upstream.base_url, api_key="old-key-of-ours", key_source=key_file(path))
        failed = (await collect(provider, request())).error
        assert failed is not None
        assert (failed.reason, failed.status) == (FailureReason.PROVIDER_UNAUTHENTICATED, 401)
        assert len(upstream.requests) == 1
        await provider.close()


@pytest.mark.asyncio
async def test_a_new_key_is_tried_once(tmp_path: Path, make_provider: MakeProvider) -> None:
    path = tmp_path / "key"
    path.write_text("new-key-of-ours")
    async with takes("a third key") as upstream:
        provider = make_provider(base_url=upstream.base_url, api_key="old-key-of-ours", key_source=key_file(path))
        assert (await collect(provider, request())).error is not None
        assert len(upstream.requests) == 2
        await provider.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("is_late", [True, False])
async def test_only_a_refusal_before_the_answer_renews(is_late: bool) -> None:
    refusal = error(FailureReason.PROVIDER_UNAUTHENTICATED, status=401 if is_late else 403, is_retryable=False)
    inner = FakeProvider([*answered()[:2], refusal] if is_late else [refusal])
    provider = RenewingProvider(inner, Credential(key_file(Path("/nowhere")), "k"))
    assert (await collect(provider, request())).error is refusal
    assert inner.num_opened == 1


@pytest.mark.asyncio
async def test_a_key_that_was_renewed_meanwhile_is_taken() -> None:
    async def source() -> str:
        return "new"

    credential = Credential(source, "old")
    assert await credential.renew(Secret("older"))
    assert credential.secret == Secret("old")
    assert await credential.renew(Secret("old"))
    assert credential.secret == Secret("new")
    assert not await credential.renew(Secret("new"))
    assert "new" not in repr(credential.secret)


def command(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.asyncio
async def test_a_command_prints_the_key() -> None:
    assert await key_command(command("print(' printed-key ')"), SystemClock())() == "printed-key"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(3)", "status 3"),
        ("print('x' * 100_000)", "more than a key"),
        (r"import os; os.write(1, b'\xff')", "utf-8"),
    ],
)
async def test_a_command_that_fails(code: str, words: str) -> None:
    source = key_command(command(code), SystemClock())
    with pytest.raises(ValueError, match=words):
        await source()
    assert not await Credential(source, "old").renew(Secret("old"))


@pytest.mark.asyncio
async def test_a_command_that_is_not_there() -> None:
    source = key_command(["/nowhere/at/all"], SystemClock())
    assert not await Credential(source, "old").renew(Secret("old"))


@pytest.mark.asyncio
async def test_a_command_that_hangs_is_killed(clock: HeldClock) -> None:
    source = key_command(command("import signal; signal.pause()"), clock, seconds=3)
    task: asyncio.Task[object] = asyncio.create_task(Credential(source, "old").renew(Secret("old")))
    assert await clock.advance_until(task, 1) >= 3
    assert await task is False


@pytest.mark.asyncio
async def test_a_cancel_ends_the_command(clock: HeldClock) -> None:
    task = asyncio.create_task(
        Credential(key_command(command("import signal; signal.pause()"), clock)).renew(Secret(""))
    )
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
