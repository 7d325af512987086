"""One channel to a server, the calls on it, and how a lost stream comes back.

Unary calls that may be repeated are retried by gRPC itself, by service config. Streams are not: what they lost is known
only here, so they reconnect by `Retry` and say what they have.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
import grpc.aio

from turnkeeper._config import Settings
from turnkeeper._diagnosis import diagnose, misplaced
from turnkeeper._errors import TurnkeeperError
from turnkeeper.v1.run_service_pb2_grpc import RunServiceStub
from turnkeeper.v1.session_service_pb2_grpc import SessionServiceStub
from turnkeeper.v1.tool_service_pb2_grpc import ToolServiceStub

if TYPE_CHECKING:
    # Only the types tell the two kinds of stub apart.
    from turnkeeper.v1.run_service_pb2_grpc import RunServiceAsyncStub
    from turnkeeper.v1.session_service_pb2_grpc import SessionServiceAsyncStub
    from turnkeeper.v1.tool_service_pb2_grpc import ToolServiceAsyncStub

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response")
T = TypeVar("T")

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
CONNECT_SECONDS = 3.0
"""The longest wait for the first connection; with its diagnosis it is under 5 s."""
START_SECONDS = 1.0
"""How long a server that is not there may be one that is just starting."""
KEEPALIVE_SECONDS = 30
KEEPALIVE_TIMEOUT_SECONDS = 10

# Twice is the same as once for these. Not here: what a second time would answer differently, and streams.
_IDEMPOTENT = {
    "turnkeeper.v1.RunService": ("SubmitRun", "GetRun", "ListRuns", "CancelRuns", "ClearQueue"),
    "turnkeeper.v1.SessionService": (
        "CreateSession",
        "GetSession",
        "ListSessions",
        "UpdateSession",
        "ListMessages",
        "SummarizeSession",
        "ListOrphans",
        "ListApprovals",
    ),
    "turnkeeper.v1.ToolService": ("ListTools",),
}
SERVICE_CONFIG: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method} for service, names in _IDEMPOTENT.items() for method in names
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}


class UnaryMethod(Protocol[Request, Response]):
    """A unary method of a stub."""

    def __call__(
        self, request: Request, /, *, timeout: float | None = None, metadata: tuple[tuple[str, str], ...] | None = None
    ) -> grpc.aio.UnaryUnaryCall[Any, Response]:
        """Begin the call."""


class Readable(Protocol):
    """A call that streams responses."""

    async def read(self) -> object:
        """Wait for the next response, or gRPC's mark of the end."""

    def cancel(self) -> bool:
        """End the call."""


class Retry:
    """Waits between the connections of one stream, and knows when to give up."""

    def __init__(self, connection: Connection) -> None:
        """Begin as if the stream had just been connected."""
        self._connection = connection
        self._backoff = connection.settings.backoff
        self._tell = connection.settings.on_connection
        self._delay = 0.0
        self._lost_at: float | None = None

    def connected(self) -> None:
        """Something arrived: the next loss is a new one."""
        if self._lost_at is not None and self._tell is not None:
            self._tell(None)
        self._delay, self._lost_at = 0.0, None

    async def wait(self, error: TurnkeeperError) -> None:
        """Wait until the next attempt.

        Raises:
            TurnkeeperError: The one given, where another connection would not help or has not helped for too long.
        """
        if not error.is_resumable:
            raise await self._connection.explained(error)
        now = asyncio.get_running_loop().time()
        if self._lost_at is None:
            self._lost_at = now
            if self._tell is not None:
                self._tell(error)
        self._delay = self._backoff.next(self._delay)
        delay = max(self._delay, error.retry_after or 0.0)
        if self._backoff.patience is not None and now + delay - self._lost_at > self._backoff.patience:
            raise await self._connection.explained(error)
        await asyncio.sleep(delay)


