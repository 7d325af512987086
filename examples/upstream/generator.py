"""Streams made on the spot: numbered tokens, and misbehaviour, by the name of the model.

Models: ``tokens-N`` (also ``tokens-N-pace-MS``), ``status-CODE``, ``limited-SECONDS`` (429 with that retry-after),
``reset-N``, ``truncated-N`` (the connection closes after N tokens), ``ended-N`` (an orderly end of HTTP without the
stream's own), ``silent`` (no status line), ``silent-N`` (silence after N tokens), ``huge-MB``, ``error-N`` (an error
event after N tokens), ``bad-json-N``, ``bad-utf8-N``. The format is the one of the path.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import lru_cache

from examples.upstream.answer import Answer, Ending, Request


@lru_cache(maxsize=64)
def token_stream(num_tokens: int, *, is_messages: bool = False, has_end: bool = True) -> tuple[bytes, ...]:
    """One event per token, each a chunk of its own; then the end of the stream's protocol."""
    make = _messages if is_messages else _chat
    return tuple(itertools.islice(make(num_tokens, has_end), num_tokens + 16))


def answer_by_model(request: Request) -> Answer:
    """The answer that the request's model asks for; 404 for a name that says nothing."""
    name, *rest = request.model.rsplit("/", 1)[-1].split("-")
    if name == "bad" and rest:
        name, rest = f"bad-{rest[0]}", rest[1:]
    numbers = [int(part) for part in rest if part.isdigit()]
    first = numbers[0] if numbers else 0
    build = _MODELS.get(name)
    if build is None:
        return Answer.error(404, json.dumps({"error": {"message": f"no model {request.model!r}", "type": "not_found"}}))
    if name == "tokens":
        pace = numbers[1] / 1000 if "pace" in rest and len(numbers) > 1 else 0.0
        chunks = token_stream(first, is_messages=request.is_messages)
        # Paced, every token is a write of its own; in a burst they leave together.
        return Answer(chunks if pace else (b"".join(chunks),), pace=pace)
    return build(first, request.is_messages)


def _broken(ending: Ending) -> Callable[[int, bool], Answer]:
    def build(number: int, is_messages: bool) -> Answer:
        return Answer(token_stream(number, is_messages=is_messages, has_end=False), ending=ending)

    return build


def _with_tail(tail: bytes) -> Callable[[int, bool], Answer]:
    def build(number: int, is_messages: bool) -> Answer:
        return Answer((*token_stream(number, is_messages=is_messages, has_end=False), tail))

    return build


def _status(number: int, _: bool) -> Answer:
    return Answer.error(number, json.dumps({"error": {"message": f"status {number} as asked", "type": "asked_for"}}))


def _limited(number: int, _: bool) -> Answer:
    return Answer.error(429, json.dumps({"error": {"message": "slow down"}}), retry_after=str(number))


def _silent(number: int, is_messages: bool) -> Answer:
    if not number:
        return Answer(is_mute=True, ending=Ending.HANG)
    return Answer(token_stream(number, is_messages=is_messages, has_end=False), ending=Ending.HANG)


def _huge(megabytes: int, is_messages: bool) -> Answer:
    piece = "x" * 16_000
    events = _messages_delta(0, piece) if is_messages else _chat_delta(piece)
    begin = _messages_begin() if is_messages else []
    return Answer(itertools.chain(begin, itertools.repeat(events, megabytes * 1_000_000 // len(piece))))


_MODELS: dict[str, Callable[[int, bool], Answer]] = {
    "tokens": _broken(Ending.END),
    "status": _status,
    "limited": _limited,
    "reset": _broken(Ending.RESET),
    "truncated": _broken(Ending.CUT),
    "ended": _broken(Ending.END),
    "silent": _silent,
    "huge": _huge,
    "error": _with_tail(
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    ),
    "bad-json": _with_tail(b'data: {"choices": [}\n\n'),
    "bad-utf8": _with_tail(b'data: {"id":"\xff\xfe"}\n\n'),
}


def _chat(num_tokens: int, has_end: bool) -> Iterator[bytes]:
    for number in range(num_tokens):
        yield _chat_delta(f"t{number} ")
    if has_end:
        yield _chat_chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        usage = {"prompt_tokens": 7, "completion_tokens": num_tokens, "total_tokens": 7 + num_tokens}
        yield _chat_chunk([], usage=usage)
        yield b"data: [DONE]\n\n"


def _chat_delta(text: str) -> bytes:
    return _chat_chunk([{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}])


def _chat_chunk(choices: list[object], **more: object) -> bytes:
    chunk = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "upstream",
        "system_fingerprint": "fp_loopback",
        "choices": choices,
        **more,
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _messages(num_tokens: int, has_end: bool) -> Iterator[bytes]:
    yield from _messages_begin()
    for number in range(num_tokens):
        yield _messages_delta(0, f"t{number} ")
    if has_end:
        yield _named({"type": "content_block_stop", "index": 0})
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        yield _named({"type": "message_delta", "delta": delta, "usage": {"output_tokens": num_tokens}})
        yield _named({"type": "message_stop"})


def _messages_begin() -> list[bytes]:
    message = {
        "id": "msg_upstream",
        "type": "message",
        "role": "assistant",
        "model": "upstream",
        "content": [],
        "usage": {"input_tokens": 7, "output_tokens": 1},
    }
    block = {"type": "text", "text": ""}
    return [
        _named({"type": "message_start", "message": message}),
        _named({"type": "content_block_start", "index": 0, "content_block": block}),
    ]


def _messages_delta(index: int, text: str) -> bytes:
    return _named({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}})


def _named(event: dict[str, object]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()
