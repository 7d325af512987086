"""The second process: a client that knows nothing but the server's address, and talks in four sessions.

Its standard output is lines of JSON: the timeline, and cues for the director.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from turnkeeper import CancelReceipt, Client, SessionSettings
from turnkeeper.v1.run_service_pb2 import CANCEL_DISPOSITION_COVERED

from . import desk, vendor
from .record import Record
from .talk import BACKOFF, Talk, cue, tell

MID_STREAM = 160
"""Characters of an answer after which it is in mid-stream."""


class Caller:
    """The acts, one after another."""

    def __init__(
        self, florence: Talk, street: Talk, ghost: Talk, desk: Talk, record: Record, *, is_patient: bool
    ) -> None:
        self.florence, self.street, self.ghost, self.desk = florence, street, ghost, desk
        self._record = record
        # A real model may have answered before something can reach its run.
        self._or_done = "|COMPLETED" if is_patient else ""

    async def perform(self) -> None:
        """All acts."""
        await self.parallel()
        await self.queue()
        await self.steer()
        await self.tools()
        await self.cancel()
        await self.crash()

    async def parallel(self) -> None:
        tell("", "", "act", "three sessions at once, two wire formats")
        await self.florence.prompt("weather", vendor.WEATHER)
        await self.ghost.prompt("picture", vendor.PICTURE)
        await self.street.prompt("crossing", vendor.CROSSING)
        await self.florence.ended("weather")
        await self.ghost.ended("picture")
        await self.street.ended("crossing")

    async def queue(self) -> None:
        tell("", "", "act", "a queue: three prompts to one session, answered in the order of their accepts")
        await self.florence.prompt("sum", vendor.SUM)
        await self.florence.prompt("greeting", vendor.GREETING)
        await self.florence.prompt("who", vendor.WHO)
        await self.florence.ended("sum", "greeting", "who")

    async def steer(self) -> None:
        tell("", "", "act", "a steer: a prompt joins the run that is open")
        await self.florence.prompt("heat", vendor.HEAT)
        await self._mid_stream(self.florence, "heat", 40)
        await self.florence.prompt("shorter", vendor.SHORTER, steer=True, expected=f"FOLDED{self._or_done}")
        await self.florence.ended("heat", "shorter")

    async def tools(self) -> None:
        tell("", "", "act", "tools: one of this client, two of the server, and one that another client has to allow")
        offered = await self.desk.conversation.offer_tools(desk.is_at_home)
        tell("desk", "", "offers", f"{', '.join(offered)}: it runs here, in the caller")
        cue("librarian")
        await self.desk.prompt("books", desk.BOOKS)
        await self.desk.ended("books")

    async def cancel(self) -> None:
        tell("", "", "act", "a cancel covers what was accepted before it, and nothing after it")
        await self.ghost.prompt("on-foot", vendor.ON_FOOT, expected=f"CANCELLED{self._or_done}")
        await self._mid_stream(self.ghost, "on-foot", 40)
        await self.ghost.prompt("in-line", vendor.HELLO, expected=f"CANCELLED{self._or_done}")
        self._covers(await self.ghost.conversation.cancel())
        await self.ghost.prompt("after-it", vendor.HELLO)
        await self.ghost.ended("on-foot", "in-line", "after-it")

        tell("", "", "act", "a cancel that overtakes its prompt: it comes first, and holds")
        receipt = await self.ghost.conversation.cancel("overtaken")
        tell("ghost", "overtaken", "cancel", "of a run that was not seen yet: remembered")
        self._record.overtaken += [found.run_id for found in receipt.runs]
        await self.ghost.prompt("overtaken", vendor.NEVER, expected="CANCELLED")
        await self.ghost.ended("overtaken")

    async def crash(self) -> None:
        tell("", "", "act", "kill -9 in mid-stream, with a queue, a cancel just acknowledged, an approval that waits")
        await self.desk.prompt("dune", desk.DUNE)
        await self.desk.until(lambda: "dune" in self.desk.asked or "dune" in self.desk.outcomes)
        first = await self.ghost.prompt("again", vendor.ON_FOOT)
        await self.ghost.prompt("behind", vendor.HELLO)
        await self.street.prompt("cut", vendor.ALOUD, expected=f"CANCELLED{self._or_done}")
        await self._mid_stream(self.ghost, "again", MID_STREAM)
        await self._mid_stream(self.street, "cut", 1)
        self._covers(await self.street.conversation.cancel("cut"))
        self._record.cut.append("cut")
        if "again" not in self.ghost.outcomes:
            self._record.resumed.append("again")
        cue("kill")
        # Sent into the crash, over whatever connection there will be: the same id and payload are the same run.
        replay = await self.ghost.conversation.submit(vendor.ON_FOOT, run_id="again", delivery="queue")
        if not replay.is_replay or replay.accept_sequence != first.accept_sequence:
            raise RuntimeError("a submission with the same run_id and payload became another run")
        tell("ghost", "again", "replayed", "submitted again into the crash, with the same run_id: the same run")
        await self.ghost.ended("again", "behind")
        await self.street.ended("cut")
        await self.desk.ended("dune")

    async def _mid_stream(self, talk: Talk, run_id: str, length: int) -> None:
        """Wait until so many characters of a run's answer were shown, or it ended."""
        await talk.until(lambda: talk.length.get(run_id, 0) >= length or run_id in talk.outcomes)

    def _covers(self, receipt: CancelReceipt) -> None:
        covered = [found.run_id for found in receipt.runs if found.disposition == CANCEL_DISPOSITION_COVERED]
        self._record.covered += covered


async def run(options: argparse.Namespace) -> None:
    record = Record()
    async with Client(options.address, backoff=BACKOFF) as client, AsyncExitStack() as stack:

        async def talk(session_id: str, model: str) -> Talk:
            # A title of our own, or the server would ask the model for one.
            settings = SessionSettings(model=model, title=session_id, is_tool_free=True)
            return await stack.enter_async_context(Talk(client, session_id, settings, record))

        florence, street = await talk("florence", options.model), await talk("street", options.model)
        ghost = await talk("ghost", options.second_model)
        settings = SessionSettings(model=options.desk_model, title=desk.SESSION, system_prompt=desk.PROMPT)
        library = await stack.enter_async_context(Talk(client, desk.SESSION, settings, record))
        await Caller(florence, street, ghost, library, record, is_patient=options.patient).perform()
    record.save(options.record)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.demo.caller", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--second-model", required=True)
    parser.add_argument("--desk-model", required=True)
    parser.add_argument("--patient", action="store_true", help="a real model answers, which may be quick or slow")
    options = parser.parse_args()
    try:
        asyncio.run(run(options))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
