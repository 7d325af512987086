"""Streams made on the spot: numbered tokens, and misbehaviour, by the name of the model.

Models: ``tokens-N`` (also ``tokens-N-pace-MS``), ``status-CODE``, ``limited-SECONDS`` (429 with that retry-after),
``reset-N``, ``truncated-N`` (the connection closes after N tokens), ``ended-N`` (an orderly end of HTTP without the
stream's own), ``silent`` (no status line), ``silent-N`` (silence after N tokens), ``huge-MB``, ``error-N`` (an error
event after N tokens), ``bad-json-N``, ``bad-utf8-N``. The format is the one of the path.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import lru_cache

from examples.upstream.answer import Answer, Ending, Request
from examples.upstream.dialects import CHAT, DIALECTS


@lru_cache(maxsize=64)
def token_stream(num_tokens: int, wire_format: str = CHAT, *, has_end: bool = True) -> tuple[bytes, ...]:
    """One event per token, each a chunk of its own, between what begins and what ends such a stream."""
    dialect = DIALECTS[wire_format]
    tokens = [f"t{number} " for number in range(num_tokens)]
    end = dialect.end("".join(tokens), num_tokens) if has_end else ()
    return (*dialect.begin, *map(dialect.delta, tokens), *end)


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
        chunks = token_stream(first, request.wire_format)
        # Paced, every token is a write of its own; in a burst they leave together.
        return Answer(chunks if pace else (b"".join(chunks),), pace=pace)
    return build(first, request.wire_format)


def _broken(ending: Ending) -> Callable[[int, str], Answer]:
    def build(number: int, wire_format: str) -> Answer:
        return Answer(token_stream(number, wire_format, has_end=False), ending=ending)

    return build


def _with_tail(tail: bytes) -> Callable[[int, str], Answer]:
    def build(number: int, wire_format: str) -> Answer:
        return Answer((*token_stream(number, wire_format, has_end=False), tail))

    return build


def _error(number: int, wire_format: str) -> Answer:
    return _with_tail(DIALECTS[wire_format].error)(number, wire_format)


def _status(number: int, _: str) -> Answer:
    return Answer.error(number, json.dumps({"error": {"message": f"status {number} as asked", "type": "asked_for"}}))


def _limited(number: int, _: str) -> Answer:
    return Answer.error(429, json.dumps({"error": {"message": "slow down"}}), retry_after=str(number))


def _silent(number: int, wire_format: str) -> Answer:
    if not number:
        return Answer(is_mute=True, ending=Ending.HANG)
    return Answer(token_stream(number, wire_format, has_end=False), ending=Ending.HANG)


def _huge(megabytes: int, wire_format: str) -> Answer:
    dialect = DIALECTS[wire_format]
    piece = "x" * 16_000
    num_pieces = megabytes * 1_000_000 // len(piece)
    return Answer(itertools.chain(dialect.begin, itertools.repeat(dialect.delta(piece), num_pieces)))


_MODELS: dict[str, Callable[[int, str], Answer]] = {
    "tokens": _broken(Ending.END),
    "status": _status,
    "limited": _limited,
    "reset": _broken(Ending.RESET),
    "truncated": _broken(Ending.CUT),
    "ended": _broken(Ending.END),
    "silent": _silent,
    "huge": _huge,
    "error": _error,
    "bad-json": _with_tail(b'data: {"choices": [}\n\n'),
    "bad-utf8": _with_tail(b'data: {"id":"\xff\xfe"}\n\n'),
}
