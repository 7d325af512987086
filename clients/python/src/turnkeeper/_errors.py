"""One exception for every call and every frame that the server refused.

A run that failed is not an error of a call: its outcome says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from turnkeeper.v1.error_pb2 import ErrorReason
from turnkeeper.v1.run_service_pb2 import FrameError

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_REASON_PREFIX = "ERROR_REASON_"
# How gRPC itself words the loss of a connection under a code that servers use for other things too.
_LOST = ("RST_STREAM", "Stream removed", "Connection reset", "GOAWAY", "Internal error from Core")


@dataclass(frozen=True)
class Violation:
    """One field that is not as it has to be."""

    field: str
    """The field's path, for example `submission.run_id`."""
    description: str
    """What is wrong with it."""


class TurnkeeperError(Exception):
    """A call, or a frame of a conversation, that the server refused, or a connection that could not be had.

    Attributes:
        code: The gRPC code.
        reason: What exactly, for programs, for example `SESSION_BUSY`; empty where no server answered.
        message: What exactly, for people.
        metadata: Facts by name, for example `limit`.
        violations: All fields that are not as they have to be.
        retry_after: Seconds after which to try again; None where the server did not say.
        run_id: The run that a submission asked for; the same id submits it again safely. None for other calls.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
        is_lasting: bool = False,
    ) -> None:
        """Take the parts as the server gave them; a lasting error is one that no other connection mends."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after
        self.run_id: str | None = None
        self._is_lasting = is_lasting

    def __str__(self) -> str:
        name = f"{self.code.name}/{self.reason}" if self.reason else self.code.name
        fields = (f"{violation.field}: {violation.description}" for violation in self.violations)
        # The server's own words name the fields already.
        return "; ".join([f"{name}: {self.message}", *(field for field in fields if field not in self.message)])

    @property
    def is_resumable(self) -> bool:
        """Whether a stream that ended so may go on over another connection."""
        if self._is_lasting:
            return False
        if self.code is grpc.StatusCode.UNAVAILABLE:
            return True
        if self.reason:
            return False
        if self.code is grpc.StatusCode.CANCELLED:
            return True
        words = self.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        return words and any(sign in self.message for sign in _LOST)

    @classmethod
    def from_rpc(cls, error: grpc.aio.AioRpcError) -> TurnkeeperError:
        """Read the status of a call and its `google.rpc` details."""
        reason, metadata, retry_after = "", {}, None
        violations: list[Violation] = []
        for detail in _details(error):
            if isinstance(detail, error_details_pb2.ErrorInfo):
                reason, metadata = detail.reason, dict(detail.metadata)
            elif isinstance(detail, error_details_pb2.RetryInfo):
                retry_after = detail.retry_delay.ToTimedelta().total_seconds()
            elif isinstance(detail, error_details_pb2.BadRequest):
                violations += [Violation(found.field, found.description) for found in detail.field_violations]
        return cls(
            error.code(),
            error.details() or "",
            reason=reason,
            metadata=metadata,
            violations=tuple(violations),
            retry_after=retry_after,
        )

    @classmethod
    def from_frame(cls, error: FrameError) -> TurnkeeperError:
        """Read what a conversation answered to one frame."""
        has_reason = error.reason in ErrorReason.values() and error.reason != 0
        return cls(
            _CODES.get(error.code, grpc.StatusCode.UNKNOWN),
            error.message,
            reason=ErrorReason.Name(error.reason).removeprefix(_REASON_PREFIX) if has_reason else "",
            metadata=error.metadata,
            violations=tuple(Violation(found.field, found.description) for found in error.violations),
            retry_after=error.retry_after.ToTimedelta().total_seconds() if error.HasField("retry_after") else None,
        )

    @classmethod
    def closed(cls) -> TurnkeeperError:
        """The client, or the conversation, was closed under the call."""
        return cls(grpc.StatusCode.CANCELLED, "closed by this client", reason="CLOSED")


def _details(error: grpc.aio.AioRpcError) -> list[Any]:
    """The details that this client reads; others are skipped, and so is a trailer that is not one."""
    try:
        status = rpc_status.from_call(cast("grpc.Call", error))
    except ValueError:
        return []
    found: list[Any] = []
    for packed in status.details if status is not None else ():
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
            detail = kind()
            if packed.Unpack(detail):
                found.append(detail)
    return found
