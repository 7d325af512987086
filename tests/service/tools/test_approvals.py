"""Approvals: durable, seen by every client of the session, answered once, with a default in the end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.service.dispatch.gated_store import GatedStore
from tests.service.failure.stories import is_valid, kinds, reason_of, started_order
from tests.service.harness import Harness, Places, reason, serving
from tests.service.manual_clock import ManualClock
from tests.service.turns.scenes import STEER, STOP, Tools, call, calls, result_text, scene, script
from tests.service.wire.talk import Talk
from tests.service.wire.tokens import Caller, write_token_file
from turnkeeper.v1 import event_pb2, session_service_pb2
from turnkeeper_service.store.base import Commit
from turnkeeper_service.store.slots import slot_of

DAY = 86_400.0


def asking(*names: str) -> Tools:
    """Tools that ask first."""
    tools = Tools()
    tools.quick(*names, needs_approval=True)
    return tools


async def listed(server: Harness) -> list[session_service_pb2.Approval]:
    """The approvals of the session that wait."""
    response = await server.sessions.ListApprovals(session_service_pb2.ListApprovalsRequest(session_id="s"))
    return list(response.approvals)


def answer(approval_id: str, is_allowed: bool, comment: str = "") -> session_service_pb2.AnswerApprovalRequest:
    """An answer."""
    return session_service_pb2.AnswerApprovalRequest(
        session_id="s", approval_id=approval_id, is_allowed=is_allowed, comment=comment
    )


def asks(commit: Commit) -> bool:
    """Whether a commit holds the question for leave."""
    return any(event_pb2.Event.FromString(row.payload).HasField("approval_requested") for row in commit.events)


async def refusal(call: Any) -> str:
    """Why a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return reason(refused.value)


@pytest.mark.asyncio
async def test_a_call_that_is_denied_is_not_run_and_the_model_hears_why(tmp_path: Path) -> None:
    tools = asking("remove")
    tools.quick("look")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("remove", "look"), "done"), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        assert (asked.tool_call.name, asked.is_allowed_by_default) == ("remove", False)
        await on.server.sessions.AnswerApproval(answer(asked.approval_id, False, "not on a Friday"))
        assert (await on.watch.terminal("r")).text == "done"
        assert tools.ran == ["look"]
        assert on.told()[-1] == "remove: this call was not allowed: not on a Friday | look: look is done"
        resolved = (await on.watch.seen("r", "approval_resolved")).approval_resolved
        assert (resolved.is_allowed, resolved.actor, resolved.comment) == (False, "anonymous", "not on a Friday")
        skipped = (await on.watch.seen("r", "tool_call_skipped")).tool_call_skipped.result
        assert (skipped.name, skipped.is_error) == ("remove", True)
        assert await listed(on.server) == []


@pytest.mark.parametrize("default", ["deny", "allow"])
@pytest.mark.asyncio
async def test_an_approval_that_nobody_answers_has_its_default(tmp_path: Path, default: str) -> None:
    clock, tools = ManualClock(), asking("remove")
    async with scene(tmp_path, tools, clock=clock, tools__approval_default=default) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        assert asked.deadline.ToSeconds() == int(clock.time() + DAY)
        assert asked.is_allowed_by_default is (default == "allow")
        await clock.armed(DAY)
        clock.advance(DAY - 1)
        assert [one.approval_id for one in await listed(on.server)] == [asked.approval_id]
        clock.advance(1)
        assert (await on.watch.terminal("r")).text == "done"
        assert tools.ran == (["remove"] if default == "allow" else [])
        resolved = (await on.watch.seen("r", "approval_resolved")).approval_resolved
        assert (resolved.is_allowed, resolved.actor) == (default == "allow", "")
        late = await refusal(on.server.sessions.AnswerApproval(answer(asked.approval_id, True)))
        assert late == "APPROVAL_ANSWERED"


