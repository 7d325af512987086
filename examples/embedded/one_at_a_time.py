"""The scheduler without a server: ``python examples/embedded/one_at_a_time.py``.

Three people write to two conversations at once. In each conversation one turn runs at a time, in the order of arrival;
a steering message joins the turn that is running; a cancel ends what came before it, and nothing that comes after. One
of them asks back and waits without a permit, no longer than it says; another starts something that outlives its turn,
and the next one waits for that too.
"""

import asyncio

from turnkeeper_core import AsyncScheduler, Cancel, Delivery, RunCancelled, RunExpired, RunFolded

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


async def ask_back(session: str, run: str) -> None:
    async with scheduler.turn(session, run) as turn:
        try:
            async with turn.parked("which city?", timeout=0.02):
                (hold,) = (hold for hold in scheduler.holds(session, run) if hold.kind == "tool")
                print(
                    f"{session:6} {run:12} waits for {hold.label!r}, {scheduler.stats().running_turns} running in all"
                )
                await asyncio.Event().wait()  # Nobody answers.
        except TimeoutError:
            print(f"{session:6} {run:12} goes on without an answer")


async def upload(session: str, run: str) -> None:
    async with scheduler.turn(session, run) as turn:
        hold = turn.hold("upload", timeout=1.0)
        asyncio.get_running_loop().call_later(0.02, hold.release)
        print(f"{session:6} {run:12} has answered, its upload goes on")


async def in_time(session: str, run: str, seconds: float) -> None:
    try:
        async with scheduler.turn(session, run, start_timeout=seconds):
            print(f"{session:6} {run:12} begins when that is over")
    except RunExpired:
        print(f"{session:6} {run:12} has waited long enough")


async def main() -> None:
    async with asyncio.TaskGroup() as people:
        people.create_task(ask("blue", "weather", 3))
        people.create_task(ask("blue", "news", 2))
        people.create_task(ask("green", "recipe", 50))
        people.create_task(ask("green", "shopping", 2))
        people.create_task(ask_back("red", "forecast"))
        people.create_task(in_time("green", "impatient", 0.01))
        people.create_task(upload("grey", "report"))
        people.create_task(in_time("grey", "thanks", 1.0))
        await asyncio.sleep(0.005)
        people.create_task(ask("blue", "in celsius!", 1, "steer"))
        await asyncio.sleep(0.03)
        scheduler.cancel_session("green", Cancel("USER", actor="ada"))
        people.create_task(ask("green", "a new start", 1))
    stats = scheduler.stats()
    print(f"left over: {stats.sessions} sessions, {stats.open_runs} runs, {stats.running_turns} turns")


asyncio.run(main())
