"""Model calls that fail and are made again (C-93): when, how often, by which model, and what readers see of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.service.dispatch.script import provider
from tests.service.dispatch.watch import watching
from tests.service.failure.stories import kinds, reason_of
from tests.service.harness import Harness, serving
from tests.service.manual_clock import ManualClock
from turnkeeper.v1 import event_pb2, run_service_pb2

WAITS: dict[str, Any] = {"retries__max_retries": "2", "retries__first_delay_seconds": "7", "retries__jitter": "0"}
"""Seven seconds, a time that nothing else waits for."""
FAILS = {"fail": "PROVIDER_ERROR", "status": 500, "retryable": True}


def failing(*attempts: dict[str, Any], **last: Any) -> str:
    """A prompt whose step fails so, attempt by attempt, and then is answered so."""
    return json.dumps({"attempts": list(attempts), **(last or {"text": "well"})})


async def end_of(server: Harness, run_id: str = "r") -> event_pb2.Outcome:
    """The run's terminal."""
    return (await server.terminals("s", [run_id]))[run_id]


def retries(events: list[event_pb2.Event]) -> list[tuple[int, float, str]]:
    """What was scheduled: (attempt, seconds, model)."""
    return [
        (event.attempt, event.retry_scheduled.delay.ToNanoseconds() / 1e9, event.retry_scheduled.model)
        for event in events
        if event.HasField("retry_scheduled")
    ]


@pytest.mark.asyncio
@pytest.mark.spec("subturns:T95")
async def test_one_server_error_and_then_an_answer(tmp_path: Path) -> None:
    async with serving(
        tmp_path, retries__max_retries="1", retries__first_delay_seconds="0.001", retries__jitter="0"
    ) as server:
        await server.session("s")
        await server.submit("s", failing(FAILS), "r")
        outcome = await end_of(server)
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "well")
        assert provider(server).num_calls == 2
        # The error that was overcome is told, and both calls are counted.
        assert [(one.reason, one.http_status) for one in outcome.errors] == [
            (event_pb2.OUTCOME_REASON_PROVIDER_ERROR, 500)
        ]
        assert outcome.usage.own.num_calls == 2
        history = await server.history("s")
        assert kinds(history, "r") == [
            "run_accepted",
            "run_started",
            "message_committed",
            "step_started",
            "attempt_discarded",
            "retry_scheduled",
            "message_committed",
            "step_finished",
            "run_finished",
        ]
        assert retries(history) == [(2, 0.001, "scripted/echo")]


@pytest.mark.asyncio
@pytest.mark.spec("subturns:T98", "subturns:T99")
async def test_retries_wait_as_configured_and_end(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, **WAITS) as server:
        await server.session("s")
        await server.submit("s", json.dumps(FAILS), "r")
        for seconds, num_calls in ((7.0, 1), (14.0, 2)):
            await clock.armed(seconds)
            assert provider(server).num_calls == num_calls
            holds = {hold.label for hold in (await server.run_view("r")).holds}
            assert "retry" in holds
            clock.advance(seconds)
        outcome = await end_of(server)
        assert reason_of(outcome) == "FAILED/PROVIDER_ERROR"
        assert provider(server).num_calls == 3
        assert len(outcome.errors) == 3
        assert [seconds for _, seconds, _ in retries(await server.history("s"))] == [7.0, 14.0]


@pytest.mark.asyncio
async def test_the_vendors_hint_takes_the_place_of_the_back_off(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, **WAITS) as server:
        await server.session("s")
        limited = {"fail": "PROVIDER_RATE_LIMITED", "status": 429, "retryable": True, "retry_after": 17.0}
        await server.submit("s", failing(limited), "r")
        await clock.armed(17.0)
        clock.advance(17.0)
        assert (await end_of(server)).text == "well"


@pytest.mark.asyncio
async def test_a_final_error_is_not_tried_again(tmp_path: Path) -> None:
    async with serving(tmp_path, retries__max_retries="3") as server:
        await server.session("s")
        await server.submit("s", json.dumps({"fail": "PROVIDER_REFUSED", "status": 400}), "r")
        assert reason_of(await end_of(server)) == "FAILED/PROVIDER_REFUSED"
        assert provider(server).num_calls == 1


@pytest.mark.asyncio
async def test_what_a_failed_attempt_has_shown_is_taken_back(tmp_path: Path) -> None:
    """No delta of the next attempt comes before the discard, and the message is the last attempt's alone."""
    async with serving(
        tmp_path,
        retries__max_retries="1",
        retries__first_delay_seconds="0.001",
        limits__partial_flush_bytes="1",
    ) as server:
        await server.session("s")
        request = run_service_pb2.RunRequest()
        request.submission.session_id, request.submission.run_id = "s", "r"
        request.submission.prompt.add().text.text = failing(
            {**FAILS, "text": "half an ans", "fail_after": 2, "gate": "followed"}, text="whole"
        )
        shown: dict[int, str] = {}
        discarded = False
        async for response in server.runs.Run(request):
            server.gates.open("followed")
            item = response.item
            if item.HasField("delta"):
                assert item.delta.offset == len(shown.get(item.delta.attempt, ""))
                shown[item.delta.attempt] = shown.get(item.delta.attempt, "") + item.delta.text
                assert item.delta.attempt == (2 if discarded else 1)
            elif item.event.HasField("attempt_discarded"):
                assert item.event.attempt_discarded.usage.output_tokens > 0
                discarded = True
        assert discarded
        assert shown == {1: "half an ", 2: "whole"}
        answer = (await server.messages("s"))[-1]
        assert [part.text.text for part in answer.parts] == ["whole"]
        assert await server.server.runs.parts.store.read_partials("default", "r") == []


