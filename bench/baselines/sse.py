"""A reader of model streams with nothing around it: aiohttp, a split at blank lines, one typed decode per event.

It follows no vendor's quirk: no comments, no line ends but a line feed, no errors inside a stream, no limits, no
timeouts, no parts, no signatures. It is what the bytes cost on the transport that costs least.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec


class _ChatDelta(msgspec.Struct):
    content: str | None = None


class _ChatChoice(msgspec.Struct):
    delta: _ChatDelta


class _Chat(msgspec.Struct):
    choices: list[_ChatChoice]


class _Responses(msgspec.Struct):
    type: str
    delta: str = ""


class _MessagesDelta(msgspec.Struct):
    text: str = ""


class _Messages(msgspec.Struct):
    type: str
    delta: _MessagesDelta | None = None


class _GeminiPart(msgspec.Struct):
    text: str = ""


class _GeminiContent(msgspec.Struct):
    parts: list[_GeminiPart]


class _GeminiCandidate(msgspec.Struct):
    content: _GeminiContent


class _Gemini(msgspec.Struct):
    candidates: list[_GeminiCandidate]


_chat = msgspec.json.Decoder(_Chat).decode
_responses = msgspec.json.Decoder(_Responses).decode
_messages = msgspec.json.Decoder(_Messages).decode
_gemini = msgspec.json.Decoder(_Gemini).decode


def _chat_text(event: bytes) -> str:
    choices = _chat(event[6:]).choices if event != b"data: [DONE]" else ()
    return (choices[0].delta.content or "") if choices else ""


def _responses_text(event: bytes) -> str:
    if not event.startswith(b"event: response.output_text.delta"):
        return ""
    return _responses(event[event.index(b"\ndata: ") + 7 :]).delta


def _messages_text(event: bytes) -> str:
    if not event.startswith(b"event: content_block_delta"):
        return ""
    delta = _messages(event[event.index(b"\ndata: ") + 7 :]).delta
    return delta.text if delta is not None else ""


def _gemini_text(event: bytes) -> str:
    return _gemini(event[6:]).candidates[0].content.parts[0].text


TEXT_OF: dict[str, Callable[[bytes], str]] = {
    "openai-chat": _chat_text,
    "openai-responses": _responses_text,
    "anthropic-messages": _messages_text,
    "gemini": _gemini_text,
}
PATHS = {
    "openai-chat": "chat/completions",
    "openai-responses": "responses",
    "anthropic-messages": "messages",
    "gemini": "models/{model}:streamGenerateContent?alt=sse",
}


class Reader:
    """Streams of one vendor."""

    def __init__(self, url: str, wire_format: str) -> None:
        self._url, self._text_of, self._path = url, TEXT_OF[wire_format], PATHS[wire_format]
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def text(self, model: str) -> list[str]:
        """The pieces of one answer."""
        body = msgspec.json.encode({"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]})
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        pieces: list[str] = []
        rest = b""
        text_of = self._text_of
        url = f"{self._url}/{self._path.format(model=model)}"
        async with self._session.post(url, data=body, headers=headers) as response:
            content: Any = response.content
            async for chunk in content.iter_any():
                *events, rest = (rest + chunk).split(b"\n\n")
                for event in events:
                    text = text_of(event)
                    if text:
                        pieces.append(text)
        return pieces

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
