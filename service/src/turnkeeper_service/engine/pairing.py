"""Every call of a request has exactly one result, right behind it: the last look before a request is built (U-27).

Turns write their histories so. A history that is not, since its data were repaired by hand or by a fault of ours, would
be refused by the vendors for ever; here it is mended for the request, and nothing is written back (C-102).
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from turnkeeper.v1 import content_pb2
from turnkeeper_service.tools.base import synthetic_result

log = structlog.get_logger(__name__)

INTERRUPTED = "this call was interrupted and has no result; make it again if it is still needed"


class History(list[content_pb2.Message]):
    """The messages of a context, which are only ever added to: how far they were found paired is remembered.

    So the look before a request costs what came since the last one, however long the history is.
    """

    num_paired = 0


def paired(messages: Sequence[content_pb2.Message]) -> Sequence[content_pb2.Message]:
    """The messages themselves where each call has its result, else a copy of the list in which it has."""
    num_paired = messages.num_paired if isinstance(messages, History) else 0
    # What is paired leaves no call open, so what is behind it stands for itself.
    if is_paired(messages[num_paired:]):
        if isinstance(messages, History):
            messages.num_paired = len(messages)
        return messages
    run_id = next((message.run_id for message in reversed(messages) if message.run_id), "")
    log.error("a history has calls without their results; its request is mended", run_id=run_id)
    return _mended(messages)


def is_paired(messages: Sequence[content_pb2.Message]) -> bool:
    """Whether all results stand in the message behind their calls, one for each, in the order of the calls."""
    calls: list[str] = []
    for message in messages:
        if message.role == content_pb2.ROLE_TOOL:
            results = [part.tool_result.tool_call_id for part in message.parts if part.HasField("tool_result")]
            if not results or results != calls:
                return False
            calls = []
        elif calls:
            return False
        elif message.role == content_pb2.ROLE_ASSISTANT:
            calls = [call.tool_call_id for call in _calls(message)]
    return not calls


def _calls(message: content_pb2.Message) -> list[content_pb2.ToolCall]:
    """The calls that are ours to answer."""
    return [
        part.tool_call
        for part in message.parts
        if part.HasField("tool_call") and not part.tool_call.is_provider_executed
    ]


def _mended(messages: Sequence[content_pb2.Message]) -> list[content_pb2.Message]:
    mended: list[content_pb2.Message] = []
    # Ids are unique in their message only: a result belongs to the newest call of its name that has none.
    waiting: dict[str, list[content_pb2.ToolResult]] = {}
    for message in messages:
        if message.role == content_pb2.ROLE_TOOL:
            for part in message.parts:
                slots = waiting.get(part.tool_result.tool_call_id)
                if slots:
                    slots.pop(0).CopyFrom(part.tool_result)
            continue
        mended.append(message)
        calls = _calls(message) if message.role == content_pb2.ROLE_ASSISTANT else []
        if not calls:
            continue
        behind = content_pb2.Message(role=content_pb2.ROLE_TOOL, in_context=True)
        waiting = {}
        for call in calls:
            part = behind.parts.add(tool_result=synthetic_result(call, INTERRUPTED))
            waiting.setdefault(call.tool_call_id, []).append(part.tool_result)
        mended.append(behind)
    return mended
