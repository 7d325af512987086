"""A conversation in a terminal, or over a pipe: every line is a prompt.

What is typed while an answer streams stands in line behind it. Ctrl-C cancels the run that is open; a second, before
anything else was said, leaves. Runs go on when the terminal goes away; that is what `watch` is for.

Where a tool call waits for somebody's leave, a terminal asks, and the next line is the answer; somebody else may be
quicker. Over a pipe every line stays a prompt, and `turnkeeper approvals` answers.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable

from turnkeeper import (
    Approval,
    CancelModeName,
    Conversation,
    Delta,
    Event,
    Item,
    RunReceipt,
    TurnkeeperError,
)
from turnkeeper._ids import new_id
from turnkeeper.cli import _events, _refusal, _show
from turnkeeper.cli._lines import Input
from turnkeeper.cli._screen import Screen
from turnkeeper.v1 import content_pb2, event_pb2

HELP = (
    "/steer TEXT joins the run that is open · /stop [HINT] lets it end soon · /cancel ends it now · "
    "/queue clears the line · /summarize · /quit leaves"
)
# Ends that need no words: what was said is the answer.
_ANSWERS = (
    event_pb2.OUTCOME_REASON_UNSPECIFIED,
    event_pb2.OUTCOME_REASON_ANSWERED,
    event_pb2.OUTCOME_REASON_AWAITING_USER,
)
_BAD = (event_pb2.OUTCOME_STATUS_FAILED, event_pb2.OUTCOME_STATUS_EXPIRED)


class Chat:
    """One conversation and its screen."""

    def __init__(
        self,
        conversation: Conversation,
        screen: Screen,
        lines: Input,
        *,
        is_interactive: bool,
        summarize: Callable[[str], Awaitable[object]],
        approvals: Iterable[Approval] = (),
    ) -> None:
        """Begin with the run that is open already, if there is one, and the approvals that wait."""
        self._conversation = conversation
        self._screen = screen
        self._lines = lines
        self._is_interactive = is_interactive
        self._summarize = summarize
        self._open_run = conversation.session.open_run_id
        self._waiting: dict[str, None] = {}
        self._asked = {approval.approval_id: (approval.run_id, approval.tool_call) for approval in approvals}
        """The approvals that wait: run and call."""
        self._prompts: dict[str, str] = {}
        """What runs that are not over were asked, where it is not the last thing on the screen."""
        self._own: set[str] = set()
        self._summaries: set[str] = set()
        """The messages that are summaries in progress: nobody's answer."""
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
        except* (TurnkeeperError, BrokenPipeError) as group:
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
            self._screen.entered(line)
        command, _, rest = line.partition(" ")
        try:
            match command:
                case "":
                    self._prompt()
                case _ if len(line.encode()) >= self._lines.max_bytes:
                    self._screen.remark("[the terminal has cut this line, and it is not sent: give it over a pipe]")
                    self._prompt()
                case _ if self._asked and self._is_asking and not command.startswith("/"):
                    await self._answer(command.lower(), rest)
                case "/quit":
                    return False
                case "/steer" if rest:
                    self._accepted(await self._conversation.steer(rest, run_id=self._new_run()))
                case "/stop":
                    await self._cancel("stop", rest)
                case "/cancel":
                    await self._cancel()
                case "/queue":
                    receipt = await self._conversation.clear_queue()
                    self._screen.remark(f"[{len(receipt.runs)} cancelled]")
                    self._prompt()
                case "/summarize":
                    await self._begin_summary()
                case _ if command.startswith("/"):
                    self._screen.remark(f"[{HELP}]")
                    self._prompt()
                case _:
                    self._accepted(await self._conversation.submit(line, run_id=self._new_run()))
        except TurnkeeperError as error:
            self._has_failed = True
            self._screen.remark(f"[refused: {_refusal.words(error)}]")
            if self._screen.is_json:
                _show.fail(_refusal.words(error))
            self._prompt()
        return True

    async def _begin_summary(self) -> None:
        run_id = new_id()
        # Its end may come before the answer to the call.
        self._waiting[run_id] = None
        try:
            await self._summarize(run_id)
        except TurnkeeperError:
            del self._waiting[run_id]
            raise

    def _new_run(self) -> str:
        run_id = new_id()
        self._own.add(run_id)
        return run_id

    async def _answer(self, word: str, comment: str) -> None:
        """Answer the approval that was asked about."""
        if word not in ("y", "yes", "n", "no"):
            self._screen.remark("[y allows it; n refuses it, and what follows n is told to the model]")
            self._prompt()
            return
        approval_id = next(iter(self._asked))
        # The next line is no answer to this question, even where it comes before the event that says it is answered.
        del self._asked[approval_id]
        self._screen.ask("> ", is_free=False)
        await self._conversation.answer_approval(approval_id, allow=word[0] == "y", comment=comment)

    def _accepted(self, receipt: RunReceipt) -> None:
        if self._screen.is_json:
            self._screen.json("receipt", receipt)
        if not receipt.HasField("outcome"):
            self._waiting[receipt.run_id] = None
        if receipt.steers_run_id:
            self._screen.aside("[joins the run that is open]")
        elif receipt.position and self._is_interactive:
            self._screen.aside(f"[in line, {receipt.position} ahead]")

    def _interrupted(self) -> None:
        if self._is_armed or self._tasks is None:
            self._lines.stop()
            return
        self._is_armed = True
        if self._target() is None:
            self._screen.remark("[nothing is running; Ctrl-C again to leave]")
            self._prompt()
        else:
            self._tasks.create_task(self._cancel())

    async def _cancel(self, mode: CancelModeName = "abort", hint: str = "") -> None:
        target = self._target()
        if target is None:
            self._screen.remark("[nothing is running]")
            self._prompt()
            return
        try:
            await self._conversation.cancel(target, mode=mode, hint=hint)
        except TurnkeeperError as error:
            self._screen.remark(f"[refused: {_refusal.words(error)}]")

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
            case "run_accepted" if event.run_id not in self._own or self._open_run:
                if event.run_accepted.kind != event_pb2.RUN_KIND_SUMMARY:
                    self._prompts[event.run_id] = _events.prompt(event.run_accepted)
            case "run_started":
                self._open_run = event.run_id
            case "summary_started":
                self._summaries.add(event.summary_started.message_id)
            case "approval_requested":
                asked = event.approval_requested
                self._asked[asked.approval_id] = (event.run_id, asked.tool_call)
            case "approval_resolved":
                self._asked.pop(event.approval_resolved.approval_id, None)
            case "run_finished":
                self._waiting.pop(event.run_id, None)
                self._own.discard(event.run_id)
                self._asked = {key: found for key, found in self._asked.items() if found[0] != event.run_id}
                self._open_run = "" if self._open_run == event.run_id else self._open_run
                self._has_failed = self._has_failed or event.run_finished.outcome.status in _BAD

    def _print_json(self, item: Item) -> None:
        kind = {Event: "event", Delta: "delta"}.get(type(item), "snapshot")
        self._screen.json(kind, item)

    def _print_delta(self, delta: Delta) -> None:
        if delta.text and delta.message_id not in self._summaries:
            self._shown[delta.message_id] = self._shown.get(delta.message_id, "") + delta.text
            self._screen.text(delta.text)

    def _print_event(self, event: Event) -> None:
        match event.WhichOneof("payload"):
            case "message_committed":
                message = event.message_committed.message
                if message.role == content_pb2.ROLE_ASSISTANT:
                    self._print_rest(message)
            case "approval_requested" | "approval_resolved":
                self._print_approval(event)
            case "run_finished":
                self._print_end(event)
            case "session_deleted":
                self._screen.remark("[the session is deleted]")
            case _ if words := self._words(event):
                self._screen.remark(f"[{words}]")
                # What was asked stands above the remark now.
                self._prompt()

    def _words(self, event: Event) -> str:
        """What an event says beside the texts; empty where it says nothing."""
        match event.WhichOneof("payload"):
            case "run_started" if prompt := self._prompts.pop(event.run_id, ""):
                return f"now: {prompt}" if self._is_interactive else ""
            case "run_cancel_requested" if event.run_cancel_requested.mode == event_pb2.CANCEL_MODE_STOP:
                return _events.cancelling(event.run_cancel_requested)
            case "run_awaiting":
                # A question, or the way to answer it, says so already.
                labels = [label for label in event.run_awaiting.labels if not label.startswith("approval ")]
                return f"waits for {', '.join(labels)}" if labels else ""
            case "run_resumed" if not event.run_resumed.cause.startswith(("approval ", "tool ")):
                return "goes on"
            case "attempt_discarded":
                discarded = event.attempt_discarded
                was_shown = self._shown.pop(discarded.message_id, "")
                return _events.discarded(discarded, what="what stands above" if was_shown else "")
            case "retry_scheduled":
                return _events.retry(event.retry_scheduled)
            case "summary_started":
                return _events.summary_started(event.summary_started)
            case "summary_finished":
                return "the summary stands in for what was said so far"
            case "summary_discarded":
                return _events.summary_discarded(event.summary_discarded)
            case "tool_call_requested":
                return f"calls {_show.call(event.tool_call_requested.tool_call)}"
            case "tool_call_finished" | "tool_call_skipped" | "tool_call_cancelled" as name:
                return _show.result(getattr(event, name).result)
        return ""

    def _print_approval(self, event: Event) -> None:
        if event.HasField("approval_resolved"):
            self._screen.remark(f"[{_show.resolved(event.approval_resolved)}]")
        elif not self._is_asking:
            asked = event.approval_requested
            answer = f"turnkeeper approvals {self._conversation.session_id} --allow {asked.approval_id}"
            self._screen.remark(f"[{_show.call(asked.tool_call)} waits for leave: {answer}]")
        self._prompt()

    def _print_end(self, event: Event) -> None:
        outcome, prompt = event.run_finished.outcome, self._prompts.pop(event.run_id, "")
        if outcome.status == event_pb2.OUTCOME_STATUS_FOLDED and prompt:
            self._screen.remark(f"[joined: {prompt}]")
        elif outcome.status != event_pb2.OUTCOME_STATUS_COMPLETED or outcome.reason not in _ANSWERS:
            self._screen.remark(f"[{_show.outcome(outcome)}]")
        self._prompt()

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
        is_free = bool(self._asked) or self._target() is None
        if self._asked:
            _, call = next(iter(self._asked.values()))
            self._screen.ask(f"allow {_show.call(call)}? [y/n] ", is_free=is_free)
        else:
            self._screen.ask("> ", is_free=is_free)