@pytest.mark.asyncio
async def test_a_cancel_ends_the_wait_for_a_retry(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, **WAITS) as server:
        await server.session("s")
        await server.submit("s", json.dumps(FAILS), "r")
        await clock.armed(7.0)
        receipt = await server.cancel(run_id="r", wait=True)
        assert reason_of(receipt.runs[0].outcome) == "CANCELLED/USER"
        assert len(receipt.runs[0].outcome.errors) == 1
        assert provider(server).num_calls == 1
        # The attempt that was waited for was never made.
        assert receipt.runs[0].outcome.usage.own.num_calls == 1


@pytest.mark.asyncio
async def test_a_steer_during_the_wait_folds_after_the_answer(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, **WAITS) as server:
        await server.session("s")
        async with watching(server, "s") as watch:
            await server.submit("s", failing(FAILS, text="first"), "r")
            await clock.armed(7.0)
            await server.submit("s", "and more", "steer", delivery=event_pb2.DELIVERY_STEER)
            clock.advance(7.0)
            outcome = await watch.terminal("r")
        assert (reason_of(outcome), outcome.text, outcome.num_steps) == ("COMPLETED/ANSWERED", "and more", 2)


@pytest.mark.asyncio
async def test_retries_go_on_after_a_restart(tmp_path: Path) -> None:
    """The wait goes on, what was overcome is remembered; the budget of attempts is the new process's."""
    clock = ManualClock()
    options: dict[str, Any] = {**WAITS, "retries__max_retries": "1"}
    async with serving(tmp_path, clock=clock, **options) as server:
        await server.session("s")
        await server.submit("s", failing(FAILS), "r")
        await clock.armed(7.0)
        await server.server.drain(0.0)
    async with serving(tmp_path, clock=ManualClock(), **options) as server:
        manual = server.server.runs.parts.clock
        assert isinstance(manual, ManualClock)
        await manual.armed(7.0)
        assert provider(server).num_calls == 0
        assert "retry" in {hold.label for hold in (await server.run_view("r")).holds}
        manual.advance(7.0)
        # Its first call here fails again, by its script.
        await manual.armed(7.0, 2)
        manual.advance(7.0)
        outcome = await end_of(server)
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "well")
        assert len(outcome.errors) == 2
        discards = [event for event in await server.history("s") if event.HasField("attempt_discarded")]
        assert [(one.attempt, one.attempt_discarded.cause) for one in discards] == [
            (1, "PROVIDER_ERROR"),
            (2, "PROVIDER_ERROR"),
        ]


CHAIN: dict[str, Any] = {**WAITS, 'models__"scripted/echo"__fallbacks': '["scripted/lorem-3"]'}


@pytest.mark.asyncio
async def test_another_model_answers_at_once(tmp_path: Path) -> None:
    """The step's model and cost are those of the one that answered; the one that failed stands back for a while."""
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, **CHAIN) as server:
        await server.session("s")
        down = json.dumps({"by_model": {"echo": FAILS}, "text": "from another"})
        await server.submit("s", down, "r")
        outcome = await end_of(server)
        assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "from another")
        assert retries(await server.history("s")) == [(2, 0.0, "scripted/lorem-3")]
        assert [(one.model, one.usage.num_calls) for one in outcome.usage.models] == [
            ("scripted/echo", 1),
            ("scripted/lorem-3", 1),
        ]
        assert (await server.messages("s"))[-1].model == "scripted/lorem-3"
        await server.submit("s", "while it cools", "cool")
        assert (await end_of(server, "cool")).text == "w0 w1 w2 "
        clock.advance(60.0)
        await server.submit("s", "it is back", "back")
        assert (await end_of(server, "back")).text == "it is back"


@pytest.mark.asyncio
async def test_a_chain_that_is_through_begins_again_after_the_back_off(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, **CHAIN) as server:
        await server.session("s")
        await server.submit("s", json.dumps({"attempts": [FAILS], "text": "the second time"}), "r")
        await clock.armed(7.0)
        assert provider(server).num_calls == 2
        clock.advance(7.0)
        outcome = await end_of(server)
        assert (outcome.text, len(outcome.errors)) == ("the second time", 2)
        assert [(attempt, seconds) for attempt, seconds, _ in retries(await server.history("s"))] == [
            (2, 0.0),
            (3, 7.0),
        ]


@pytest.mark.asyncio
async def test_a_request_that_is_refused_as_such_is_not_passed_on(tmp_path: Path) -> None:
    async with serving(tmp_path, **CHAIN) as server:
        await server.session("s")
        await server.submit("s", json.dumps({"fail": "PROVIDER_REFUSED", "status": 400}), "r")
        assert reason_of(await end_of(server)) == "FAILED/PROVIDER_REFUSED"
        assert provider(server).num_calls == 1
