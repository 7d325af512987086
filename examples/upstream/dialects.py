"""The four wire formats, as far as a stream of one text needs them: how it begins, goes on, ends and fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CHAT, RESPONSES, MESSAGES, GEMINI = "openai-chat", "openai-responses", "anthropic-messages", "gemini"
NUM_INPUT_TOKENS = 7


@dataclass(frozen=True)
class Dialect:
    """One format's events, each as the bytes that carry it."""

    begin: Sequence[bytes]
    delta: Callable[[str], bytes]
    end: Callable[[str, int], Sequence[bytes]]
    """What follows the last delta, given the whole text and the number of its tokens."""
    error: bytes
    """The event of a vendor that is overloaded."""


def format_of(path: str) -> str:
    """The wire format of a request's path; what looks like nothing else is `openai-chat`."""
    path = path.partition("?")[0]
    if path.endswith(":streamGenerateContent"):
        return GEMINI
    return {"messages": MESSAGES, "responses": RESPONSES}.get(path.rpartition("/")[2], CHAT)


def _data(event: object) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _named(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **fields})


# ---- openai-chat


def _chat(choices: list[object], **more: object) -> bytes:
    chunk = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "upstream",
        "system_fingerprint": "fp_loopback",
    }
    return _data({**chunk, "choices": choices, **more})


def _chat_delta(text: str) -> bytes:
    return _chat([{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}])


def _chat_end(_: str, num_tokens: int) -> Sequence[bytes]:
    usage = {
        "prompt_tokens": NUM_INPUT_TOKENS,
        "completion_tokens": num_tokens,
        "total_tokens": NUM_INPUT_TOKENS + num_tokens,
    }
    return [
        _chat([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        _chat([], usage=usage),
        b"data: [DONE]\n\n",
    ]


# ---- openai-responses


def _response(status: str, **more: object) -> dict[str, object]:
    return {"id": "resp_upstream", "object": "response", "status": status, "model": "upstream", **more}


def _responses_item(status: str, *content: object) -> dict[str, object]:
    return {"type": "message", "id": "msg_upstream", "role": "assistant", "status": status, "content": content}


def _responses_text(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": []}


_RESPONSES_PLACE = {"item_id": "msg_upstream", "output_index": 0, "content_index": 0}


def _responses_begin() -> Sequence[bytes]:
    return [
        _named("response.created", response=_response("in_progress", output=[], usage=None)),
        _named("response.in_progress", response=_response("in_progress", output=[], usage=None)),
        _named("response.output_item.added", output_index=0, item=_responses_item("in_progress")),
        _named("response.content_part.added", **_RESPONSES_PLACE, part=_responses_text("")),
    ]


def _responses_delta(text: str) -> bytes:
    return _named("response.output_text.delta", **_RESPONSES_PLACE, delta=text)


def _responses_end(text: str, num_tokens: int) -> Sequence[bytes]:
    item = _responses_item("completed", _responses_text(text))
    usage = {
        "input_tokens": NUM_INPUT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": num_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": NUM_INPUT_TOKENS + num_tokens,
    }
    return [
        _named("response.output_text.done", **_RESPONSES_PLACE, text=text),
        _named("response.content_part.done", **_RESPONSES_PLACE, part=_responses_text(text)),
        _named("response.output_item.done", output_index=0, item=item),
        _named("response.completed", response=_response("completed", output=[item], usage=usage)),
    ]


# ---- anthropic-messages


def _messages_begin() -> Sequence[bytes]:
    message = {
        "id": "msg_upstream",
        "type": "message",
        "role": "assistant",
        "model": "upstream",
        "content": [],
        "usage": {"input_tokens": NUM_INPUT_TOKENS, "output_tokens": 1},
    }
    return [
        _named("message_start", message=message),
        _named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    ]


def _messages_delta(text: str) -> bytes:
    return _named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def _messages_end(_: str, num_tokens: int) -> Sequence[bytes]:
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        _named("content_block_stop", index=0),
        _named("message_delta", delta=delta, usage={"output_tokens": num_tokens}),
        _named("message_stop"),
    ]


# ---- gemini


def _gemini(parts: list[object], num_tokens: int, **more: object) -> bytes:
    candidate = {"content": {"role": "model", "parts": parts}, "index": 0, **more}
    usage = {
        "promptTokenCount": NUM_INPUT_TOKENS,
        "candidatesTokenCount": num_tokens,
        "totalTokenCount": NUM_INPUT_TOKENS + num_tokens,
    }
    return _data(
        {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "upstream", "responseId": "resp-upstream"}
    )


def _gemini_delta(text: str) -> bytes:
    return _gemini([{"text": text}], 1)


def _gemini_end(_: str, num_tokens: int) -> Sequence[bytes]:
    return [_gemini([{"text": ""}], num_tokens, finishReason="STOP")]


_BUSY = {"message": "busy"}
DIALECTS = {
    CHAT: Dialect(
        [], _chat_delta, _chat_end, b"event: error\n" + _data({"error": {"type": "overloaded_error", **_BUSY}})
    ),
    RESPONSES: Dialect(
        _responses_begin(), _responses_delta, _responses_end, _named("error", code="server_error", **_BUSY)
    ),
    MESSAGES: Dialect(
        _messages_begin(), _messages_delta, _messages_end, _named("error", error={"type": "overloaded_error", **_BUSY})
    ),
    GEMINI: Dialect([], _gemini_delta, _gemini_end, _data({"error": {"code": 503, "status": "UNAVAILABLE", **_BUSY}})),
}
