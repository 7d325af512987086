"""The Turnkeeper client: sessions, runs, and streams that go on over lost connections.

    async with Client() as client:
        session = await client.create_session()
        async for item in client.run(session.session_id, "Hello"):
            ...

The messages of the contract that callers meet are exported here; all of them are in `turnkeeper.v1`.
"""

from turnkeeper import _quiet as _quiet
from turnkeeper._assembler import DeltaGapError, Item, MessageAssembler, OpenMessage, OpenPart
from turnkeeper._client import Client
from turnkeeper._config import Backoff
from turnkeeper._conversation import Conversation
from turnkeeper._errors import TurnkeeperError, Violation
from turnkeeper._streams import RunItem, RunStream, SessionStream, TenantStream
from turnkeeper._submission import CancelModeName, DeliveryName, Prompt, SubmitOptions
from turnkeeper._tools import EndTurn, FunctionTool, ToolError
from turnkeeper._version import __version__
from turnkeeper._worker import Worker
from turnkeeper.v1.content_pb2 import Media, Message, ModelParameters, Part, Text, ToolCall, ToolResult
from turnkeeper.v1.event_pb2 import Event, Outcome, OutcomeReason, OutcomeStatus
from turnkeeper.v1.run_service_pb2 import (
    CancelReceipt,
    Delta,
    Run,
    RunReceipt,
    RunState,
    Snapshot,
    WatchTenantResponse,
)
from turnkeeper.v1.session_service_pb2 import Approval, Session, SessionSettings

__all__ = [
    "Approval",
    "Backoff",
    "CancelModeName",
    "CancelReceipt",
    "Client",
    "Conversation",
    "DeliveryName",
    "Delta",
    "DeltaGapError",
    "EndTurn",
    "Event",
    "FunctionTool",
    "Item",
    "Media",
    "Message",
    "MessageAssembler",
    "ModelParameters",
    "OpenMessage",
    "OpenPart",
    "Outcome",
    "OutcomeReason",
    "OutcomeStatus",
    "Part",
    "Prompt",
    "Run",
    "RunItem",
    "RunReceipt",
    "RunState",
    "RunStream",
    "Session",
    "SessionSettings",
    "SessionStream",
    "Snapshot",
    "SubmitOptions",
    "TenantStream",
    "Text",
    "ToolCall",
    "ToolError",
    "ToolResult",
    "TurnkeeperError",
    "Violation",
    "WatchTenantResponse",
    "Worker",
    "__version__",
]
