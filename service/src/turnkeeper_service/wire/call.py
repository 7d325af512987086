"""One call: who makes it, until when, and how its answers leave.

Handlers are made from the service descriptors. Responses may be messages or bytes that are one already: events go from
the store to the stream without being parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from turnkeeper_service.errors import Reason, Refused, refusal_of, store_unavailable
from turnkeeper_service.principal import Authenticator, Principal, Role, TokenInvalid
from turnkeeper_service.process.metrics import GrpcType, code_name
from turnkeeper_service.process.tls import peer_names
from turnkeeper_service.store.errors import StoreError

from .open_calls import OpenCalls
from .result_texts import mended
from .status import code_of, reason_name, trailing_metadata

log = structlog.get_logger(__name__)

OPENING_SECONDS = 1.0
Context = grpc.aio.ServicerContext[Any, Any]


class Malformed:
    """A request whose bytes are not its message, or too many."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused


class RpcEnd(Protocol):
    """Who is told how a call ended."""

    def ended(self, code: str) -> None:
        """It ended with this code."""
        ...


class RpcObserver(Protocol):
    """Who counts calls."""

    def rpc(self, kind: GrpcType, service: str, method: str) -> RpcEnd:
        """A call begins."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """What a caller showed to say who it is."""

    authorization: Sequence[tuple[str, str | bytes]] = field(repr=False)
    peer_names: Sequence[str]


class Call:
    """One call in progress."""

    def __init__(self, context: Context, principal: Principal, role: Role, shown: Shown, max_bytes: int) -> None:
        self._context = context
        self._max_bytes = max_bytes
        self.principal = principal
        self.role = role
        self.shown = shown
        self.revoked: Refused | None = None
        """Why its caller may not go on with it."""
        self._opening: asyncio.Task[None] | None = None
        self.tenant = principal.tenant
        self.actor = principal.name

    async def begin(self) -> None:
        """Let the client know that its stream stands, before there is anything to send."""
        await self._send(self._context.send_initial_metadata(()))

    async def write(self, response: Message | bytes) -> None:
        """Send one response of a stream; waits while the reader is behind. Raises Refused where it is too long."""
        await self._send(self._context.write(sendable(response, self._max_bytes)))

    async def _send(self, sending: Coroutine[Any, Any, None]) -> None:
        if self._opening is not None:
            await sending
            return
        # The first send carries the metadata. A call that was cancelled in the middle of it could not be ended any
        # more: its status would carry them a second time, which gRPC refuses.
        self._opening = asyncio.get_running_loop().create_task(sending, name="first send")
        await asyncio.shield(self._opening)

    async def opened(self) -> None:
        """Wait until what opens the stream is sent, if that is under way; not for a reader that takes nothing."""
        if self._opening is not None and not self._opening.done():
            await asyncio.wait({self._opening}, timeout=OPENING_SECONDS)
            self._opening.cancel()
        if self._opening is not None and self._opening.done() and not self._opening.cancelled():
            # Whoever waited for it is told; if nobody did, nobody needs to be.
            self._opening.exception()


Unary = Callable[[Any, Call], Awaitable[Message]]
ServerStream = Callable[[Any, Call], Awaitable[None]]
Bidirectional = Callable[[AsyncIterator[Any], Call], Awaitable[None]]


def not_implemented(method: str) -> Refused:
    """The method exists in the contract and not yet in this server."""
    return Refused(Reason.ERROR_REASON_NOT_IMPLEMENTED, f"{method} is not implemented yet", metadata={"method": method})


def malformed() -> Refused:
    """The bytes of a request are not its message."""
    return Refused(Reason.ERROR_REASON_INVALID_FIELD, "the request is not a message of its type")


def too_large(max_bytes: int) -> Refused:
    """A request, or what would answer it, is longer than a message may be."""
    return Refused(
        Reason.ERROR_REASON_MESSAGE_TOO_LARGE,
        f"a message has at most {max_bytes} bytes",
        metadata={"limit": str(max_bytes)},
        limit="max_message_bytes",
    )


def sendable(response: Message | bytes, max_bytes: int) -> bytes:
    """The bytes of a response. Raises Refused where it is too long: gRPC would end the call without a reason."""
    content = _serialize(response)
    if len(content) > max_bytes:
        raise too_large(max_bytes)
    return content


class Gatekeeper:
    """Makes handlers that authenticate, check rights and deadline, and turn refusals into statuses."""

    def __init__(
        self, authenticator: Authenticator, observer: RpcObserver | None = None, max_message_bytes: int = 16 << 20
    ) -> None:
        self._authenticator = authenticator
        self._observer = observer
        self._max_message_bytes = max_message_bytes
        self.calls = OpenCalls()
        self._streams: dict[asyncio.Task[Any], Call] = {}
        """Calls that may last, which are looked at again when other callers are known."""

    def recheck(self) -> None:
        """End the streams of callers who would not be let in any more."""
        for task, call in self._streams.items():
            try:
                principal = self._authenticator.authenticate(call.shown.authorization, call.shown.peer_names)
                principal.require(call.role)
                if principal.tenant != call.tenant:
                    raise TokenInvalid
            except Refused as refused:
                call.revoked = refused
                task.cancel()

    def handlers(
        self, service: ServiceDescriptor, methods: Mapping[str, Callable[..., Any]], roles: Mapping[str, Role]
    ) -> grpc.GenericRpcHandler:
        """All handlers of a service. A method that is not in ``methods`` answers UNIMPLEMENTED."""
        made = {
            method.name: self._handler(service, method, methods.get(method.name), roles[method.name])
            for method in service.methods
        }
        return grpc.method_handlers_generic_handler(service.full_name, made)

    def _handler(
        self, service: ServiceDescriptor, method: MethodDescriptor, run: Callable[..., Any] | None, role: Role
    ) -> grpc.RpcMethodHandler[Any, Any]:
        name = f"{service.name}.{method.name}"
        kind: GrpcType = "unary"
        if method.server_streaming:
            kind = "bidi_stream" if method.client_streaming else "server_stream"

        async def serve(request: Any, context: Context) -> Any:
            seen = self._observer.rpc(kind, service.full_name, method.name) if self._observer else None
            code = grpc.StatusCode.OK
            task = asyncio.current_task()
            assert task is not None
            call: Call | None = None
            try:
                await self.calls.enter(task)
                call = self._enter(context, role)
                if kind != "unary":
                    self._streams[task] = call
                if run is None:
                    raise not_implemented(name)
                if isinstance(request, Malformed):
                    raise request.refused
                answer = await run(request, call)
                return sendable(answer, self._max_message_bytes) if kind == "unary" else None
            except Refused as refused:
                code = code_of(refused.reason)
                log.info("call refused", method=name, reason=reason_name(refused.reason))
                await context.abort(code, refused.message, trailing_metadata(refused))
            except asyncio.CancelledError:
                revoked = call.revoked if call is not None else None
                if call is not None:
                    await call.opened()
                if task.cancelling() and revoked is None and not self.calls.are_over:
                    code = grpc.StatusCode.CANCELLED
                    raise
                # What it waited for is gone, and with it the server: what became of it is told by the same ids (U-14).
                lost = revoked or store_unavailable()
                code = code_of(lost.reason)
                log.info("call refused", method=name, reason=reason_name(lost.reason))
                await context.abort(code, lost.message, trailing_metadata(lost))
            except grpc.aio.AbortError:
                raise
            except StoreError as error:
                log.error("the store did not answer", method=name, error=type(error).__name__, path=error.path)
                lost = refusal_of(error)
                code = code_of(lost.reason)
                await context.abort(code, lost.message, trailing_metadata(lost))
            except grpc.aio.InternalError:
                # What was to be sent can reach nobody: gRPC says so before, or instead of, cancelling the call.
                code = grpc.StatusCode.CANCELLED
                log.debug("a caller is gone", method=name)
                raise asyncio.CancelledError from None
            except Exception:
                code = grpc.StatusCode.INTERNAL
                log.exception("call failed by a fault", method=name)
                await context.abort(code, "internal error")
            finally:
                self.calls.leave(task)
                self._streams.pop(task, None)
                if seen is not None:
                    seen.ended(code_name(code.name))

        make = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "server_stream": grpc.unary_stream_rpc_method_handler,
            "bidi_stream": grpc.stream_stream_rpc_method_handler,
        }[kind]
        handler: grpc.RpcMethodHandler[Any, Any] = make(
            serve, request_deserializer=_deserializer(method, self._max_message_bytes), response_serializer=_serialize
        )
        return handler

    def _enter(self, context: Context, role: Role) -> Call:
        metadata = context.invocation_metadata() or ()
        names = _Names(context)
        principal = self._authenticator.authenticate(metadata, names)
        principal.require(role)
        remaining: float | None = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise Refused(Reason.ERROR_REASON_DEADLINE_PASSED, "the call's deadline has passed")
        shown = Shown([(key, value) for key, value in metadata if key == "authorization"], names.asked)
        return Call(context, principal, role, shown, self._max_message_bytes)


class _Names:
    """The names of the caller's certificate; gRPC is asked only where somebody wants to know them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.asked: Sequence[str] = ()

    def __iter__(self) -> Iterator[str]:
        self.asked = peer_names(self._context.auth_context() or {})
        return iter(self.asked)


def _deserializer(method: MethodDescriptor, max_bytes: int) -> Callable[[bytes], Message | Malformed]:
    message_class = GetMessageClass(method.input_type)

    def deserialize(content: bytes) -> Message | Malformed:
        if len(content) > max_bytes:
            return Malformed(too_large(max_bytes))
        try:
            return message_class.FromString(content)
        except DecodeError:
            whole = mended(method.input_type, content)
        try:
            return Malformed(malformed()) if whole is None else message_class.FromString(whole)
        except DecodeError:
            return Malformed(malformed())

    return deserialize


def _serialize(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()