@pytest.mark.asyncio
async def test_an_approval_is_answered_once(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        several = [on.server.sessions.AnswerApproval(answer(asked.approval_id, allowed)) for allowed in (True, False)]
        given = await asyncio.gather(*several, return_exceptions=True)
        refused = [one for one in given if isinstance(one, grpc.aio.AioRpcError)]
        assert [reason(one) for one in refused] == ["APPROVAL_ANSWERED"]
        await on.watch.terminal("r")
        assert on.watch.of("r").count("approval_resolved") == 1
        resolved = (await on.watch.seen("r", "approval_resolved")).approval_resolved
        assert tools.ran == (["remove"] if resolved.is_allowed else [])
        again = await refusal(on.server.sessions.AnswerApproval(answer(asked.approval_id, True)))
        assert again == "APPROVAL_ANSWERED"
        unknown = await refusal(on.server.sessions.AnswerApproval(answer("nothing", True)))
        assert unknown == "APPROVAL_NOT_FOUND"


@pytest.mark.asyncio
async def test_an_approval_is_seen_and_answered_by_another_client_of_the_session(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools) as on:
        await on.server.session("other")
        talk = await Talk.open(on.server, "s", after_seq=0, client_name="second")
        stranger = await Talk.open(on.server, "other", client_name="stranger")
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        item = await talk.until(lambda item: item.event.HasField("approval_requested"))
        approval_id = item.event.approval_requested.approval_id
        assert [one.approval_id for one in await listed(on.server)] == [approval_id]
        # One session's approval is none of another's.
        frame = session_service_pb2.AnswerApprovalRequest(approval_id=approval_id, is_allowed=True)
        assert (await stranger.ask("a", answer_approval=frame)).HasField("error")
        receipt = (await talk.ask("a", answer_approval=frame)).receipt
        assert receipt.approval.approval.approval_id == approval_id
        assert (await talk.terminal("r")).text == "done"
        assert tools.ran == ["remove"]
        talk.cancel()
        stranger.cancel()


@pytest.mark.asyncio
async def test_a_session_or_a_run_may_allow_a_tool_ahead(tmp_path: Path) -> None:
    tools = asking("a", "b")
    async with scene(tmp_path, tools, session={"pre_approved_tools": ["a"]}) as on:
        await on.server.submit("s", script(calls("a", "b"), "done"), "r", pre_approved_tools=["b"])
        await on.watch.terminal("r")
        await on.server.submit("s", script(calls("a", "b"), "done"), "all", pre_approved_tools=["*"])
        await on.watch.terminal("all")
        assert tools.ran == ["a", "b", "a", "b"]
        assert "approval_requested" not in kinds(on.watch.events)
        # The run's own leave ends with it.
        await on.server.submit("s", script(calls("b"), "done"), "later")
        asked = (await on.watch.seen("later", "approval_requested")).approval_requested
        await on.server.sessions.AnswerApproval(answer(asked.approval_id, False))
        await on.watch.terminal("later")


@pytest.mark.spec("subturns:T114")
@pytest.mark.parametrize("how", ["steer", "stop"])
@pytest.mark.asyncio
async def test_what_comes_behind_a_call_that_somebody_answered_for_its_tool_is_skipped_too(
    tmp_path: Path, how: str
) -> None:
    """A denial answers a call in the place of its tool; a steer or a stop that came meanwhile skips what follows."""
    tools = asking("remove")
    tools.quick("look", "count")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("remove", "look", "count"), "done"), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        if how == "steer":
            await on.server.submit("s", "leave it", "steer", delivery=STEER)
        else:
            await on.server.cancel(run_id="r", mode=STOP)
        # What waits for somebody's leave is not skipped.
        assert [one.approval_id for one in await listed(on.server)] == [asked.approval_id]
        await on.server.sessions.AnswerApproval(answer(asked.approval_id, False))
        outcome = await on.watch.terminal("r")
        assert tools.ran == []
        why = "skipped: a message of the user came first" if how == "steer" else "skipped: the run was asked to stop"
        results = await on.results()
        assert {call_id: result_text(one) for call_id, one in results.items()} == {
            "id-remove": "this call was not allowed",
            "id-look": why,
            "id-count": why,
        }
        assert [one.is_synthetic for one in results.values()] == [False, True, True]
        assert on.watch.of("r").count("tool_call_skipped") == 3
        if how == "steer":
            assert (reason_of(outcome), outcome.text) == ("COMPLETED/ANSWERED", "leave it")
            assert on.offered(1) == ["count", "look", "remove"]
        else:
            assert (reason_of(outcome), outcome.num_steps) == ("COMPLETED/STOPPED", 2)
            assert on.offered(1) == []
        assert is_valid(await on.server.messages("s"))


