"""A conversation in a terminal, or over a pipe: every line is a prompt.

What is typed while an answer streams stands in line behind it. Ctrl-C cancels the run that is open; a second, before
anything else was said, leaves. Runs go on when the terminal goes away; that is what `watch` is for.

Where a tool call waits for somebody's leave, a terminal asks, and the next line is the answer; somebody else may be
quicker. Over a pipe every line stays a prompt, and `turnkeeper approvals` answers.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable

from turnkeeper import Approval, Conversation, Delta, Event, Item, RunReceipt, TurnkeeperError
from turnkeeper.cli import _show
from turnkeeper.cli._lines import Lines
from turnkeeper.v1 import content_pb2, event_pb2

HELP = "/steer TEXT joins the run that is open · /cancel cancels it · /queue clears the line · /quit leaves"
_BAD = (event_pb2.OUTCOME_STATUS_FAILED, event_pb2.OUTCOME_STATUS_EXPIRED)


class Chat:
    """One conversation and its screen."""

    def __init__(
        self,
        conversation: Conversation,
        screen: _show.Screen,
        lines: Lines,
        *,
        is_interactive: bool,
        approvals: Iterable[Approval] = (),
    ) -> None:
        """Begin with the run that is open already, if there is one, and the approvals that wait."""
        self._conversation = conversation
        self._screen = screen
        self._lines = lines
        self._is_interactive = is_interactive
        self._open_run = conversation.session.open_run_id
        self._waiting: dict[str, None] = {}
        self._asked = {approval.approval_id: (approval.run_id, approval.tool_call) for approval in approvals}
        """The approvals that wait: run and call."""
        self._shown: dict[str, str] = {}
        self._is_armed = False
        self._has_failed = False
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> int:
        """Talk until the input ends and all runs have, or until told to leave; returns the exit code."""
        lost: BaseException | None = None
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                printing = self._tasks.create_task(self._print_items())
                self._prompt()
                async for line in self._lines:
                    if not await self._say(line.strip()):
                        self._lines.stop()
                if self._lines.is_stopped:
                    printing.cancel()
                else:
                    self._conversation.finish()
        except* TurnkeeperError as group:
            lost = group.exceptions[0]
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            self._screen.end_line()
        if lost is not None:
            raise lost
        return 1 if self._has_failed and not self._is_interactive else 0

    async def _say(self, line: str) -> bool:
        """Do what one line says; False leaves."""
        self._is_armed = False
        if self._is_interactive:
            self._screen.entered()
        command, _, rest = line.partition(" ")
        try:
            match command:
                case "":
                    self._prompt()
                case _ if self._asked and self._is_asking and not command.startswith("/"):
                    await self._answer(command.lower(), rest)
                case "/quit":
                    return False
                case "/steer" if rest:
                    self._accepted(await self._conversation.steer(rest))
                case "/cancel":
                    await self._cancel()
                case "/queue":
                    receipt = await self._conversation.clear_queue()
                    self._screen.remark(f"[{len(receipt.runs)} cancelled]")
                case _ if command.startswith("/"):
                    self._screen.remark(f"[{HELP}]")
                case _:
                    self._accepted(await self._conversation.submit(line))
        except TurnkeeperError as error:
            self._has_failed = True
            self._screen.remark(f"[refused: {error}]")
            if self._screen.is_json:
                _show.fail(str(error))
        return True

    async def _answer(self, word: str, comment: str) -> None:
        """Answer the approval that was asked about."""
        if word not in ("y", "yes", "n", "no"):
            self._screen.remark("[y allows it; n refuses it, and what follows n is told to the model]")
            self._prompt()
            return
        approval_id = next(iter(self._asked))
        # The next line is no answer to this question, even where it comes before the event that says it is answered.
        del self._asked[approval_id]
        await self._conversation.answer_approval(approval_id, allow=word[0] == "y", comment=comment)

    def _accepted(self, receipt: RunReceipt) -> None:
        if self._screen.is_json:
            self._screen.json("receipt", receipt)
        if not receipt.HasField("outcome"):
            self._waiting[receipt.run_id] = None
        if receipt.steers_run_id:
            self._screen.remark("[joins the run that is open]")
        elif receipt.position and self._is_interactive:
            self._screen.remark(f"[in line, {receipt.position} ahead]")

    def _interrupted(self) -> None:
        if self._is_armed or self._tasks is None:
            self._lines.stop()
            return
        self._is_armed = True
        if self._target() is None:
            self._screen.remark("[nothing is running; Ctrl-C again to leave]")
        else:
            self._tasks.create_task(self._cancel())

    async def _cancel(self) -> None:
        target = self._target()
        if target is None:
            self._screen.remark("[nothing is running]")
            return
        try:
            await self._conversation.cancel(target)
        except TurnkeeperError as error:
            self._screen.remark(f"[refused: {error}]")

    def _target(self) -> str | None:
        """The run that is open, or the next to be."""
        return self._open_run or next(iter(self._waiting), None)

    async def _print_items(self) -> None:
        async for item in self._conversation.items():
            if isinstance(item, Event):
                self._note(item)
            if self._screen.is_json:
                self._print_json(item)
            elif isinstance(item, Delta):
                self._print_delta(item)
            elif isinstance(item, Event):
                self._print_event(item)
        # Over, whoever ended it: nobody is there to say anything to.
        self._lines.stop()

    def _note(self, event: Event) -> None:
        match event.WhichOneof("payload"):
            case "run_started":
                self._open_run = event.run_id
            case "approval_requested":
                asked = event.approval_requested
                self._asked[asked.approval_id] = (event.run_id, asked.tool_call)
            case "approval_resolved":
                self._asked.pop(event.approval_resolved.approval_id, None)
            case "run_finished":
                self._waiting.pop(event.run_id, None)
                self._asked = {key: found for key, found in self._asked.items() if found[0] != event.run_id}
                self._open_run = "" if self._open_run == event.run_id else self._open_run
                self._has_failed = self._has_failed or event.run_finished.outcome.status in _BAD

    def _print_json(self, item: Item) -> None:
        kind = {Event: "event", Delta: "delta"}.get(type(item), "snapshot")
        self._screen.json(kind, item)

    def _print_delta(self, delta: Delta) -> None:
        if delta.text:
            self._shown[delta.message_id] = self._shown.get(delta.message_id, "") + delta.text
            self._screen.text(delta.text)

    def _print_event(self, event: Event) -> None:
        match event.WhichOneof("payload"):
            case "message_committed":
                message = event.message_committed.message
                if message.role == content_pb2.ROLE_ASSISTANT:
                    self._print_rest(message)
            case "attempt_discarded":
                if self._shown.pop(event.attempt_discarded.message_id, ""):
                    self._screen.remark(f"[void, tried again: {event.attempt_discarded.cause}]")
            case "tool_call_requested":
                self._screen.remark(f"[calls {_show.call(event.tool_call_requested.tool_call)}]")
            case "tool_call_finished":
                self._screen.remark(f"[{_show.result(event.tool_call_finished.result)}]")
            case "tool_call_skipped":
                self._screen.remark(f"[{_show.result(event.tool_call_skipped.result)}]")
            case "approval_requested" if self._is_asking:
                self._prompt()
            case "approval_requested":
                asked = event.approval_requested
                answer = f"turnkeeper approvals {self._conversation.session_id} --allow {asked.approval_id}"
                self._screen.remark(f"[{_show.call(asked.tool_call)} waits for leave: {answer}]")
            case "approval_resolved":
                self._screen.remark(f"[{_show.resolved(event.approval_resolved)}]")
                self._prompt()
            case "run_finished":
                outcome = event.run_finished.outcome
                if outcome.status != event_pb2.OUTCOME_STATUS_COMPLETED:
                    self._screen.remark(f"[{_show.outcome(outcome)}]")
                self._prompt()
            case "session_deleted":
                self._screen.remark("[the session is deleted]")

    def _print_rest(self, message: content_pb2.Message) -> None:
        """What of a committed message was not shown while it was written."""
        text, shown = _show.message_text(message), self._shown.pop(message.message_id, "")
        if text.startswith(shown):
            self._screen.text(text[len(shown) :])
        else:
            self._screen.end_line()
            self._screen.text(text)
        self._screen.end_line()

    @property
    def _is_asking(self) -> bool:
        return self._is_interactive and not self._screen.is_json

    def _prompt(self) -> None:
        """Ask for what is to be said next, where there is somebody to ask."""
        if not self._is_asking:
            return
        if self._asked:
            _, call = next(iter(self._asked.values()))
            self._screen.end_line()
            self._screen.text(f"allow {_show.call(call)}? [y/n] ")
        elif self._target() is None:
            self._screen.end_line()
            self._screen.text("> ")
