"""Tool servers that are child processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.service.harness import load_settings, serving
from tests.service.manual_clock import ManualClock
from tests.service.mcp.gate import Gate
from tests.service.mcp.own_server import PICTURE
from tests.service.mcp.turns import calling, connected, on_stdio, results, script, text
from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.tools.functions import FunctionTool
from turnkeeper_service.tools.mcp.server import FIRST_BACKOFF


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.asyncio
async def test_a_turn_calls_tools_of_a_child_process_and_sees_it_learn_one(tmp_path: Path) -> None:
    async with Gate(tmp_path) as gate:
        async with serving(tmp_path, settings=load_settings(tmp_path, **on_stdio(gate.path))) as server:
            await server.session("s")
            prompt = script(
                calling(("own_add", {"a": 1, "b": 2}), ("own_picture", {}), ("own_fail", {}), ("own_refuse", {})),
                calling(("own_variable", {"name": "COLOUR"}), ("own_grow", {}), ("own_unknown", {})),
                calling(("own_extra", {})),
                calling(("own_hold", {"what": "alive"})),
            )
            await server.submit("s", prompt, run_id="r")
            asked = await gate.reached("alive")
            gate.open()
            assert (await server.terminals("s", ["r"]))["r"].text == "done"
            found = await results(server, "s")
            assert text(found["own_add"]) == "3"
            look, picture = found["own_picture"].content
            assert (look.text.text, picture.media.mime_type, picture.media.data) == ("look:", "image/png", PICTURE)
            assert found["own_fail"].is_error
            assert "out of paper" in text(found["own_fail"])
            assert (found["own_refuse"].is_error, text(found["own_refuse"])) == (True, "nobody may call this")
            assert text(found["own_variable"]) == "blue"
            assert (found["own_unknown"].is_error, text(found["own_unknown"])) == (
                True,
                "there is no tool 'own_unknown'",
            )
            assert (text(found["own_grow"]), text(found["own_extra"])) == ("there is more now", "grown up")
            assert not any(found[name].is_synthetic for name in found)
            # The server can tell a call that is handed out again from a new one.
            messages = [message for message in await server.messages("s") if message.role == content_pb2.ROLE_ASSISTANT]
            assert asked.key == f"s:r:{messages[3].message_id}:own_hold"
            assert is_alive(asked.process)
        assert not is_alive(asked.process)


@pytest.mark.asyncio
async def test_a_cancel_reaches_the_child_and_its_death_in_mid_call_is_an_error_result(tmp_path: Path) -> None:
    clock = ManualClock()
    tools = {"other": FunctionTool(lambda: "", name="other").offered()}
    async with (
        Gate(tmp_path) as gate,
        serving(tmp_path, clock=clock, tools=tools, settings=load_settings(tmp_path, **on_stdio(gate.path))) as server,
    ):
        await server.session("s")
        await server.submit("s", script(calling(("own_hold", {"what": "first"}))), run_id="cancelled")
        first = await gate.reached("first")
        await server.cancel(run_id="cancelled")
        outcome = (await server.terminals("s", ["cancelled"]))["cancelled"]
        assert outcome.status == event_pb2.OUTCOME_STATUS_CANCELLED
        assert (await gate.reached("cancelled first")).process == first.process

        # The same process serves on. It dies with a call in flight.
        prompt = script(calling(("own_hold", {"what": "second"})), calling(("own_add", {"a": 1, "b": 1})))
        await server.submit("s", prompt, run_id="killed")
        second = await gate.reached("second")
        assert second.process == first.process
        os.kill(second.process, signal.SIGKILL)
        assert (await server.terminals("s", ["killed"]))["killed"].text == "done"
        found = await results(server, "s")
        lost = "the tool server 'own' was lost during this call; whether it took effect is unknown"
        assert (found["own_hold"].is_error, found["own_hold"].is_synthetic) == (True, True)
        assert text(found["own_hold"]) == lost
        # It is not offered as long as it is not there; then it is again.
        assert text(found["own_add"]) == "there is no tool 'own_add'"
        await clock.armed(FIRST_BACKOFF)
        clock.advance(FIRST_BACKOFF)
        await connected(server)
        await server.submit("s", script(calling(("own_add", {"a": 2, "b": 2}))), run_id="again")
        await server.terminals("s", ["again"])
        assert text((await results(server, "s"))["own_add"]) == "4"


@pytest.mark.asyncio
async def test_a_call_that_changes_the_tools_ends_when_the_next_step_can_have_them(tmp_path: Path) -> None:
    async with (
        Gate(tmp_path) as gate,
        serving(tmp_path, settings=load_settings(tmp_path, **on_stdio(gate.path))) as server,
    ):
        await server.session("s")
        await server.session("sentinel")
        prompt = script(calling(("own_grow", {"asks": True})), calling(("own_extra", {})))
        await server.submit("s", prompt, run_id="r")
        await gate.reached("list")
        # The server has answered the call and does not yet tell its tools. A whole turn elsewhere changes nothing.
        await server.submit("sentinel", "hello", run_id="other")
        await server.terminals("sentinel", ["other"])
        assert not any(one.HasField("tool_call_finished") for one in await server.history("s"))
        gate.open()
        await server.terminals("s", ["r"])
        found = await results(server, "s")
        assert (text(found["own_grow"]), text(found["own_extra"])) == ("there is more now", "grown up")
