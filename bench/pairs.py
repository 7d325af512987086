"""The service beside its baselines, in paired slices."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from . import load
from .contenders import BEFORE, SERVICE, Starts, against, alive, services, sessions, workplace
from .figures import PACE_MS, STREAMS
from .processes import baseline
from .report import Report
from .slices import Effort, Slice, by_workers, compared

MODEL = f"up/tokens-{load.TOKENS}"
RELAY, FLOOR_RELAY = "bare relay", "floor relay"
UNARY, FLOOR_UNARY = "bare unary", "floor unary"
LEVELS = (1, 32, 64)
TURNS_PER_SESSION = 4
FASTEST = 1500
"""Turns per second that nothing here exceeds; it says how many sessions are needed."""


async def turns(report: Report, effort: Effort) -> None:
    """Whole turns beside the relay, bare and with events and commits, at 1, 32 and 64 at a time."""
    report.section(f"Turns of {load.TOKENS} tokens from a loopback SSE upstream, through Run, beside relays")
    async with workplace() as (directory, url):
        starts: Starts = {
            RELAY: partial(baseline, "relay", url),
            FLOOR_RELAY: partial(baseline, "floor_relay", url, str(directory)),
            **services(directory, effort, url),
        }
        async with alive(starts) as servers:
            # What a turn costs grows with its session's history; new sessions keep that the same in every round.
            most = len(LEVELS) * (effort.rounds + 1) * max(effort.seconds * FASTEST, LEVELS[-1]) / TURNS_PER_SESSION
            names = await sessions(servers, max(LEVELS[-1], int(most)))
            units = {name: load.turn(client, names, MODEL) for name, (_, client) in servers.items()}
            for workers in LEVELS:
                slices: dict[str, Slice] = {
                    name: partial(by_workers, process, units[name], workers, effort.seconds)
                    for name, (process, _) in servers.items()
                }
                rounds = await compared(slices, effort)
                title = f"{workers} at a time"
                report.variants(title, rounds, "turns")
                is_goal = workers == 32
                goals = {FLOOR_RELAY: 0.75 if is_goal else None, RELAY: 0.55 if is_goal else None}
                against(report, title, rounds, goals)
                report.pair(title, rounds, FLOOR_RELAY, RELAY)


async def submits(report: Report, effort: Effort) -> None:
    """Durable accepts beside a bare unary of the same size, and beside one with a commit."""
    report.section(f"SubmitRun, durable, {STREAMS} at a time, into lines whose floor is taken, beside unaries")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        starts: Starts = {
            UNARY: partial(baseline, "bare"),
            FLOOR_UNARY: partial(baseline, "floor_unary", name),
            **services(directory, effort),
        }
        async with alive(starts) as servers:
            names = await sessions(servers, STREAMS)
            for one in servers.keys() & {SERVICE, BEFORE}:
                await load.hold_floors(servers[one][1], names)
            slices: dict[str, Slice] = {
                one: partial(by_workers, process, load.submit(client, names), STREAMS, effort.seconds)
                for one, (process, client) in servers.items()
            }
            rounds = await compared(slices, effort)
    report.variants("SubmitRun", rounds, "calls")
    against(report, "SubmitRun", rounds, {FLOOR_UNARY: 0.8, UNARY: 0.55})
    for share in (0.5, 0.99):
        values = [load.percentile(one.waits, share) * 1e3 for one in rounds[SERVICE]]
        report.figure(f"SubmitRun acknowledged, p{share * 100:g}", values, "ms", None)


async def first_tokens(report: Report, effort: Effort) -> None:
    """Time to the first token of paced streams, through the service and through the relay."""
    report.section(f"Time to first token, {STREAMS} paced streams (50 tokens/s each), beside the bare relay")
    model = f"up/paced-{load.TOKENS}-{PACE_MS}"
    length = load.TOKENS * PACE_MS / 1000
    async with workplace() as (directory, url):
        starts: Starts = {RELAY: partial(baseline, "relay", url), **services(directory, effort, url)}
        async with alive(starts) as servers:
            # A slice takes some seconds, whatever the machine: the streams begin over the length of a turn.
            rounds_wanted = max(1, effort.rounds // 3)
            names = await sessions(servers, 3 * STREAMS * (rounds_wanted + 1) // TURNS_PER_SESSION + STREAMS)
            slices: dict[str, Slice] = {
                name: partial(by_workers, process, load.turn(client, names, model), STREAMS, length, length)
                for name, (process, client) in servers.items()
            }
            rounds = await compared(slices, effort, rounds_wanted)
    report.variants("paced turns", rounds, "turns")
    for share, goal in ((0.5, 3.0), (0.99, 10.0)):
        for name in rounds.keys() - {SERVICE}:
            added = [
                (load.percentile(ours.waits, share) - load.percentile(other.waits, share)) * 1e3
                for ours, other in zip(rounds[SERVICE], rounds[name], strict=True)
            ]
            title = f"time to first token beyond the {name}'s, p{share * 100:g}"
            report.figure(title, added, "ms", goal if name == RELAY else None)
    against(report, "paced turns", rounds, {RELAY: None})
