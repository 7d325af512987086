"""The HTTP side, and the metrics it shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from turnkeeper_service.http_status import HttpStatus
from turnkeeper_service.process.metrics import MAX_MODELS, Metrics, code_name


@asynccontextmanager
async def serving(status: HttpStatus) -> AsyncIterator[str]:
    host, port = await status.start()
    try:
        yield f"http://{host}:{port}"
    finally:
        await status.close()


async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.get(url) as response:
        return response.status, await response.text()


@pytest.mark.asyncio
async def test_readiness_follows_the_server_and_life_does_not() -> None:
    is_ready = False
    status = HttpStatus("127.0.0.1:0", Metrics(CollectorRegistry()), lambda: is_ready)
    async with serving(status) as url, aiohttp.ClientSession() as session:
        assert await get(session, f"{url}/readyz") == (503, "not serving\n")
        assert await get(session, f"{url}/livez") == (200, "ok\n")
        is_ready = True
        assert await get(session, f"{url}/readyz") == (200, "ok\n")
        is_ready = False
        assert (await get(session, f"{url}/readyz"))[0] == 503
        assert (await get(session, f"{url}/other"))[0] == 404


@pytest.mark.asyncio
async def test_life_is_shown_even_when_readiness_cannot_be_told() -> None:
    def broken() -> bool:
        raise RuntimeError("the store is gone")

    status = HttpStatus("127.0.0.1:0", Metrics(CollectorRegistry()), broken)
    async with serving(status) as url, aiohttp.ClientSession() as session:
        assert (await get(session, f"{url}/livez"))[0] == 200


@pytest.mark.asyncio
async def test_metrics_are_served_as_prometheus_reads_them() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.run_finished("completed", 0.2)
    async with serving(HttpStatus("127.0.0.1:0", metrics, lambda: True)) as url, aiohttp.ClientSession() as session:
        response = await session.get(f"{url}/metrics")
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    assert 'turnkeeper_runs_total{outcome="completed"} 1.0' in text.splitlines()


@pytest.mark.asyncio
async def test_a_taken_port_is_named_and_leaves_nothing_open() -> None:
    first = HttpStatus("127.0.0.1:0", Metrics(CollectorRegistry()), lambda: True)
    host, port = await first.start()
    second = HttpStatus(f"{host}:{port}", Metrics(CollectorRegistry()), lambda: True)
    with pytest.raises(OSError, match=f"^cannot listen for HTTP on 127.0.0.1:{port}: Address already in use$"):
        await second.start()
    await second.close()
    await first.close()
    await first.close()


@pytest.mark.asyncio
async def test_close_does_not_wait_for_a_connection_that_is_kept_open() -> None:
    status = HttpStatus("127.0.0.1:0", Metrics(CollectorRegistry()), lambda: True)
    host, port = await status.start()
    async with aiohttp.ClientSession() as session:
        assert (await get(session, f"http://{host}:{port}/livez"))[0] == 200
        await status.close()


def test_every_metric_is_there_under_its_name() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.run_started(0.001)
    metrics.run_finished("completed", 1.0)
    metrics.run_failed("provider_error")
    metrics.attempt_failed("process_lost")
    metrics.first_event(0.1)
    metrics.cancelled(0.01)
    metrics.watch_turns(lambda: 1)
    metrics.watch_queue(lambda: 7)
    metrics.reader_lag(3)
    metrics.commits(2)
    metrics.tokens("output", "p/m", 64)
    metrics.rpc("unary", "turnkeeper.v1.RunService", "SubmitRun").ended(code_name("INVALID_ARGUMENT"))
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }
    rpc = (
        ("grpc_method", "SubmitRun"),
        ("grpc_service", "turnkeeper.v1.RunService"),
        ("grpc_type", "unary"),
    )
    expected = {
        ("turnkeeper_runs_total", (("outcome", "completed"),)): 1,
        ("turnkeeper_failed_runs_total", (("reason", "provider_error"),)): 1,
        ("turnkeeper_failed_attempts_total", (("reason", "process_lost"),)): 1,
        ("turnkeeper_run_duration_seconds_count", ()): 1,
        ("turnkeeper_dispatch_wait_seconds_sum", ()): 0.001,
        ("turnkeeper_time_to_first_event_seconds_sum", ()): 0.1,
        ("turnkeeper_cancel_to_terminal_seconds_sum", ()): 0.01,
        ("turnkeeper_active_turns", ()): 1,
        ("turnkeeper_queue_depth", ()): 7,
        ("turnkeeper_subscriber_lag_events_sum", ()): 3,
        ("turnkeeper_store_commits_total", ()): 2,
        ("turnkeeper_tokens_total", (("model", "p/m"), ("type", "output"))): 64,
        ("grpc_server_started_total", rpc): 1,
        ("grpc_server_handled_total", (("grpc_code", "InvalidArgument"), *rpc)): 1,
        ("grpc_server_handling_seconds_count", rpc): 1,
    }
    assert {key: samples.get(key) for key in expected} == expected


def test_registries_are_apart_and_models_are_bounded() -> None:
    first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    for number in range(MAX_MODELS + 5):
        first.tokens("input", f"p/{number}", 1)
    assert b'model="p/0"' not in second.render()
    assert b'turnkeeper_tokens_total{model="other",type="input"} 5.0' in first.render()
    assert [code_name(name) for name in ("OK", "CANCELLED", "NOT_FOUND")] == ["OK", "Canceled", "NotFound"]


def test_the_page_lists_every_metric_in_its_own_words() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "operations.md"
    rows = [
        line for line in page.read_text().splitlines() if line.startswith(("| `turnkeeper_", "| `grpc_", "| `process_"))
    ]
    families = Metrics(CollectorRegistry()).registry.collect()
    ends = {"counter": "_total", "info": "_info"}
    names = [(one.name + ends.get(one.type, ""), one.documentation) for one in families]
    assert sorted(rows) == sorted(f"| `{name}` | {text} |" for name, text in names)
