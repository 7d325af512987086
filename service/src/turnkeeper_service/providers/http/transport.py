"""HTTP to a vendor: the only file that knows httpx and what carries it.

httpx is the interface and aiohttp the machinery below it, for the CPU that a paced stream costs. Of httpx it is the
transport's interface, not the client: what the client adds (cookies, redirects, credentials and proxies of the
environment) is not wanted here and would cost a third of a millisecond per call.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias, cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from turnkeeper_service.providers.base import Clock, FailureReason, ProviderError
from turnkeeper_service.providers.options import Timeouts

from .compression import Expander, UnreadableError, is_compressed
from .errors import status_error
from .watchdog import Watchdog

MAX_ERROR_BODY = 64 * 1024
KEEP_ALIVE_SECONDS = 15.0
DRAIN_SECONDS = 0.1
_watchdog: ContextVar[Watchdog] = ContextVar("provider_watchdog")


class _Connector(aiohttp.TCPConnector):
    """Tells the call's watchdog when the connection stands, which httpx does not show."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        watchdog = _watchdog.get(None)
        if watchdog is not None:
            watchdog.connected()
        return connection


Url: TypeAlias = httpx.URL
"""An address, parsed."""


def parse_url(url: str) -> Url:
    """Parse an address once for many calls; raises ValueError where it is none."""
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is no address: {error}") from None


class Body:
    """The bytes of one answer; iterated once, in as many goes as it takes."""

    def __init__(self, response: httpx.Response, watchdog: Watchdog) -> None:
        # The stream itself, not `aiter_raw` around it: the same bytes for two generators less per chunk.
        self._stream = cast(httpx.AsyncByteStream, response.stream)
        self.content_type: str = response.headers.get("content-type", "")
        """What the server calls it, right or wrong."""
        self._watchdog = watchdog
        self._encoding = response.headers.get("content-encoding", "")
        self._chunks = self._expanded() if is_compressed(self._encoding) else self._iterate()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def _iterate(self) -> AsyncGenerator[bytes, None]:
        watchdog = self._watchdog
        try:
            watchdog.begin_wait()
            async for chunk in self._stream:
                watchdog.end_wait()
                yield chunk
                watchdog.begin_wait()
        except asyncio.CancelledError:
            watchdog.interrupted()
            raise
        except (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError, OSError) as error:
            raise ProviderError(
                FailureReason.PROVIDER_STREAM_BROKEN,
                "Stream broken",
                f"The connection was lost inside the answer ({type(error).__name__}).",
                is_retryable=True,
            ) from error
        finally:
            watchdog.leave()

    async def _expanded(self) -> AsyncGenerator[bytes, None]:
        chunks = self._iterate()
        try:
            expander = Expander(self._encoding)
            async for chunk in chunks:
                for piece in expander.feed(chunk):
                    yield piece
            expander.finish()
        except UnreadableError:
            raise ProviderError(
                FailureReason.PROVIDER_PROTOCOL,
                "Compressed stream",
                f"The stream is encoded as {self._encoding}, unasked, and cannot be read.",
            ) from None
        finally:
            await chunks.aclose()

    async def drain(self) -> None:
        """Read the little that follows a stream's last event, so that its connection can be used again."""
        self._watchdog.limit_rest(DRAIN_SECONDS)
        left = MAX_ERROR_BODY
        try:
            async for chunk in self:
                left -= len(chunk)
                if left < 0:
                    return
        except ProviderError:
            # The answer is whole; only the connection is lost.
            return

    async def read(self, limit: int) -> bytes:
        """At most so many bytes of a body that is no stream; what breaks it off is not worth a second error."""
        parts: list[bytes] = []
        size = 0
        try:
            async for chunk in self:
                parts.append(chunk)
                size += len(chunk)
                if size >= limit:
                    break
        except ProviderError:
            pass
        return b"".join(parts)[:limit]

    async def close(self) -> None:
        """Free the reader. The response itself is closed by whoever opened it."""
        await self._chunks.aclose()


class HttpTransport:
    """One pool of connections to one vendor."""

    def __init__(self, clock: Clock, ca_file: Path | None = None) -> None:
        self._clock = clock
        # Read here, at start: loading certificates takes milliseconds that the loop must not lose later.
        self._ssl = ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context(trust_env=False)
        self._transport: httpx.AsyncBaseTransport | None = None
        self._is_closed = False

    @asynccontextmanager
    async def post_stream(
        self, url: httpx.URL | str, headers: Mapping[str, str], body: bytes, timeouts: Timeouts
    ) -> AsyncIterator[Body]:
        """POST and give the bytes of the event stream that answers; leaving closes the socket.

        Raises `ProviderError` for everything that is not such a stream. A connection goes back to the pool only where
        the whole body was read.
        """
        transport = self._open()
        with Watchdog(self._clock, timeouts) as watchdog:
            response = await _send(transport, watchdog, url, headers, body)
            try:
                chunks = Body(response, watchdog)
                try:
                    await self._check(response, chunks)
                    yield chunks
                finally:
                    await chunks.close()
            finally:
                await response.aclose()

    async def close(self) -> None:
        """Close the pool. Idempotent."""
        self._is_closed = True
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    def _open(self) -> httpx.AsyncBaseTransport:
        # Made inside the loop that uses it: aiohttp binds its session to the running loop.
        if self._is_closed:
            raise RuntimeError("the provider is closed")
        if self._transport is None:
            connector = _Connector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=self._ssl)
            session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
            self._transport = AiohttpTransport(client=session, verify=self._ssl)
        return self._transport

    async def _check(self, response: httpx.Response, chunks: Body) -> None:
        # What the body is called is not looked at: what it is, its first bytes say.
        if not 200 <= response.status_code < 300:
            body = await chunks.read(MAX_ERROR_BODY)
            raise status_error(response.status_code, response.headers, body, self._clock.time())


async def _send(
    transport: httpx.AsyncBaseTransport,
    watchdog: Watchdog,
    url: httpx.URL | str,
    headers: Mapping[str, str],
    body: bytes,
) -> httpx.Response:
    token = _watchdog.set(watchdog)
    try:
        written = {name.encode(): value.encode() for name, value in headers.items()}
        request = httpx.Request("POST", url, headers={**written, b"accept-encoding": b"identity"}, content=body)
        # Said, or httpx tries encodings on every header, every time it looks at one.
        request.headers.encoding = "utf-8"
        response = await watchdog.wait(transport.handle_async_request(request))
        response.headers.encoding = "latin-1"
        return response
    except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, UnicodeError) as error:
        # The last one is of a name that no resolver takes.
        raise ProviderError(
            FailureReason.PROVIDER_UNREACHABLE,
            "Provider unreachable",
            f"No answer from the provider: {str(error) or type(error).__name__}",
            is_retryable=True,
        ) from error
    finally:
        _watchdog.reset(token)
