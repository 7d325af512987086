"""The messages that a turn writes."""

from __future__ import annotations

from collections.abc import Sequence

from turnkeeper.v1 import content_pb2, event_pb2
from turnkeeper_service.engine.journal import Draft
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.engine.scheduling import FoldedRun
from turnkeeper_service.engine.steps.step import Step, text_of
from turnkeeper_service.ids import short_id

UNREAD = "(a message of the user could not be read)"


class Transcript:
    """What a turn has written so far, for its outcome and for a rollback."""

    def __init__(self, plan: TurnPlan) -> None:
        self._plan = plan
        self.ids: list[str] = list(plan.resume.message_ids) if plan.resume is not None else []
        """The messages that are committed, or will be at the turn's end."""
        self.text = ""
        """The text of the last answer."""
        self.message_id = ""
        self.finish_reason = content_pb2.FINISH_REASON_UNSPECIFIED

    def user(
        self,
        draft: Draft,
        prompt: Sequence[content_pb2.Part],
        run_id: str,
        origin: content_pb2.MessageOrigin.ValueType = content_pb2.MESSAGE_ORIGIN_UNSPECIFIED,
    ) -> str:
        """Write a message of the user's role, of this run or of one that is folded; returns its id."""
        message = content_pb2.Message(
            message_id=short_id("msg"),
            role=content_pb2.ROLE_USER,
            origin=origin,
            parts=prompt,
            status=content_pb2.MESSAGE_STATUS_COMPLETE,
            run_id=run_id,
            turn_id=self._plan.turn_id,
            context_id=self._plan.context.context_id,
            in_context=True,
        )
        draft.message(message, run_id=self._plan.run_id)
        self.ids.append(message.message_id)
        return message.message_id

    def words(self, draft: Draft, words: str, origin: content_pb2.MessageOrigin.ValueType) -> None:
        """Write what the service itself tells the model; nothing where there is nothing to say."""
        if words:
            self.user(draft, [content_pb2.Part(text=content_pb2.Text(text=words))], self._plan.run_id, origin)

    def folds(self, draft: Draft, fold: Sequence[FoldedRun], step: int) -> None:
        """Put the prompts of folded runs into the context, and write their terminals (U-22)."""
        for run in fold:
            if run.is_lost:
                # The model is told: what it is sent ends with words of the user's role.
                self.words(draft, UNREAD, content_pb2.MESSAGE_ORIGIN_UNSPECIFIED)
                run.fail(draft)
                continue
            message_id = self.user(draft, run.prompt, run.run_id)
            target = event_pb2.Fold(
                into_run_id=self._plan.run_id, turn_id=self._plan.turn_id, step=step, message_id=message_id
            )
            run.fold(draft, target)

    def answer(self, draft: Draft, message: content_pb2.Message, step: Step) -> None:
        """Write what a step has answered, whole or as far as it came."""
        draft.message(message, run_id=self._plan.run_id, attempt=step.opened.attempt, closes=step.opened)
        step.is_committed = True
        self.text, self.message_id = text_of(message), message.message_id
        self.finish_reason = message.finish_reason
