"""Refusals as gRPC statuses with google.rpc details, and as error frames."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from turnkeeper.v1 import error_pb2, run_service_pb2
from turnkeeper_service.errors import Refused

DOMAIN = "turnkeeper.dev"
DETAILS_KEY = "grpc-status-details-bin"

_CODES = {
    range(1, 20): grpc.StatusCode.INVALID_ARGUMENT,
    range(20, 30): grpc.StatusCode.NOT_FOUND,
    range(30, 40): grpc.StatusCode.ALREADY_EXISTS,
    range(40, 60): grpc.StatusCode.FAILED_PRECONDITION,
    range(60, 70): grpc.StatusCode.OUT_OF_RANGE,
    range(70, 80): grpc.StatusCode.RESOURCE_EXHAUSTED,
    range(80, 90): grpc.StatusCode.UNAVAILABLE,
    range(90, 95): grpc.StatusCode.UNAUTHENTICATED,
    range(95, 100): grpc.StatusCode.PERMISSION_DENIED,
    range(100, 110): grpc.StatusCode.UNIMPLEMENTED,
    range(110, 120): grpc.StatusCode.DEADLINE_EXCEEDED,
    range(120, 130): grpc.StatusCode.DATA_LOSS,
}


def code_of(reason: error_pb2.ErrorReason.ValueType) -> grpc.StatusCode:
    """The canonical code of a reason: the numbers of the enum are grouped by it."""
    for numbers, code in _CODES.items():
        if reason in numbers:
            return code
    return grpc.StatusCode.INTERNAL


def reason_name(reason: error_pb2.ErrorReason.ValueType) -> str:
    """The reason as ErrorInfo carries it."""
    return error_pb2.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def details_of(refused: Refused) -> list[Message]:
    """The google.rpc details of a refusal: ErrorInfo always, the others where they fit."""
    info = error_details_pb2.ErrorInfo(reason=reason_name(refused.reason), domain=DOMAIN, metadata=refused.metadata)
    details: list[Message] = [info]
    if refused.violations:
        bad = error_details_pb2.BadRequest()
        for violation in refused.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        details.append(bad)
    if refused.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(refused.retry_after * 1e9))
        details.append(retry)
    if refused.limit is not None:
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=refused.limit, description=refused.message)
        details.append(quota)
    if refused.resource is not None:
        kind, name = refused.resource
        details.append(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
    if code_of(refused.reason) == grpc.StatusCode.FAILED_PRECONDITION:
        failure = error_details_pb2.PreconditionFailure()
        subject = refused.metadata.get("session_id", "")
        failure.violations.add(type=info.reason, subject=subject, description=refused.message)
        details.append(failure)
    return details


def trailing_metadata(refused: Refused) -> tuple[tuple[str, bytes], ...]:
    """The trailers that carry the details."""
    status = status_pb2.Status(code=code_of(refused.reason).value[0], message=refused.message)
    for detail in details_of(refused):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return ((DETAILS_KEY, status.SerializeToString()),)


def frame_error(frame_id: str, refused: Refused) -> run_service_pb2.FrameError:
    """A refusal inside a stream, which goes on."""
    error = run_service_pb2.FrameError(
        frame_id=frame_id,
        code=code_of(refused.reason).value[0],
        reason=refused.reason,
        message=refused.message,
        metadata=refused.metadata,
    )
    for violation in refused.violations:
        error.violations.add(field=violation.field, description=violation.description)
    if refused.retry_after is not None:
        error.retry_after.FromNanoseconds(int(refused.retry_after * 1e9))
    return error
