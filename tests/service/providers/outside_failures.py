"""What is tolerated of vendors around their answers: how failures are said, how streams travel, how answers end."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from examples.upstream import Answer
from tests.service.providers.outside_vendor import (
    CHAT,
    DONE,
    GEMINI,
    MESSAGES,
    PLAIN,
    RESPONSES,
    Case,
    Seen,
    chat,
    failed,
    gemini,
    messages,
    ok,
    responses,
    sse,
)

Cases = Mapping[str, Sequence[Case]]
ALL = (CHAT, RESPONSES, MESSAGES, GEMINI)
JSON, TEXT, NDJSON = "application/json", "text/plain; charset=utf-8", "application/x-ndjson"


def in_all(make: Callable[[str], Sequence[Case]]) -> Cases:
    """The same in every format."""
    return {name: make(name) for name in ALL}


# What a vendor says in place of an answer, the reason that it is, and its words.
STATED: Sequence[tuple[Any, str, str]] = (
    ({"object": "error", "message": "The model m2 does not exist.", "code": 404}, "PROVIDER_REFUSED", "m2 does not"),
    ({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, "PROVIDER_ERROR", "login fail"),
    ({"error_code": 50001, "text": "out of memory"}, "PROVIDER_ERROR", "out of memory"),
    ({"error": "model busy", "status": 503}, "PROVIDER_ERROR", "model busy"),
    ({"error": {"message": "slow down", "code": "429"}}, "PROVIDER_RATE_LIMITED", "slow down"),
    ({"error": {"message": "who are you", "status": 401}}, "PROVIDER_UNAUTHENTICATED", "who are you"),
    ({"error": {"message": "odd", "code": "\u00b2"}}, "PROVIDER_ERROR", "odd"),
    ({"detail": "Not Found"}, "PROVIDER_ERROR", "Not Found"),
    ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "PROVIDER_ERROR", "field required"),
    ({"message": "Internal server error"}, "PROVIDER_ERROR", "Internal server error"),
    ({"code": "InvalidApiKey", "message": "no such key", "request_id": "x"}, "PROVIDER_ERROR", "no such key"),
    ({"status_code": 403, "msg": "not yours"}, "PROVIDER_UNAUTHENTICATED", "not yours"),
    ({"success": False, "errors": [{"code": 7003, "message": "no route"}]}, "PROVIDER_ERROR", "no route"),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "PROVIDER_ERROR", "busy"),
    ({"type": "invalid_request_error", "message": "bad tool"}, "PROVIDER_ERROR", "bad tool"),
    ({"status": "error", "message": "tired"}, "PROVIDER_ERROR", "tired"),
    ({"ok": False, "message": "tired"}, "PROVIDER_ERROR", "tired"),
    ({"error": True, "error_message": "quota"}, "PROVIDER_ERROR", "quota"),
    ({"fault": {"faultstring": "Rate limit quota violation"}}, "PROVIDER_ERROR", "quota violation"),
    ({"internalServerException": {"message": "unexpected"}}, "PROVIDER_ERROR", "unexpected"),
    ({"__type": "com.x#ThrottlingException", "Message": "slow down"}, "PROVIDER_ERROR", "slow down"),
    ({"error": 500}, "PROVIDER_ERROR", "500"),
    (
        {"error": {"code": 400, "message": "Provider returned error", "metadata": {"raw": '{"error":"no such tool"}'}}},
        "PROVIDER_REFUSED",
        "Provider returned error: no such tool",
    ),
)


def _stated(wire_format: str) -> list[Case]:
    cases: list[Case] = []
    for body, reason, words in STATED:
        line = json.dumps(body)
        cases += [
            failed(sse(body), reason, words),
            failed(Answer.of(line, content_type=JSON), reason, words),
        ]
    body, reason, words = STATED[0]
    laid_out = json.dumps(body, indent=2)
    cases += [
        failed(Answer.of(laid_out, content_type=JSON), reason, words),
        failed(laid_out + "\n", reason, words),
        failed(json.dumps(body), reason, words),
        failed(json.dumps(body) + "\n\n", reason, words),
        failed(f"event: error\ndata: {json.dumps(body)}\n\n", reason, words),
        failed("event: error\ndata: out of paper\n\n", "PROVIDER_ERROR", "out of paper"),
        failed(": hello\n\n" + json.dumps(body) + "\n", reason, words),
        failed(Answer.of("<html>sign in</html>", content_type="text/html"), "PROVIDER_PROTOCOL", "sign in"),
        failed(Answer.of("upstream is gone"), "PROVIDER_PROTOCOL", "upstream is gone"),
        failed("data: upstream is gone\n\n", "PROVIDER_PROTOCOL", "upstream is gone"),
        failed("data: upstream is gone\n\n" + DONE, "PROVIDER_PROTOCOL", "upstream is gone"),
        failed('data: {"note":{},"message":"upstream is gone"}\n\n', "PROVIDER_STREAM_BROKEN", "upstream is gone"),
        failed(Answer.of(b'data: {"error":"upstream is g\xf6ne"}\n\n'), "PROVIDER_ERROR", "upstream is g"),
        failed(Answer.of(b'\xef\xbb\xbf{"error":"caf\xe9"}', content_type=JSON), "PROVIDER_ERROR", "caf"),
        failed(Answer.error(400, b'\xef\xbb\xbf{"error":"no"}'), "PROVIDER_REFUSED", "HTTP 400: no"),
        failed(
            Answer.error(400, gzip.compress(b'{"error":"no"}'), content_encoding="gzip"),
            "PROVIDER_REFUSED",
            "HTTP 400: no",
        ),
        failed(Answer.error(400, b"\x0b\x02", content_encoding="br"), "PROVIDER_REFUSED", "without a message"),
        failed('data: "upstream is gone"\n\n', "PROVIDER_PROTOCOL", "upstream is gone"),
        failed(Answer.error(400, '{"error":' + "[" * 5000 + "]" * 5000 + "}"), "PROVIDER_REFUSED", "HTTP 400"),
        failed(sse('{"error":' + "[" * 5000 + "]" * 5000 + "}"), "PROVIDER_ERROR"),
        failed(Answer.of(json.dumps({"hello": 1}), content_type=JSON), "PROVIDER_PROTOCOL", "hello"),
    ]
    return cases


def _half(wire_format: str) -> str:
    """The beginning of a good answer."""
    begin = {
        CHAT: sse({"choices": [{"index": 0, "delta": {"content": "half"}}]}),
        RESPONSES: sse({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "half"}),
        MESSAGES: sse(
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half"}},
        ),
        GEMINI: sse({"candidates": [{"content": {"parts": [{"text": "half"}]}}]}),
    }
    return begin[wire_format]


def _stated_behind(wire_format: str) -> list[Case]:
    half = _half(wire_format)
    return [
        failed(half + line, "PROVIDER_ERROR", "out of paper", text="half")
        for line in (
            '{"error":{"message":"out of paper"}}',
            '{"error":{"message":"out of paper"}}\n',
            'data: {"object":"error","message":"out of paper","code":400}\n\n',
            'data: {"error":"out of paper"}\n\n',
        )
    ]


SILENT: Mapping[str, Sequence[str]] = {
    CHAT: (
        DONE,
        "[DONE]\n",
        chat(),
        chat({"content": ""}),
        chat({"content": None}, {"role": "assistant"}),
        sse({}) + DONE,
    ),
    RESPONSES: (responses(), responses({"type": "message", "content": []}), DONE),
    MESSAGES: (messages(), messages([{"type": "text", "text": ""}]).replace('"end_turn"', "null"), DONE),
    GEMINI: (gemini(), gemini({"text": ""}), gemini(reason=None) + DONE),
}


def _silent(wire_format: str) -> list[Case]:
    cases = [failed(body, "PROVIDER_PROTOCOL") for body in SILENT[wire_format]]
    cases.append(Case([SILENT[wire_format][0], PLAIN[wire_format]], retries=1))
    return cases


def _word(reason: object) -> Callable[[Seen], bool]:
    return lambda seen: seen.messages[-1].provider_finish_reason == reason


ENDS: Cases = {
    CHAT: [
        failed(
            sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"message": "it broke"}}]}),
            "PROVIDER_ERROR",
            "it broke",
        ),
        failed(chat({"content": "half"}, reason="error"), "PROVIDER_ERROR", "error", text="half"),
        failed(
            sse({"choices": [{"delta": {"content": "half"}, "error": {"code": 502, "message": "it broke"}}]}),
            "PROVIDER_ERROR",
            "it broke",
            text="half",
        ),
        Case([chat(reason="error"), PLAIN[CHAT]], retries=1),
        failed(chat(reason="tired"), "PROVIDER_ERROR", "tired"),
        ok(chat({"content": "real"}, reason="tired"), check=_word("tired")),
        ok(chat({"content": "real"}, reason=7), check=_word("7")),
        failed(chat(reason="length"), "MAX_TOKENS"),
        failed(chat(reason="content_filter"), "CONTENT_FILTERED"),
    ],
    RESPONSES: [
        failed(responses(status="failed", error={"message": "it broke"}), "PROVIDER_ERROR", "it broke"),
        failed(responses(error={"message": "it broke", "code": "server_error"}), "PROVIDER_ERROR", "it broke"),
        failed(responses(status="incomplete", incomplete_details={"reason": "tired"}), "PROVIDER_ERROR", "tired"),
        ok(
            responses(
                {"type": "message", "content": [{"type": "output_text", "text": "real"}]},
                status="incomplete",
                incomplete_details={"reason": "tired"},
            ),
            check=_word("incomplete:tired"),
        ),
        failed(responses(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "MAX_TOKENS"),
    ],
    MESSAGES: [
        failed(messages(reason="tired"), "PROVIDER_ERROR", "tired"),
        ok(messages([{"type": "text", "text": "real"}], reason="tired"), check=_word("tired")),
        failed(messages(reason="refusal"), "CONTENT_FILTERED"),
        Case([messages(reason="tired"), PLAIN[MESSAGES]], retries=1),
    ],
    GEMINI: [
        *(
            failed(gemini(reason=word), "PROVIDER_ERROR", word)
            for word in ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "OTHER", "LANGUAGE")
        ),
        failed(
            sse({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "finishMessage": "print(note())"}]}),
            "PROVIDER_ERROR",
            "print(note())",
        ),
        *(
            Case([gemini(reason=word), PLAIN[GEMINI]], retries=1)
            for word in ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TIRED")
        ),
        ok(gemini({"text": "real"}, reason="TIRED"), check=_word("TIRED")),
        failed(gemini(reason="SAFETY"), "CONTENT_FILTERED"),
        failed(sse({"promptFeedback": {"blockReason": "OTHER"}}), "CONTENT_FILTERED"),
    ],
}


def _travelled(wire_format: str) -> list[Case]:
    body = PLAIN[wire_format]
    close = body.replace("\n\n", "\n")
    named = "".join(f"event: e{n}\n{line}\n" for n, line in enumerate(close.splitlines()))
    packed = gzip.compress(body.encode())
    moved = "http://127.0.0.1:1/elsewhere"
    return [
        *(ok(Answer.of(body, status=status)) for status in (201, 202, 206)),
        *(
            ok(Answer.of(body, content_type=name))
            for name in (NDJSON, TEXT, JSON, "text/html", "binary/octet-stream", "")
        ),
        *(ok(Answer.of(body, headers={"content-encoding": name})) for name in ("", "none", "identity", "utf-8")),
        *(ok(Answer.of(text, cut=cut)) for text in (close, named) for cut in (0, 1, 50)),
        ok(Answer([line.encode() for line in close.splitlines(keepends=True)])),
        ok(Answer.of(close.replace("data: ", ""), content_type=NDJSON)),
        ok(Answer.of(body.replace("\n", "\r\n"))),
        ok("\ufeff\n\n" + body),
        ok("\ufeff\ufeff" + body.replace("\n\ndata", "\n\n\ufeffdata")),
        ok(body.replace("data: ", " Data: ")),
        ok(body.replace("data: ", "data: data: ")),
        ok(sse(*(json.dumps(one.removeprefix("data: ")) for one in body.split("\n\n") if one))),
        ok("".join(one.removeprefix("data: ") for one in body.removesuffix(DONE).split("\n\n"))),
        *(ok(f"data: {word}\n\n{body}") for word in ("ping", "null", '""', "17.5", "[]", "{}")),
        *(ok(Answer.of(packed, headers={"content-encoding": "gzip"}, cut=cut)) for cut in (0, 1)),
        ok(Answer.of(zlib.compress(body.encode()), headers={"content-encoding": "deflate"})),
        ok(Answer.of(body, headers={"content-encoding": "gzip"})),
        ok(body.replace("data: ", "data:")),
        failed(Answer.error(307, "", location=moved + "?key=k"), "PROVIDER_PROTOCOL", moved),
        failed(Answer.error(308, "moved", location="//u:p@elsewhere/x"), "PROVIDER_PROTOCOL", "//elsewhere/x"),
        failed(Answer.of(b"\x1f\x8b", headers={"content-encoding": "gzip"}), "PROVIDER_PROTOCOL", "gzip"),
    ]


def _google(delay: str) -> str:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return json.dumps(
        {"error": {"code": 429, "message": "exceeded", "status": "RESOURCE_EXHAUSTED", "details": [info]}}
    )


# How vendors say that 0.03 s are to be waited, with status 429: body and headers.
WAITS: Sequence[tuple[str, Mapping[str, str]]] = (
    ("{}", {"retry_after": "0.03"}),
    ("{}", {"retry_after": "0.03s"}),
    ("{}", {"retry_after": "30ms"}),
    ("{}", {"retry_after": "0.03 seconds"}),
    (_google("0.03s"), {}),
    (_google("0.030000000s"), {"retry_after": "soon"}),
    (f"[{_google('0.03s')}]", {}),
    ('{"error":{"message":"Rate limit reached for m. Limit: 3 / min. Please try again in 30ms."}}', {}),
    ('{"error":{"message":"Limit 30000, Used 29000. Please try again in 0.03s. Visit the page."}}', {}),
    ('{"message":"Please retry after 0.03 seconds","code":429}', {}),
    ('{"error":{"message":"slow down","retry_after":0.03}}', {}),
    ('{"error":"slow down","retryAfterMs":30}', {}),
    ('{"detail":"slow down","retry_after_seconds":"0.03"}', {}),
    ('{"error":{"message":"x","metadata":{"headers":{"Retry-After":"0.03"}}}}', {}),
    ("Too many requests, wait 30 ms", {}),
)
NO_WAITS: Sequence[tuple[str, Mapping[str, str]]] = (
    ("{}", {"retry_after": "1e400"}),
    ("{}", {"retry_after": "-5"}),
    ("{}", {"retry_after": "9" * 400}),
    ("{}", {"retry_after": "Wed, 99 Foo 99999999999999 99:99:99 GMT"}),
    ('{"retry_after":1e999}', {}),
    ('{"retry_after":-1}', {}),
    ('{"error":{"message":"limit of 3 requests per 1 minute"}}', {}),
    ("1" * 100_000 + "x", {}),
)
"""None of these is a wait: the back-off of 1 ms holds."""
SPENT: Sequence[Mapping[str, Any]] = (
    {"error": {"message": "You exceeded your current quota, see billing.", "type": "insufficient_quota"}},
    {"error": {"message": "You exceeded your current quota.", "type": "tokens", "code": "insufficient_quota"}},
    {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}},
    {"error": {"message": "Your credit balance is too low to access the API.", "type": "rate_limit_error"}},
    {"error": {"code": "billing_hard_limit_reached", "message": "no"}},
)


def _waiting(wire_format: str) -> list[Case]:
    def waited(seconds: float) -> Callable[[Seen], bool]:
        return lambda seen: [round(one, 6) for one in seen.waits] == [seconds]

    plain = PLAIN[wire_format]
    cases = [
        Case([Answer.error(429, body, **headers), plain], retries=1, check=waited(seconds))
        for seconds, told in ((0.03, WAITS), (0.001, NO_WAITS))
        for body, headers in (told if wire_format == CHAT else told[::4])
    ]
    cases.append(Case([f"data: {_google('0.03s')}\n\n", plain], retries=1, check=waited(0.03)))
    cases += [
        failed(
            Answer.error(429, json.dumps(body)), "PROVIDER_RATE_LIMITED", retries=1, check=lambda seen: not seen.waits
        )
        for body in SPENT
    ]
    spent = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota", "status": 429}}
    cases.append(failed(sse(spent), "PROVIDER_RATE_LIMITED", "quota", retries=1))
    return cases


FULL = (
    "The number of tokens to keep from the initial prompt is greater than the context length. Try to load the model",
    "Trying to keep the first 7187 tokens when context the overflows. However, the model is loaded with context length "
    "of only 4096 tokens, which is not enough.",
    "Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)",
    "Reached context length of 4096 tokens with this model",
    "the input length exceeds the context length",
    "prompt too long; exceeded max context length by 123 tokens",
    "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
    "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens).",
    "Requested token count exceeds the model's maximum context length of 8192 tokens.",
    "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292.",
    "too many tokens: size limit exceeded by 11326 tokens. Try using shorter or fewer inputs.",
    "The prompt (total length 140000) is too long to fit into the model (context length 131072).",
    "litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException - no",
    "Input Tokens Exceeded: Number of input tokens exceeds maximum length. Please update the input to try again.",
    "Malformed input request: expected maxLength: 100000, actual: 120000, please reformat your input.",
    "total message token length exceed model limit",
    "Total tokens of image and text exceed max message tokens",
    "Prompt length 5000 is greater than max_seq_len 4096",
    "Prompt 超长",
    "The estimated number of input and maximum output tokens (9000) exceeded this model context window limit (8000).",
)
"""How those say that the context is full whose words nobody else uses."""


def _full(wire_format: str) -> list[Case]:
    """A summary, then the answer: as a status, inside a stream and in place of one."""
    cases: list[Case] = []
    # The words are looked for in one place; the other formats show that they come there.
    for number, words in enumerate(FULL if wire_format == CHAT else FULL[::4]):
        body = json.dumps({"error": words} if number % 2 else {"object": "error", "message": words, "code": 400})
        for full in (Answer.error(400, body), Answer.of(f"data: {body}\n\n"), Answer.error(200, body)):
            cases.append(Case([full, PLAIN[wire_format], PLAIN[wire_format]], has_past=True))
    return cases


WHOLE: Mapping[str, Sequence[object]] = {
    CHAT: [
        {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "real"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5},
        }
    ],
    RESPONSES: [
        {
            "object": "response",
            "id": "r",
            "status": "completed",
            "error": None,
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "real"}]}],
            "usage": {"input_tokens": 3, "output_tokens": 5},
        }
    ],
    MESSAGES: [
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "content": [{"type": "text", "text": "real"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 5},
        }
    ],
    GEMINI: [
        [
            {"candidates": [{"content": {"parts": [{"text": "re"}]}}]},
            {
                "candidates": [{"content": {"parts": [{"text": "al"}]}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5},
            },
        ],
        {
            "candidates": [{"content": {"parts": [{"text": "real"}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5},
        },
    ],
}


def _whole(wire_format: str) -> list[Case]:
    def counted(seen: Seen) -> bool:
        own = seen.outcome.usage.own
        return (own.input_tokens, own.output_tokens, own.is_estimated) == (3, 5, False)

    return [
        ok(Answer.of(json.dumps(body, indent=indent), content_type=JSON, cut=cut), check=counted)
        for body in WHOLE[wire_format]
        for indent in (None, 2)
        for cut in (0, 20)
    ]


FAILURES: dict[str, Cases] = {
    "an answer that comes whole, where a stream was asked for": in_all(_whole),
    "a full context, in the words of many": in_all(_full),
    "a wait in words, in the body or with a unit; a quota that is spent": in_all(_waiting),
    "a failure with a good status, in whatever shape": in_all(_stated),
    "a failure behind the beginning of an answer": in_all(_stated_behind),
    "an answer that says nothing": in_all(_silent),
    "an end that is a failure, or a word that nobody knows": ENDS,
    "good streams under other labels, statuses and line ends": in_all(_travelled),
}
