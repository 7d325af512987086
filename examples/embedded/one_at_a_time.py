"""The scheduler without a server: ``python examples/embedded/one_at_a_time.py``.

Three people write to two conversations at once. In each conversation one turn runs at a time, in the order of arrival;
a steering message joins the turn that is running; a cancel ends what came before it, and nothing that comes after.
"""

import asyncio

from turnkeeper_core import AsyncScheduler, Cancel, Delivery, RunCancelled, RunFolded

scheduler = AsyncScheduler()


async def ask(session: str, run: str, steps: int, delivery: Delivery = "queue") -> None:
    try:
        async with scheduler.turn(session, run, delivery=delivery) as turn:
            print(f"{session:6} {run:12} begins, {scheduler.stats().running_turns} running in all")
            for step in range(1, steps + 1):
                await asyncio.sleep(0.01)  # Where the model would be called.
                for folded in turn.fold():
                    print(f"{session:6} {run:12} takes in {folded.run_id!r} at step {step}")
            print(f"{session:6} {run:12} is done")
    except RunFolded as folded:
        print(f"{session:6} {run:12} was answered by {folded.into_run_id!r}")
    except RunCancelled as cancelled:
        print(f"{session:6} {run:12} was cancelled: {cancelled.cancel.reason} by {cancelled.cancel.actor}")


async def main() -> None:
    async with asyncio.TaskGroup() as people:
        people.create_task(ask("blue", "weather", 3))
        people.create_task(ask("blue", "news", 2))
        people.create_task(ask("green", "recipe", 50))
        people.create_task(ask("green", "shopping", 2))
        await asyncio.sleep(0.005)
        people.create_task(ask("blue", "in celsius!", 1, "steer"))
        await asyncio.sleep(0.03)
        scheduler.cancel_session("green", Cancel("USER", actor="ada"))
        people.create_task(ask("green", "a new start", 1))
    stats = scheduler.stats()
    print(f"left over: {stats.sessions} sessions, {stats.open_runs} runs, {stats.running_turns} turns")


asyncio.run(main())
