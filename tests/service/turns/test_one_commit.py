"""A prompt for an idle session is accepted and begun in one commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.dispatch.gated_store import GatedStore
from tests.service.dispatch.script import provider, reply
from tests.service.failure.stories import kinds, reason_of
from tests.service.harness import serving
from tests.service.turns.scenes import STEER
from turnkeeper_service.store.base import Commit


def accepts(commit: Commit) -> bool:
    """Whether a commit accepts a run."""
    return bool(commit.insert_runs)


@pytest.mark.asyncio
async def test_a_plain_turn_has_exactly_two_commits(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.session("s")
        before = server.server.commits()[0]
        await server.submit("s", "hello", "r")
        assert (await server.terminals("s", ["r"]))["r"].text == "hello"
        assert server.server.commits()[0] - before == 2
        assert kinds(await server.history("s"), "r") == [
            "run_accepted",
            "run_started",
            "message_committed",
            "step_started",
            "message_committed",
            "step_finished",
            "run_finished",
        ]


@pytest.mark.asyncio
async def test_a_cancel_before_the_accept_is_durable_asks_no_model(tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    async with serving(tmp_path, store=store) as server:
        await server.session("s")
        store.hold(accepts)
        submit = server.start_submit("s", "hello", "r")
        await store.came()
        cancel = server.start_cancel(run_id="r")
        await store.came(2)
        store.release()
        await submit
        receipt = await cancel
        assert [run.run_id for run in receipt.runs] == ["r"]
        outcome = (await server.terminals("s", ["r"]))["r"]
        assert reason_of(outcome) == "CANCELLED/USER"
        assert provider(server).num_calls == 0
        # Its step had begun: the prompt stays in context, with an answer that says that it was cut.
        assert [message.in_context for message in await server.messages("s")] == [True, True]
        assert kinds(await server.history("s"), "r").count("run_finished") == 1


@pytest.mark.asyncio
async def test_a_steer_before_the_accept_is_durable_folds_before_the_second_step(tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    async with serving(tmp_path, store=store) as server:
        await server.session("s")
        store.hold(accepts)
        submit = server.start_submit("s", reply("hello", gate="g"), "r")
        await store.came()
        steer = server.start_submit("s", "more", "s1", delivery=STEER)
        await store.came(2)
        store.release()
        await submit
        assert (await steer).steers_run_id == "r"
        server.gates.open("g")
        outcomes = await server.terminals("s", ["r", "s1"])
        assert reason_of(outcomes["s1"]).startswith("FOLDED")
        assert outcomes["r"].num_steps == 2
