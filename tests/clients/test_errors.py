"""What a refused call says is what the exception says."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tests.clients.fake import FakeServer
from turnkeeper import Client, TurnkeeperError, Violation


def packed(detail: Message) -> any_pb2.Any:
    found = any_pb2.Any()
    found.Pack(detail)
    return found


def refusal(code: grpc.StatusCode, message: str, *details: Message) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=code.value[0], message=message, details=[packed(detail) for detail in details])
    trailer = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailer, message)


def test_details_become_attributes() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(2500)
    info = error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="turnkeeper.dev", metadata={"limit": "10000"})
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="submission.run_id", description="is no id")
    bad.field_violations.add(field="submission.prompt", description="is empty")
    quota = error_details_pb2.QuotaFailure()
    error = TurnkeeperError.from_rpc(refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", info, retry, bad, quota))
    assert (error.code, error.message, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "QUEUE_FULL")
    assert (error.metadata, error.retry_after) == ({"limit": "10000"}, 2.5)
    assert error.violations == (
        Violation("submission.run_id", "is no id"),
        Violation("submission.prompt", "is empty"),
    )
    assert str(error) == (
        "RESOURCE_EXHAUSTED/QUEUE_FULL: full; submission.run_id: is no id; submission.prompt: is empty"
    )


def test_what_the_message_says_of_a_field_is_said_once() -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="submission.prompt", description="is empty")
    error = TurnkeeperError.from_rpc(refusal(grpc.StatusCode.INVALID_ARGUMENT, "submission.prompt: is empty", bad))
    assert str(error) == "INVALID_ARGUMENT: submission.prompt: is empty"


def test_a_status_without_details_or_with_a_strange_trailer_is_read() -> None:
    plain = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")
    assert (TurnkeeperError.from_rpc(plain).reason, TurnkeeperError.from_rpc(plain).retry_after) == ("", None)
    other = status_pb2.Status(code=3, message="other").SerializeToString()
    trailer = grpc.aio.Metadata(("grpc-status-details-bin", other))
    strange = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailer, "gone")
    assert TurnkeeperError.from_rpc(strange).reason == ""


@pytest.mark.parametrize(
    ("code", "message", "reason", "is_resumable"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", "", True),
        (grpc.StatusCode.UNAVAILABLE, "", "DRAINING", True),
        (grpc.StatusCode.CANCELLED, "", "", True),
        (grpc.StatusCode.CANCELLED, "", "CLOSED", False),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", "", True),
        (grpc.StatusCode.INTERNAL, "Internal error from Core", "", True),
        (grpc.StatusCode.INTERNAL, "a fault", "", False),
        (grpc.StatusCode.UNKNOWN, "Stream removed", "", True),
        (grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>", "", False),
        (grpc.StatusCode.UNAUTHENTICATED, "", "TOKEN_INVALID", False),
        (grpc.StatusCode.NOT_FOUND, "", "SESSION_NOT_FOUND", False),
        (grpc.StatusCode.INVALID_ARGUMENT, "", "INVALID_FIELD", False),
        (grpc.StatusCode.OUT_OF_RANGE, "", "CURSOR_AHEAD", False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", "QUEUE_FULL", False),
    ],
)
def test_what_another_connection_may_mend(code: grpc.StatusCode, message: str, reason: str, is_resumable: bool) -> None:
    assert TurnkeeperError(code, message, reason=reason).is_resumable is is_resumable


@pytest.mark.asyncio
async def test_nobody_there_is_unavailable(server: FakeServer, client: Client) -> None:
    await server.stop()
    with pytest.raises(TurnkeeperError) as caught:
        await client.submit("s", "hello", run_id="r1")
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.run_id == "r1"
