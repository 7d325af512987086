"""The floor under a durable turn: the relay, and the seven events of a turn, sent and made durable by two commits.

The first commit comes before the upstream is asked, the second before the end is told. No sessions, no queue, no
cancel, no validation, no history, no retry: it is what no service that keeps its word could do without.
"""

from __future__ import annotations

import sys
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench.baselines.group_commit import GroupCommit
from bench.baselines.relay import Relay, handlers
from bench.baselines.serve import serve
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2


def accepted(submission: run_service_pb2.Submission, run_id: str, seq: int) -> event_pb2.Event:
    """That a prompt was accepted."""
    event = event_pb2.Event(session_id=submission.session_id, seq=seq, run_id=run_id)
    event.time.GetCurrentTime()
    event.run_accepted.accept_sequence = seq
    event.run_accepted.kind = event_pb2.RUN_KIND_PROMPT
    event.run_accepted.prompt.extend(submission.prompt)
    return event


class Turn:
    """The events of one turn, numbered from the session's next on."""

    def __init__(self, submission: run_service_pb2.Submission, seq: int) -> None:
        self._submission = submission
        self._seq = seq
        self._run_id, self._turn_id, self._message_id = (str(uuid.uuid4()) for _ in range(3))

    def begin(self) -> list[event_pb2.Event]:
        """Accepted, started, the prompt's message, the step."""
        first = accepted(self._submission, self._run_id, self._seq)
        started, said, step = (self._event(self._seq + number) for number in (1, 2, 3))
        started.run_started.model = self._submission.model
        self._message(said, content_pb2.ROLE_USER, self._submission.prompt)
        step.step_started.step, step.step_started.model = 1, self._submission.model
        step.step_started.message_id = self._message_id
        return [first, started, said, step]

    def end(self, text: str) -> list[event_pb2.Event]:
        """The answer's message, the step's end, the terminal."""
        answer, step, last = (self._event(self._seq + number) for number in (4, 5, 6))
        self._message(answer, content_pb2.ROLE_ASSISTANT, [content_pb2.Part(text=content_pb2.Text(text=text))])
        step.step_finished.step, step.step_finished.finish_reason = 1, content_pb2.FINISH_REASON_END_TURN
        step.step_finished.usage.output_tokens = 64
        outcome = last.run_finished.outcome
        outcome.status, outcome.reason = event_pb2.OUTCOME_STATUS_COMPLETED, event_pb2.OUTCOME_REASON_ANSWERED
        outcome.text, outcome.message_id, outcome.num_steps = text, self._message_id, 1
        outcome.usage.own.output_tokens = 64
        return [answer, step, last]

    def _event(self, seq: int) -> event_pb2.Event:
        event = event_pb2.Event(session_id=self._submission.session_id, seq=seq, run_id=self._run_id)
        event.turn_id = self._turn_id
        event.time.GetCurrentTime()
        return event

    def _message(
        self, event: event_pb2.Event, role: content_pb2.Role.ValueType, parts: Sequence[content_pb2.Part]
    ) -> None:
        message = event.message_committed.message
        message.message_id, message.role, message.seq = self._message_id, role, event.seq
        message.parts.extend(parts)
        message.status, message.in_context = content_pb2.MESSAGE_STATUS_COMPLETE, True
        message.run_id, message.turn_id, message.context_id = self._run_id, self._turn_id, "main"
        message.create_time.CopyFrom(event.time)


EVENTS_OF_A_TURN = 7


class FloorRelay(Relay):
    """The one method, durable."""

    def __init__(self, upstream: str, directory: Path) -> None:
        super().__init__(upstream)
        self._commits = GroupCommit(directory / "floor.db")
        self._seqs: defaultdict[str, int] = defaultdict(int)

    async def run(self, request: run_service_pb2.RunRequest, context: Any) -> None:
        """Relay one answer between two commits."""
        submission = request.submission
        turn = Turn(submission, self._seqs[submission.session_id] + 1)
        self._seqs[submission.session_id] += EVENTS_OF_A_TURN
        await self._tell(turn.begin(), context)
        text = await self.deltas(submission, context)
        await self._tell(turn.end(text), context)

    async def _tell(self, events: Sequence[event_pb2.Event], context: Any) -> None:
        rows = [("acme", one.session_id, one.seq, one.run_id, 20, one.SerializeToString()) for one in events]
        await self._commits.commit(rows)
        response = run_service_pb2.RunResponse()
        for event in events:
            response.items.add().event.CopyFrom(event)
        await context.write(response)


async def main(upstream: str, directory: Path) -> None:
    """Serve until killed."""
    await serve(handlers(FloorRelay(upstream, directory)))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