class Connection:
    """The channel, opened at the first call and closed once."""

    def __init__(self, settings: Settings) -> None:
        """Open nothing yet."""
        self.settings = settings
        self.is_closed = False
        self._channel: grpc.aio.Channel | None = None
        self._is_reached = False
        self._runs: RunServiceAsyncStub | None = None
        self._sessions: SessionServiceAsyncStub | None = None
        self._tools: ToolServiceAsyncStub | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call says of its caller."""
        token = self.settings.token
        return (("authorization", f"Bearer {token}"),) if token else ()

    @property
    def runs(self) -> RunServiceAsyncStub:
        """The runs' methods."""
        if self._runs is None:
            self._runs = RunServiceStub(self._open())
        return self._runs

    @property
    def sessions(self) -> SessionServiceAsyncStub:
        """The sessions' methods."""
        if self._sessions is None:
            self._sessions = SessionServiceStub(self._open())
        return self._sessions

    @property
    def tools(self) -> ToolServiceAsyncStub:
        """The methods of tools."""
        if self._tools is None:
            self._tools = ToolServiceStub(self._open())
        return self._tools

    async def call(
        self, method: UnaryMethod[Request, Response], request: Request, timeout: float | None = 30.0
    ) -> Response:
        """Make a unary call.

        Raises:
            TurnkeeperError: The call was refused or could not be made.
        """
        try:
            await self._reach()
            return await method(request, timeout=timeout, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise await self.explained(TurnkeeperError.from_rpc(error)) from None
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise

    async def read(self, call: Readable, response: type[T]) -> T | None:
        """Wait for a stream's next response; None at its end.

        Raises:
            TurnkeeperError: The stream ended otherwise, or was silent for too long.
        """
        try:
            await self._reach()
            async with asyncio.timeout(self.settings.silence):
                found = await call.read()
        except grpc.aio.AioRpcError as error:
            raise TurnkeeperError.from_rpc(error) from None
        except TimeoutError:
            call.cancel()
            raise TurnkeeperError(grpc.StatusCode.UNAVAILABLE, "the stream fell silent") from None
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        return found if isinstance(found, response) else None

    async def explained(self, error: TurnkeeperError) -> TurnkeeperError:
        """The error; where no server answered, with the cause that is found at its address."""
        if error.reason:
            return error
        if (words := misplaced(self.settings.address, error.message)) is not None:
            error.message = words
        elif error.code is grpc.StatusCode.UNAVAILABLE and error.is_resumable:
            cause = await diagnose(self.settings)
            error.message = cause.words if cause is not None else error.message
        return error

    async def close(self) -> None:
        """End all calls and close the channel; again does nothing."""
        self.is_closed = True
        channel, self._channel = self._channel, None
        self._runs = self._sessions = self._tools = None
        if channel is not None:
            await channel.close()

    async def _reach(self) -> None:
        """Wait for the first connection of this client, which is given up sooner than one that was lost.

        Raises:
            TurnkeeperError: There is none, and why.
        """
        if self._is_reached:
            return
        channel, now = self._open(), asyncio.get_running_loop().time
        settled, given_up = now() + START_SECONDS, now() + CONNECT_SECONDS
        while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if self.is_closed:
                raise TurnkeeperError.closed()
            is_failed, is_early = state is grpc.ChannelConnectivity.TRANSIENT_FAILURE, now() < settled
            if is_failed or now() >= given_up:
                cause = await diagnose(self.settings)
                if cause is not None and (cause.is_lasting or not is_early):
                    raise self._unreachable(cause.words)
                if now() >= given_up:
                    raise self._unreachable(f"no connection to {self.settings.address}: no answer comes")
            # A failure stands until there is a connection: nothing says that another attempt has failed too.
            with suppress(TimeoutError):
                async with asyncio.timeout_at(settled if is_failed and is_early else given_up):
                    await channel.wait_for_state_change(state)
        self._is_reached = True

    def _unreachable(self, words: str) -> TurnkeeperError:
        is_lasting = self.settings.backoff.patience is not None
        return TurnkeeperError(grpc.StatusCode.UNAVAILABLE, words, is_lasting=is_lasting)

    def _raise_if_closed(self) -> None:
        """Tell a closed channel, which gRPC reports as the cancel of a task, from a real cancel."""
        task = asyncio.current_task()
        if self.is_closed and (task is None or not task.cancelling()):
            raise TurnkeeperError.closed() from None

    def _open(self) -> grpc.aio.Channel:
        if self.is_closed:
            raise TurnkeeperError.closed()
        if self._channel is None:
            options = channel_options(self.settings)
            if self.settings.tls_ca is None:
                self._channel = grpc.aio.insecure_channel(self.settings.address, options)
            else:
                self._channel = grpc.aio.secure_channel(self.settings.address, _credentials(self.settings), options)
        return self._channel


def channel_options(settings: Settings) -> list[tuple[str, int | str]]:
    """How the channel behaves."""
    return [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", max(100, int(settings.backoff.initial * 1000))),
        ("grpc.max_reconnect_backoff_ms", max(100, int(settings.backoff.maximum * 1000))),
        ("grpc.use_local_subchannel_pool", 1),
    ]


def _credentials(settings: Settings) -> grpc.ChannelCredentials:
    """The files are read at the first call, so that a renewed one is taken by the next client."""
    assert settings.tls_ca is not None
    key = settings.tls_key.read_bytes() if settings.tls_key is not None else None
    certificate = settings.tls_certificate.read_bytes() if settings.tls_certificate is not None else None
    return grpc.ssl_channel_credentials(settings.tls_ca.read_bytes(), key, certificate)
