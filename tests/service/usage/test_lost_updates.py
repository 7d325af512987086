"""What a session has used adds up, whatever is written at the same time (W-30)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.dispatch.gated_store import GatedStore, ends
from tests.service.dispatch.script import at_gate, reply
from tests.service.dispatch.watch import COMPLETED
from tests.service.titles.stage import GATED, SMALL, seen, titled, told
from turnkeeper.v1 import session_service_pb2
from turnkeeper_service.store.base import Commit

STEP = {"input_tokens": 1000, "output_tokens": 2000}
PRICES = "\n".join(
    f'[models."{model}"]\ninput_usd_per_million = 10\noutput_usd_per_million = 20' for model in ("scripted/echo", SMALL)
)
STEP_USD, TITLE_USD = 0.05, 0.00038


def gives_title(commit: Commit) -> bool:
    """Whether a commit holds a title."""
    return bool(commit.session_title)


def costs(session: session_service_pb2.Session) -> dict[str, float]:
    """What a session has paid, in all and for each model."""
    each = {entry.model: entry.usage.cost_usd for entry in session.usage.models}
    return {"all": session.usage.own.cost_usd, **each}


@pytest.mark.parametrize(("held", "is_title_first"), [(ends("r"), False), (gives_title, True)])
@pytest.mark.spec("dispatch:G-15")
@pytest.mark.asyncio
async def test_a_title_and_a_step_that_are_written_at_the_same_time_both_stay(
    tmp_path: Path, held: Callable[[Commit], bool], is_title_first: bool
) -> None:
    (tmp_path / "turnkeeper.toml").write_text(PRICES)
    store = GatedStore(tmp_path)
    async with titled(tmp_path, GATED, store=store) as (server, watch):
        await server.submit("s", reply("done", usage=STEP, gate="step"), "r")
        await at_gate(server, "title")
        await at_gate(server, "step")
        # Each has read the session when the other's write is not done.
        store.hold(held)
        first, second = ("title", "step") if is_title_first else ("step", "title")
        server.gates.open(first)
        await store.came(1)
        server.gates.open(second)
        await store.came(2)
        store.release()
        assert (await watch.terminal("r")).status == COMPLETED
        assert await told(watch) == "A good title"
        expected = {"all": STEP_USD + TITLE_USD, "scripted/echo": STEP_USD, SMALL: TITLE_USD}
        assert costs(await seen(server)) == pytest.approx(expected)
    async with titled(tmp_path, GATED, is_new=False) as (server, _):
        session = await seen(server)
        assert session.title == "A good title"
        assert costs(session) == pytest.approx(expected)
        assert (session.usage.own.input_tokens, session.usage.own.output_tokens) == (1030, 2004)
