"""Tool servers over streamable HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.upstream import Upstream
from tests.service.harness import load_settings, serving
from tests.service.manual_clock import ManualClock
from tests.service.mcp.gate import Gate
from tests.service.mcp.over_http import OverHttp
from tests.service.mcp.own_server import INSTRUCTIONS, build
from tests.service.mcp.turns import Hasty, at_address, calling, connected, event, results, script, text
from turnkeeper.v1 import session_service_pb2
from turnkeeper_service.tools.functions import FunctionTool

OTHER = {"other": FunctionTool(lambda: "", name="other").offered()}
"""Keeps tools in the session when those of a server are gone."""


@pytest.mark.asyncio
async def test_the_request_to_the_model_has_the_tools_and_instructions_that_the_session_uses(
    tmp_path: Path,
) -> None:
    async with Gate(tmp_path) as gate, OverHttp(build(gate.path)) as own, Upstream() as upstream:
        provider = {"providers__up__format": "openai-chat", "providers__up__base_url": upstream.base_url}
        server_of_tools = at_address(own.url, prefix="x-", headers=json.dumps({"x-key": "open sesame"}))
        async with serving(
            tmp_path, tools=OTHER, settings=load_settings(tmp_path, **provider, **server_of_tools)
        ) as server:
            await server.session("all", model="up/tokens-2", system_prompt="Be brief.")
            await server.submit("all", run_id="r1")
            await server.session("some", model="up/tokens-2", system_prompt="Be brief.", tools=["other"])
            await server.submit("some", run_id="r2")
            await server.terminals("all", ["r1"])
            await server.terminals("some", ["r2"])
        requests = {len(body["tools"]): body for body in (json.loads(one.body) for one in upstream.requests)}
        some, everything = requests.pop(1), requests.popitem()[1]
        assert everything["messages"][0]["content"] == f"Be brief.\n\n{INSTRUCTIONS}"
        offered = {one["function"]["name"]: one["function"] for one in everything["tools"]}
        assert {"other", "x-add", "x-hold"} <= offered.keys()
        assert offered["x-add"]["description"] == "Add two numbers."
        assert set(offered["x-add"]["parameters"]["required"]) == {"a", "b"}
        # A session without any of its tools is not told what to do with them.
        assert some["messages"][0]["content"] == "Be brief."
        assert {headers.get("x-key") for headers in own.headers} == {"open sesame"}


@pytest.mark.asyncio
async def test_tools_that_change_during_a_turn_are_there_at_its_next_step(tmp_path: Path) -> None:
    async with (
        Gate(tmp_path) as gate,
        OverHttp(own_server := build(gate.path)) as own,
        serving(tmp_path, settings=load_settings(tmp_path, **at_address(own.url))) as server,
    ):
        await server.session("s")
        prompt = script(calling(("own_grow", {}), gate="first"), calling(("own_extra", {}), gate="second"))
        await server.submit("s", prompt, run_id="r")
        server.gates.open("first")
        await server.gates.reached("second")
        # Over HTTP the change comes on a stream of its own, perhaps after the call's result.
        await connected(server, "own_extra")
        own_server.remove_tool("add")
        server.gates.open("second")
        await server.terminals("s", ["r"])
        assert text((await results(server, "s"))["own_extra"]) == "grown up"


@pytest.mark.asyncio
async def test_a_server_that_goes_in_mid_call_is_an_error_result_and_is_found_again(tmp_path: Path) -> None:
    async with Gate(tmp_path) as gate, OverHttp(build(gate.path)) as own:
        settings = load_settings(tmp_path, **at_address(own.url))
        async with serving(tmp_path, clock=Hasty(), tools=OTHER, settings=settings) as server:
            await server.session("s")
            prompt = script(calling(("own_hold", {"what": "it"})), calling(("own_add", {"a": 1, "b": 1}), gate="gone"))
            await server.submit("s", prompt, run_id="r")
            await gate.reached("it")
            await own.stop()
            await connected(server, is_offered=False)
            server.gates.open("gone")
            assert (await server.terminals("s", ["r"]))["r"].text == "done"
            found = await results(server, "s")
            assert (found["own_hold"].is_error, found["own_hold"].is_synthetic) == (True, True)
            assert "was lost during this call" in text(found["own_hold"])
            assert text(found["own_add"]) == "there is no tool 'own_add'"
            async with OverHttp(build(gate.path), own.port):
                await connected(server)
                await server.submit("s", script(calling(("own_add", {"a": 2, "b": 2}))), run_id="again")
                await server.terminals("s", ["again"])
                assert text((await results(server, "s"))["own_add"]) == "4"
                await server.server.close()


@pytest.mark.asyncio
async def test_a_call_has_its_time_and_is_taken_back_after_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        Gate(tmp_path) as gate,
        OverHttp(build(gate.path)) as own,
        serving(
            tmp_path, clock=clock, settings=load_settings(tmp_path, **at_address(own.url, timeout_seconds="7"))
        ) as server,
    ):
        await server.session("s")
        await server.submit("s", script(calling(("own_hold", {"what": "it"}))), run_id="r")
        await gate.reached("it")
        clock.advance(7)
        await gate.reached("cancelled it")
        assert (await server.terminals("s", ["r"]))["r"].text == "done"
        found = await results(server, "s")
        assert text(found["own_hold"]) == "the tool did not answer within 7 seconds"
        assert found["own_hold"].is_synthetic


@pytest.mark.asyncio
async def test_only_the_tools_that_are_named_ask_first(tmp_path: Path) -> None:
    async with (
        Gate(tmp_path) as gate,
        OverHttp(build(gate.path)) as own,
        serving(tmp_path, settings=load_settings(tmp_path, **at_address(own.url, needs_approval='["add"]'))) as server,
    ):
        await server.session("s")
        prompt = script(calling(("own_variable", {"name": "NONE"}), ("own_add", {"a": 3, "b": 4})))
        await server.submit("s", prompt, run_id="r")
        approval = (await event(server, "s", "approval_requested")).approval_requested
        assert approval.tool_call.name == "own_add"
        answer = session_service_pb2.AnswerApprovalRequest(
            session_id="s", approval_id=approval.approval_id, is_allowed=True
        )
        await server.sessions.AnswerApproval(answer)
        await server.terminals("s", ["r"])
        found = await results(server, "s")
        assert (text(found["own_variable"]), text(found["own_add"])) == ("not set", "7")
        history = await server.history("s")
        assert sum(one.HasField("approval_requested") for one in history) == 1
