"""Table G of the dispatch rows: readers that stall, and readers that come back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.service.dispatch.script import at_gate, reply
from tests.service.dispatch.stage import in_line, lags, stage
from tests.service.dispatch.watch import CANCELLED, COMPLETED, stalling, watching
from tests.service.manual_clock import ManualClock
from turnkeeper_service.events.log import TAIL_EVENTS

BIG = "x" * 8192
"""A prompt of which a connection holds back only few for a reader that does not read."""
NUM_QUEUED = 50
ROUNDS = 3


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-11")
async def test_a_reader_that_stalls_or_comes_back_gets_every_terminal_in_order(tmp_path: Path) -> None:
    clock = ManualClock()
    async with stage(tmp_path, clock=clock) as (server, watch), stalling(server, "s") as stalled:
        names = [f"r{number}" for number in range(60)]
        for number, name in enumerate(names):
            # Ten seconds go by in which the stalled reader takes nothing.
            clock.advance(10 / len(names))
            await server.submit("s", BIG if number % 3 else reply(BIG, fail="PROVIDER_ERROR"), run_id=name)
        await watch.terminal(names[-1])
        assert list(watch.terminals()) == names
        assert max(lags(server)) > TAIL_EVENTS
        await stalled.terminal(names[-1])
        assert stalled.events == watch.events
        # The same, cut off and connected again at any position: what was seen and what comes are the whole.
        for position in (0, 1, len(watch.events) // 2, len(watch.events) - TAIL_EVENTS, len(watch.events) - 1):
            rest = watch.events[position:]
            async with watching(server, "s", after_seq=position) as again:
                await again.until(lambda event: event.seq == watch.events[-1].seq)
                assert again.events == rest
                assert list(again.terminals()) == [event.run_id for event in rest if event.HasField("run_finished")]
        await watch.quiet()


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-11")
async def test_a_reader_that_comes_back_again_and_again_misses_and_repeats_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as (server, watch):
        names = [f"r{number}" for number in range(6)]
        for name in names:
            await server.submit("s", reply(name, gate=name), run_id=name)
        seen: list[int] = []
        ended: list[str] = []
        for name in names:
            # Each connection reads up to one terminal and is lost.
            server.gates.open(name)
            async with watching(server, "s", after_seq=len(seen)) as reader:
                assert (await reader.terminal(name)).text == name
                seen += [event.seq for event in reader.events]
                ended += list(reader.terminals())
        await watch.terminal(names[-1])
        assert seen == [event.seq for event in watch.events][: len(seen)]
        assert ended == names


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:G-20")
async def test_a_stalled_reader_and_fifty_cancels_delay_no_submit(tmp_path: Path) -> None:
    clock = ManualClock()
    async with stage(tmp_path, clock=clock) as (server, watch), stalling(server, "s") as stalled:
        for _ in range(60):
            await server.submit("s", BIG)
        await watch.quiet()
        assert max(lags(server)) > TAIL_EVENTS
        durations = []
        for round_ in range(ROUNDS):
            server.gates.hold("g")
            await server.submit("s", reply(gate="g"), run_id=f"open{round_}")
            await at_gate(server, "g", round_ + 1)
            names = [f"queued{round_}.{number}" for number in range(NUM_QUEUED)]
            for name in names:
                await server.submit("s", BIG, run_id=name)
            assert in_line(server) == names
            began, began_on_clock = time.monotonic(), clock.monotonic()
            await server.cancel("s")
            await server.submit("s", "after", run_id=f"after{round_}")
            durations.append(time.monotonic() - began)
            # Nothing on the way waited for the server's clock, which stands still, nor for the reader.
            assert clock.monotonic() == began_on_clock
            assert max(lags(server)) > TAIL_EVENTS
            assert (await watch.terminal(f"after{round_}")).status == COMPLETED
        # The row's bound, held by the best of some: this machine may do other things meanwhile.
        assert min(durations) < 0.1
        outcomes = await watch.quiet()
        queued = [outcome.status for run_id, outcome in outcomes.items() if run_id.startswith(("open", "queued"))]
        assert queued == [CANCELLED] * (ROUNDS * (NUM_QUEUED + 1))
        await stalled.until(lambda event: event.seq == watch.events[-1].seq)
        assert stalled.events == watch.events