@pytest.mark.asyncio
async def test_a_cancelled_run_waits_for_no_approval(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("remove"), "never"), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        await on.server.cancel(run_id="r")
        assert reason_of(await on.watch.terminal("r")) == "CANCELLED/USER"
        assert await listed(on.server) == []
        late = await refusal(on.server.sessions.AnswerApproval(answer(asked.approval_id, True)))
        assert late == "APPROVAL_ANSWERED"
        assert tools.ran == []
        assert is_valid(await on.server.messages("s"))


@pytest.mark.asyncio
async def test_nothing_is_answered_after_the_terminal_of_its_run(tmp_path: Path) -> None:
    """The question is durable only when its run's time is over, and the terminal is handed over and not durable yet."""
    clock, tools, store = ManualClock(), asking("remove"), GatedStore(tmp_path)
    async with scene(tmp_path, tools, clock=clock, store=store, defaults__run_timeout_seconds="600") as on:
        store.hold(asks)
        await on.server.submit("s", script(calls("remove"), "never"), "r")
        await store.came()
        clock.advance(600)
        # Its turn is cut behind what was submitted before.
        store.release()
        store.hold(lambda commit: bool(commit.finish_runs))
        await store.came()
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        assert await listed(on.server) == []
        late = await refusal(on.server.sessions.AnswerApproval(answer(asked.approval_id, True)))
        assert late == "APPROVAL_ANSWERED"
        store.release()
        assert reason_of(await on.watch.terminal("r")) == "FAILED/RUN_DEADLINE"
        await on.watch.quiet()
        assert "approval_resolved" not in on.watch.of("r")
        assert on.watch.of("r")[-1] == "run_finished"


@pytest.mark.asyncio
async def test_an_approval_waits_over_a_restart_with_its_old_deadline(tmp_path: Path) -> None:
    clock, tools = ManualClock(), asking("remove")
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        for number in range(3):
            await on.server.submit("s", f"text {number}", f"q{number}")
        clock.advance(DAY / 2)
    async with scene(tmp_path, tools, clock=clock, is_new=False) as on:
        await clock.armed(DAY / 2)
        (waiting,) = await listed(on.server)
        assert waiting.approval_id == asked.approval_id
        assert waiting.deadline == asked.deadline
        clock.advance(DAY / 2)
        outcome = await on.watch.terminal("r")
        assert (outcome.text, outcome.num_steps) == ("done", 2)
        assert [(await on.watch.terminal(f"q{number}")).text for number in range(3)] == ["text 0", "text 1", "text 2"]
        assert started_order(on.watch.events) == ["r", "q0", "q1", "q2"]
        assert on.watch.of("r").count("approval_requested") == 1
        assert result_text((await on.results())["id-remove"]) == "this call was not allowed"
        assert tools.ran == []


@pytest.mark.asyncio
async def test_an_approval_whose_deadline_passed_while_nobody_ran_has_its_default(tmp_path: Path) -> None:
    clock, tools = ManualClock(), asking("remove")
    async with scene(tmp_path, tools, clock=clock) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        await on.watch.seen("r", "approval_requested")
    clock.advance(2 * DAY)
    # It is the default that was announced, whatever the settings say now.
    async with scene(tmp_path, tools, clock=clock, is_new=False, tools__approval_default="allow") as on:
        await clock.armed(0)
        clock.advance(0)
        assert (await on.watch.terminal("r")).text == "done"
        assert tools.ran == []


