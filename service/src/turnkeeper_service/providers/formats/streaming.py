"""What all HTTP formats share: send, split, decode, end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

from turnkeeper_service.providers.base import Clock, FailureReason, ModelEvent, ModelRequest, ProviderError
from turnkeeper_service.providers.http.addresses import base_url_problem, endpoint
from turnkeeper_service.providers.http.errors import unexpected_answer
from turnkeeper_service.providers.http.sse import SseEvent, SseSplitter, starts_as_events
from turnkeeper_service.providers.http.transport import MAX_ERROR_BODY, Body, HttpTransport, Url, parse_url
from turnkeeper_service.providers.options import ProviderOptions
from turnkeeper_service.providers.policy.credentials import Credential

from .decoding import StreamDecoder
from .schema_refusals import SchemaRefusals
from .tool_names import NameRule, ToolNames
from .tool_schemas import SchemaRule

_SHORTEST_SECRET = 8
"""Shorter keys are placeholders of local servers; hiding them would only garble messages."""


class HttpProvider(ABC):
    """A provider that posts a request and reads an event stream."""

    def __init__(self, options: ProviderOptions, clock: Clock) -> None:
        self.options = options
        self.credential = Credential(options.key_source, options.key) if options.key_source is not None else None
        """The key, where it can change."""
        self._transport = HttpTransport(clock, options.ca_file)
        if problem := base_url_problem(options.base_url):
            raise ValueError(f"the base_url of provider {options.name!r} {problem}")
        self._url = parse_url(endpoint(options.base_url, self.path))
        self._schemas = SchemaRefusals(self._open)

    @property
    def key(self) -> str:
        """The key in plain, for the one place that sends it."""
        return self.options.key if self.credential is None else self.credential.secret.reveal()

    path = ""
    """The format's path behind the base URL."""
    names = NameRule()
    """What the format takes as the name of a tool."""
    schemas = SchemaRule()
    """What it takes as the schema of one."""

    def url(self, request: ModelRequest) -> Url:
        """Where the request goes: the same for all, unless a format says otherwise."""
        return self._url

    @abstractmethod
    def auth_headers(self) -> Mapping[str, str]:
        """The headers that carry the key and the version of the format."""

    @abstractmethod
    def encode(self, request: ModelRequest, names: ToolNames) -> bytes:
        """The body of the vendor's request, with tools under the vendor's names."""

    @abstractmethod
    def decoder(self) -> StreamDecoder[Any]:
        """A decoder for one stream."""

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Open the call; see `turnkeeper_service.providers.base.Provider`."""
        return self._schemas.stream(request) if request.output_schema_json else self._open(request)

    @asynccontextmanager
    async def _open(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        key = self.key
        headers = {"content-type": "application/json", "accept": "text/event-stream", **self.auth_headers()}
        if request.session_hash:
            headers["x-session-id"] = headers["x-session-affinity"] = request.session_hash
        headers.update({name.lower(): value for name, value in self.options.headers.items()})
        names = ToolNames(self.names, request.tools)
        sent = self.encode(request, names)
        try:
            async with self._transport.post_stream(self.url(request), headers, sent, self.options.timeouts) as body:
                given = _events(body, self.decoder())
                async with aclosing(names.restored(given) if names.has_changes else given) as events:
                    yield events
        except ProviderError as error:
            # Some vendors repeat the key that they refuse.
            if len(key) >= _SHORTEST_SECRET and key in error.detail:
                error.detail = error.detail.replace(key, "***")
                error.args = (f"{error.reason}: {error.title}: {error.detail}",)
            raise

    async def close(self) -> None:
        """Release connections. Idempotent."""
        await self._transport.close()


async def _events(body: Body, decoder: StreamDecoder[Any]) -> AsyncGenerator[ModelEvent, None]:
    splitter = SseSplitter()
    head, is_told = b"", False
    try:
        async for chunk in body:
            if not is_told:
                head = head.lstrip() + chunk
                is_stream = starts_as_events(head)
                if is_stream is False:
                    raise unexpected_answer(body.content_type, head + await body.read(MAX_ERROR_BODY))
                is_told = bool(is_stream)
            broken = _decode(splitter.feed(chunk), decoder)
            for event in decoder.take():
                yield event
            if splitter.has_replaced:
                decoder.leave_out("bytes that are not UTF-8")
            if broken is not None:
                raise broken
            if decoder.is_over:
                break
            if splitter.failure is not None:
                raise splitter.failure
    except ProviderError:
        # An answer that is whole stays so, whatever happens to what follows it.
        if decoder.failure is not None or not decoder.is_complete:
            raise
    if not decoder.is_over:
        broken = _decode(splitter.finish(), decoder)
        for event in decoder.take():
            yield event
        if broken is not None and broken.reason is not FailureReason.PROVIDER_PROTOCOL:
            # The last event lacks its blank line; where it is half an event, it gives nothing.
            raise broken
        if not decoder.is_complete:
            if head.strip() and (not is_told or (decoder.is_silent and head.lstrip()[:1] in (b"{", b"["))):
                raise unexpected_answer(body.content_type, head)
            raise decoder.broken_off()
    for event in decoder.finish():
        yield event
    if decoder.is_over:
        await body.drain()


def _decode(events: Iterable[SseEvent], decoder: StreamDecoder[Any]) -> ProviderError | None:
    """Decode events up to the stream's end or to the error that it met."""
    decode = decoder.decode
    try:
        for event in events:
            decode(event)
            if decoder.is_over or decoder.failure is not None:
                break
    except ProviderError as error:
        return error
    return decoder.failure
