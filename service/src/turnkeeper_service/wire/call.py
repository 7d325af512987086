"""One call: who makes it, until when, and how its answers leave.

Handlers are made from the service descriptors. Responses may be messages or bytes that are one already: events go from
the store to the stream without being parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from turnkeeper_service.errors import Reason, Refused, store_unavailable
from turnkeeper_service.metrics import GrpcType, code_name
from turnkeeper_service.principal import Authenticator, Principal, Role
from turnkeeper_service.store.base import StoreError
from turnkeeper_service.tls import peer_names

from .result_texts import mended
from .status import code_of, reason_name, trailing_metadata

log = structlog.get_logger(__name__)

QUIET_SECONDS = 0.05
"""How long no call has come before a server that goes away may close its port."""
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


class Call:
    """One call in progress."""

    def __init__(self, context: Context, principal: Principal) -> None:
        self._context = context
        self.principal = principal
        self.tenant = principal.tenant
        self.actor = principal.name

    async def begin(self) -> None:
        """Let the client know that its stream stands, before there is anything to send."""
        await self._context.send_initial_metadata(())

    async def write(self, response: Message | bytes) -> None:
        """Send one response of a stream; waits while the reader is behind."""
        await self._context.write(response)


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


class Gatekeeper:
    """Makes handlers that authenticate, check rights and deadline, and turn refusals into statuses."""

    def __init__(
        self, authenticator: Authenticator, observer: RpcObserver | None = None, max_message_bytes: int = 16 << 20
    ) -> None:
        self._authenticator = authenticator
        self._observer = observer
        self._max_message_bytes = max_message_bytes
        self._calls: set[asyncio.Task[Any]] = set()
        self._is_over = False
        self._parting: asyncio.Future[Refused] | None = None
        """Once it is there, calls that come wait for it, and are refused with it."""
        self._stirred = asyncio.Event()
        """Set whenever a call comes or ends."""

    def part(self) -> None:
        """Begin to go away: calls that come from now on wait for the end. Idempotent.

        One that was answered at once would be followed by the next, and some of those would meet a server that is gone.
        """
        if self._parting is None:
            self._parting = asyncio.get_running_loop().create_future()

    async def quiet(self, seconds: float) -> None:
        """Wait until no call has come or ended for `QUIET_SECONDS`, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self._stirs():
                    self._stirred.clear()

    async def _stirs(self) -> bool:
        try:
            await asyncio.wait_for(self._stirred.wait(), QUIET_SECONDS)
        except TimeoutError:
            return False
        return True

    async def end(self, refused: Refused, grace: float) -> None:
        """Refuse the calls that were kept; end those that have not ended by themselves after ``grace`` seconds.

        None may look as if its caller had cancelled it.
        """
        if self._parting is not None and not self._parting.done():
            self._parting.set_result(refused)
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=grace)
        self._is_over = True
        for call in self._calls:
            call.cancel()

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
            self._calls.add(task)
            self._stirred.set()
            try:
                if self._parting is not None:
                    raise await asyncio.shield(self._parting)
                call = self._enter(context, role)
                if run is None:
                    raise not_implemented(name)
                if isinstance(request, Malformed):
                    raise request.refused
                answer = await run(request, call)
                return self._sendable(answer) if kind == "unary" else None
            except Refused as refused:
                code = code_of(refused.reason)
                log.info("call refused", method=name, reason=reason_name(refused.reason))
                await context.abort(code, refused.message, trailing_metadata(refused))
            except asyncio.CancelledError:
                if task.cancelling() and not self._is_over:
                    code = grpc.StatusCode.CANCELLED
                    raise
                # What it waited for is gone, and with it the server: what became of it is told by the same ids (U-14).
                lost = store_unavailable()
                code = code_of(lost.reason)
                await context.abort(code, lost.message, trailing_metadata(lost))
            except grpc.aio.AbortError:
                raise
            except StoreError:
                lost = store_unavailable()
                code = code_of(lost.reason)
                await context.abort(code, lost.message, trailing_metadata(lost))
            except Exception:
                code = grpc.StatusCode.INTERNAL
                log.exception("call failed by a fault", method=name)
                await context.abort(code, "internal error")
            finally:
                self._calls.discard(task)
                self._stirred.set()
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

    def _sendable(self, response: Message) -> bytes:
        """A response that may be sent; gRPC would cut one that is too long without a reason."""
        content = response.SerializeToString()
        if len(content) > self._max_message_bytes:
            raise too_large(self._max_message_bytes)
        return content

    def _enter(self, context: Context, role: Role) -> Call:
        metadata = context.invocation_metadata() or ()
        principal = self._authenticator.authenticate(metadata, _names_of(context))
        principal.require(role)
        remaining: float | None = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise Refused(Reason.ERROR_REASON_DEADLINE_PASSED, "the call's deadline has passed")
        return Call(context, principal)


def _names_of(context: Context) -> Iterator[str]:
    """The names of the caller's certificate; gRPC is asked only where somebody wants to know them."""
    yield from peer_names(context.auth_context() or {})


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
