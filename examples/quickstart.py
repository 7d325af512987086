"""A conversation with a running server: `turnkeeper serve` first, then `python examples/quickstart.py`."""

import asyncio

from turnkeeper import Client, Delta, Event, OutcomeStatus, SessionSettings


async def main() -> None:
    # Where the server is: TURNKEEPER_ADDRESS, else 127.0.0.1:7450.
    async with Client() as client:
        session = await client.create_session(settings=SessionSettings(model="scripted/echo"))

        # One prompt: its answer while it is written, then how its run ended.
        run = client.run(session.session_id, "Keep my turn.")
        async for item in run:
            if isinstance(item, Delta):
                print(item.text, end="", flush=True)
        assert run.outcome is not None
        print(f"  [{OutcomeStatus.Name(run.outcome.status)}]")

        # A conversation: both prompts are accepted at once, and answered one after the other.
        async with client.converse(session.session_id) as conversation:
            for prompt in ("First come,", "first served."):
                receipt = await conversation.submit(prompt)
                print(f"accepted {receipt.run_id}")
            conversation.finish()
            async for item in conversation.items():
                if isinstance(item, Event) and item.HasField("run_finished"):
                    print(f"finished {item.run_id}: {item.run_finished.outcome.text}")


asyncio.run(main())
