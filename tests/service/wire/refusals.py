"""What a refused call says, in one value that tests compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.harness import details
from turnkeeper.v1 import error_pb2, run_service_pb2


@dataclass(frozen=True)
class Refusal:
    """A status: its code, its reason, the fields that it complains about, and the kinds of its other details."""

    code: grpc.StatusCode
    reason: str
    fields: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    found: dict[str, Any] = field(default_factory=dict, compare=False)
    message: str = field(default="", compare=False)


def refusal(code: grpc.StatusCode, reason: str, *fields: str, kinds: tuple[str, ...] = ()) -> Refusal:
    """What is expected. ErrorInfo is there always, BadRequest where fields are."""
    return Refusal(code, reason, frozenset(fields), frozenset(kinds))


def of_error(error: grpc.aio.AioRpcError) -> Refusal:
    """What an error of a call says."""
    found = details(error)
    info = found.get("ErrorInfo")
    assert info is not None, f"no ErrorInfo: {error}"
    assert info.domain == "turnkeeper.dev"
    bad = found.get("BadRequest")
    fields = frozenset(one.field for one in bad.field_violations) if bad is not None else frozenset[str]()
    kinds = frozenset(found) - {"ErrorInfo", "BadRequest"}
    return Refusal(error.code(), info.reason, fields, kinds, found, error.details() or "")


async def refused(call: Any) -> Refusal:
    """What a call says that has to be refused: a unary call, or the first read of a stream."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return of_error(caught.value)


def of_frame(item: run_service_pb2.StreamItem) -> Refusal:
    """What an error frame says; its kinds are those that a call's status would have had, as far as a frame has them."""
    assert item.HasField("error"), item
    error = item.error
    code = next(code for code in grpc.StatusCode if code.value[0] == error.code)
    kinds = frozenset({"RetryInfo"}) if error.HasField("retry_after") else frozenset[str]()
    fields = frozenset(one.field for one in error.violations)
    reason = error_pb2.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_")
    return Refusal(code, reason, fields, kinds, message=error.message)