@pytest.mark.asyncio
async def test_an_approval_that_waits_over_a_restart_can_be_answered(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
    async with scene(tmp_path, tools, is_new=False) as on:
        await on.server.sessions.AnswerApproval(answer(asked.approval_id, True))
        assert (await on.watch.terminal("r")).text == "done"
        assert tools.ran == ["remove"]


@pytest.mark.asyncio
async def test_what_an_earlier_process_has_answered_is_answered(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools) as on:
        await on.server.session("other")
        ids = []
        for run_id in ("allowed", "cancelled"):
            await on.server.submit("s", script(calls("remove"), "done"), run_id)
            ids.append((await on.watch.seen(run_id, "approval_requested")).approval_requested.approval_id)
            if run_id == "allowed":
                await on.server.sessions.AnswerApproval(answer(ids[-1], True))
            else:
                await on.server.cancel(run_id=run_id)
            await on.watch.terminal(run_id)
    async with scene(tmp_path, tools, is_new=False) as on:
        for approval_id in ids:
            late = on.server.sessions.AnswerApproval(answer(approval_id, True))
            assert await refusal(late) == "APPROVAL_ANSWERED"
        seq = ids[0].split("-")[1]
        for unknown in ("nothing", f"approval-{seq}-00", "approval-1-00", f"approval-{10**17}-00", ids[0] + "\n"):
            assert await refusal(on.server.sessions.AnswerApproval(answer(unknown, True))) in (
                "APPROVAL_NOT_FOUND",
                "INVALID_ID",
            )
        elsewhere = session_service_pb2.AnswerApprovalRequest(session_id="other", approval_id=ids[0])
        assert await refusal(on.server.sessions.AnswerApproval(elsewhere)) == "APPROVAL_NOT_FOUND"


@pytest.mark.asyncio
async def test_an_approval_can_be_answered_before_its_run_goes_on_after_a_restart(tmp_path: Path) -> None:
    tools = asking("remove")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("remove"), "done"), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
    places = Places()
    places.hold("turn", "r")
    async with scene(tmp_path, tools, is_new=False, places=places) as on:
        await places.reached("turn", "r")
        assert [one.approval_id for one in await listed(on.server)] == [asked.approval_id]
        await on.server.sessions.AnswerApproval(answer(asked.approval_id, True))
        assert await listed(on.server) == []
        again = await refusal(on.server.sessions.AnswerApproval(answer(asked.approval_id, False)))
        assert again == "APPROVAL_ANSWERED"
        places.release("turn", "r")
        assert (await on.watch.terminal("r")).text == "done"
        assert tools.ran == ["remove"]
        resolved = await on.watch.seen("r", "approval_resolved")
        assert resolved.turn_id == (await on.watch.seen("r", "approval_requested")).turn_id


@pytest.mark.asyncio
async def test_leave_for_one_call_is_no_leave_for_a_later_one_with_the_same_id(tmp_path: Path) -> None:
    """Ids of calls are unique in their message only; what was allowed before a restart is that one call."""
    tools = asking("remove")
    tools.held("slow")
    step = {"tool_calls": [call("remove", "same"), call("slow", "other")]}
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(step, {"tool_calls": [call("remove", "same")]}, "done"), "r")
        asked = (await on.watch.seen("r", "approval_requested")).approval_requested
        await on.server.sessions.AnswerApproval(answer(asked.approval_id, True))
        await tools.gates.reached("slow")
    tools.gates.open("slow")
    async with scene(tmp_path, tools, is_new=False) as on:
        second = await on.watch.until(
            lambda event: (
                event.HasField("approval_requested") and event.approval_requested.approval_id != asked.approval_id
            )
        )
        assert tools.ran == ["remove", "slow"]
        await on.server.sessions.AnswerApproval(answer(second.approval_requested.approval_id, False))
        assert (await on.watch.terminal("r")).text == "done"
        assert tools.ran == ["remove", "slow"]


@pytest.mark.asyncio
async def test_a_reader_may_not_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, **write_token_file(tmp_path)) as server:
        anna = Caller(server.channel, "anna")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anna.call("SessionService.AnswerApproval", answer("nothing", True))
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.asyncio
async def test_a_page_of_approvals_follows_the_one_before_in_the_next_process(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("a", "b", "c", needs_approval=True, is_parallel=True)
    page = session_service_pb2.ListApprovalsRequest(session_id="s", page_size=1)
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("a", "b", "c"), "done"), "r")
        await on.watch.until(lambda _: on.watch.of("r").count("approval_requested") == 3)
        first = await on.server.sessions.ListApprovals(page)
        page.page_token = first.next_page_token
    # What the server minted of a session begins with its slot.
    prefix = f"s{slot_of('default', 's'):03x}."
    assert first.approvals[0].approval_id.startswith(f"{prefix}approval-")
    assert on.watch.events[-1].turn_id.startswith(f"{prefix}turn-")
    async with scene(tmp_path, tools, is_new=False) as on:
        before = [one.approval_id for one in await listed(on.server)]
        assert [one.approval_id for one in first.approvals] == before[:1]
        # What is answered since is missing, and nothing else.
        await on.server.sessions.AnswerApproval(answer(before[0], True))
        second = await on.server.sessions.ListApprovals(page)
        page.page_token = second.next_page_token
        third = await on.server.sessions.ListApprovals(page)
        assert [one.approval_id for one in (*second.approvals, *third.approvals)] == before[1:]
        assert third.next_page_token == ""
        for approval_id in before[1:]:
            await on.server.sessions.AnswerApproval(answer(approval_id, True))
        assert (await on.watch.terminal("r")).text == "done"
