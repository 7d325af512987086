"""Faults of ours in the middle of a turn: its run ends once, what was lent is given back, and the server goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.service.failure.stories import reason_of
from tests.service.harness import serving
from tests.service.turns.scenes import STEER, Tools, calls, scene, script
from turnkeeper_service.engine.context.transcript import Transcript
from turnkeeper_service.runs.planning import TurnPlanner
from turnkeeper_service.runs.turns.driven_turn import DrivenTurn


def broken(monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str) -> None:
    """Let a method fail the next time that it is called."""
    whole = getattr(owner, name)

    def fails(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, name, whole)
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(owner, name, fails)


@pytest.mark.asyncio
async def test_a_fault_between_a_fold_and_its_commit_gives_the_steer_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Tools()
    tools.held("look")
    async with scene(tmp_path, tools) as on:
        await on.server.submit("s", script(calls("look"), "never said"), "r")
        await tools.gates.reached("look")
        receipt = await on.server.submit("s", "steered", "s1", delivery=STEER)
        assert receipt.steers_run_id == "r"
        broken(monkeypatch, Transcript, "folds")
        tools.gates.open("look")
        outcomes = await on.server.terminals("s", ["r", "s1"])
        assert reason_of(outcomes["r"]) == "FAILED/INTERNAL"
        assert (reason_of(outcomes["s1"]), outcomes["s1"].text) == ("COMPLETED/ANSWERED", "steered")
        await on.idle()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("owner", "name"),
    [(TurnPlanner, "turn"), (TurnPlanner, "prepare"), (DrivenTurn, "write_end"), (DrivenTurn, "outcome")],
)
async def test_a_fault_in_planning_or_concluding_ends_that_run_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str
) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        server.places.hold("turn", "r")
        await server.submit("s", "first", "r")
        if name != "turn":
            await server.places.reached("turn", "r")
        broken(monkeypatch, owner, name)
        if name == "turn":
            await server.submit("s", "faulty", "f")
        server.places.release("turn", "r")
        run_id = "f" if name == "turn" else "r"
        await server.submit("s", "well", "w")
        outcomes = await server.terminals("s", [run_id, "w"])
        assert reason_of(outcomes[run_id]) == "FAILED/INTERNAL"
        assert (reason_of(outcomes["w"]), outcomes["w"].text) == ("COMPLETED/ANSWERED", "well")
        before = await server.history("s")
    async with serving(tmp_path) as server:
        await server.submit("s", "after", "a")
        assert (await server.terminals("s", ["a"]))["a"].text == "after"
        kinds = [event.WhichOneof("payload") for event in (await server.history("s"))[len(before) :]]
        assert kinds.count("step_started") == 1, "nothing of before is driven again"
