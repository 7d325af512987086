"""What is tolerated of vendors in their answers: kinds of faults, with the cases that show them in each format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    block,
    chat,
    gemini,
    item,
    messages,
    ok,
    responses,
    sse,
)

Cases = Mapping[str, Sequence[Case]]
NO_COUNTS: Sequence[Any] = (-35, 2**53 + 1, 2**70, 3.5, "35", True, [], -1e300)
"""None of these is a number of tokens."""


def counted(sent: int, said: int, *, is_estimated: bool) -> Any:
    def check(seen: Seen) -> bool:
        own = seen.outcome.usage.own
        return (own.input_tokens, own.output_tokens, own.is_estimated) == (sent, said, is_estimated)

    return check


def with_counts(wire_format: str, sent: object, said: object) -> str:
    """The text ``real``, and these tokens of prompt and answer."""
    if wire_format == CHAT:
        usage = {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": 965}
        return chat({"content": "real"}).removesuffix(DONE) + sse({"choices": [], "usage": usage}) + DONE
    if wire_format == RESPONSES:
        return responses(item("real"), usage={"input_tokens": sent, "output_tokens": said})
    if wire_format == MESSAGES:
        return messages(block("real"), usage={"input_tokens": sent, "output_tokens": said})
    return gemini({"text": "real"}, usageMetadata={"promptTokenCount": sent, "candidatesTokenCount": said})


def _number_cases(wire_format: str) -> list[Case]:
    cases = [ok(with_counts(wire_format, 1000, bad), check=counted(1000, 1, is_estimated=True)) for bad in NO_COUNTS]
    cases += [ok(with_counts(wire_format, bad, 7), check=counted(2, 7, is_estimated=True)) for bad in NO_COUNTS]
    cases.append(ok(with_counts(wire_format, 2**53, 2**53), check=counted(2**53, 2**53, is_estimated=False)))
    return cases


def answered(*bodies: str, **more: Any) -> list[Case]:
    """Bodies that all come to the text ``real``."""
    return [ok(body, **more) for body in bodies]


def noted(wire_format: str, *bodies: str, text: str = "real") -> list[Case]:
    """Bodies that all come to one call of ``note`` with this text, and an answer behind it."""
    return [Case([body, PLAIN[wire_format]], noted=[text]) for body in bodies]


def chat_call(*pieces: dict[str, Any]) -> str:
    """One piece of a call in each chunk."""
    return chat(*({"tool_calls": [piece]} for piece in pieces), reason="tool_calls")


def arguments(text: object, name: str | None = None, **more: Any) -> dict[str, Any]:
    """A piece of a call."""
    return {"function": {"arguments": text, **({"name": name} if name is not None else {})}, **more}


def use(*pieces: str, **more: Any) -> list[dict[str, Any]]:
    """A call of ``note`` whose arguments come in these pieces."""
    start = {"type": "tool_use", "id": "t1", "name": "note", "input": {}, **more}
    return [start, *({"type": "input_json_delta", "partial_json": piece} for piece in pieces)]


def function_call(text: object, **more: Any) -> dict[str, Any]:
    """An item that calls ``note``."""
    return {"type": "function_call", "id": "i1", "call_id": "c1", "name": "note", "arguments": text, **more}


def pieces_of_item(*pieces: str, last: object = None) -> str:
    """A call whose arguments come in pieces, and whole at the end or not."""
    deltas = [{"type": "response.function_call_arguments.delta", "output_index": 0, "delta": piece} for piece in pieces]
    added = {"type": "response.output_item.added", "output_index": 0, "item": function_call("")}
    done = {"type": "response.output_item.done", "output_index": 0, "item": function_call(last)}
    end = {"type": "response.completed", "response": {"status": "completed"}}
    return sse(added, *deltas, done, end)


def gemini_call(args: object, **more: Any) -> str:
    """One whole call of ``note``."""
    return gemini({"functionCall": {"name": "note", "args": args, **more}})


def started(index: object, text: str, *, start: object = 0) -> str:
    """A text block that begins under one number and grows under another; `start` None: it never begins."""
    events: list[dict[str, Any]] = []
    if start is not None:
        events.append({"type": "content_block_start", "index": start, "content_block": {"type": "text", "text": ""}})
    for piece in (text[:2], text[2:]):
        delta = {"type": "text_delta", "text": piece}
        events.append({"type": "content_block_delta", "index": index, "delta": delta})
    events.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    return sse(*events, {"type": "message_stop"})


def grown(index: object, content_index: object = 0, *, item_type: str = "message", **more: Any) -> str:
    """A text that begins as item 2 and grows under another number, and is whole as item 2."""
    whole = item("real")
    return sse(
        {"type": "response.output_item.added", "output_index": 2, "item": {"type": item_type, "id": "m"}},
        *(
            {
                "type": "response.output_text.delta",
                "output_index": index,
                "content_index": content_index,
                "delta": piece,
                **more,
            }
            for piece in ("re", "al")
        ),
        {"type": "response.output_item.done", "output_index": 2, "item": whole},
        {"type": "response.completed", "response": {"status": "completed", "output": [whole]}},
    )


def deep(levels: int = 5000) -> str:
    """JSON that nests without end."""
    return "[" * levels + "]" * levels


def told(*bodies: str, wire_format: str) -> list[Case]:
    """Bodies with a call whose arguments cannot be used: the model is told, and answers."""

    def check(seen: Seen) -> bool:
        return len(seen.results) == 1 and "not valid JSON" in seen.results[0]

    return [Case([body, PLAIN[wire_format]], check=check) for body in bodies]


BOTH = [
    {"type": "response.output_item.added", "output_index": 0, "item": function_call("", id=f"i{n}", call_id=f"c{n}")}
    for n in "ab"
] + [
    {
        "type": "response.function_call_arguments.delta",
        "output_index": 0,
        "item_id": f"i{n}",
        "delta": piece.replace("N", n),
    }
    for piece in ('{"text":', '"N"}')
    for n in "ab"
]
"""Two calls of one number, told apart by their ids alone."""
END = {"type": "response.completed", "response": {"status": "completed", "output": []}}

OTHER_TYPES: Cases = {
    CHAT: [
        *answered(
            chat({"content": "real", "refusal": False, "tool_calls": {}}, usage=""),
            chat({"content": "real", "tool_calls": [None], "reasoning_details": {}, "reasoning": []}),
            chat({"content": "real"}, id=17, created="now", usage=[], x_groq=True, choices="none"),
            chat({"content": "re"}, {"content": "al"}).replace('"index": 0', '"index": "0"'),
            chat({"content": "re"}, {"content": "al"}).replace('"index": 0', '"index": null'),
            chat({"content": "re"}, {"content": "al"}).replace('"index": 0', '"index": -1'),
            chat({"content": "real"}, usage={"prompt_tokens_details": 3, "completion_tokens_details": "x"}),
            chat({"content": [{"type": "text", "text": "real"}, 5, None]}),
            chat({"content": "real"}, error=None, base_resp={"status_code": 0, "status_msg": "success"}),
            sse({"choices": {"index": 0, "delta": {"content": "real"}, "finish_reason": "stop"}}) + DONE,
        ),
        ok(chat({"content": 4}, {"content": 2}), text="42"),
        *noted(
            CHAT,
            chat_call(arguments('{"text":"real"}', "note", index=None, id=17)),
            chat_call(arguments({"text": "real"}, "note", index="0", id=None)),
            chat({"tool_calls": {"id": "c", "function": {"name": "note", "arguments": '{"text":"real"}'}}}),
            chat(
                {"function_call": {"name": "note", "arguments": '{"te'}},
                {"function_call": {"arguments": 'xt":"real"}'}},
                reason="function_call",
            ),
        ),
        *noted(CHAT, chat_call(arguments([], "note", index=0)), chat_call(arguments("[]", "note", index=0)), text=""),
    ],
    RESPONSES: answered(
        responses(item("real") | {"phase": 3, "status": []}, usage="", incomplete_details=False),
        responses({"type": "message", "id": 5, "content": {"type": "output_text", "text": "real", "annotations": ""}}),
        grown(2, sequence_number="first", logprobs={"a": 1}),
        responses(item("real"), error=None, id=99),
        responses({"type": "message", "content": "real"}),
        responses(item("real")).replace('"output": [', '"output": [null, 5, "x", '),
        sse({"type": "response.output_item.added", "output_index": 0, "item": None}) + responses(item("real")),
        sse({"type": "response.output_item.done", "output_index": 0, "item": "message"}) + responses(item("real")),
    )
    + noted(RESPONSES, responses(function_call({"text": "real"})), responses(function_call('{"text":"real"}', id=3))),
    MESSAGES: answered(
        messages(block("real"), usage=""),
        messages(block("real"), usage=[]).replace('"id": "msg-1"', '"id": 17'),
        messages(
            [{"type": "text", "text": False, "citations": 1}, {"type": "text_delta", "text": "real", "citation": 3}]
        ),
        messages(block("real")).replace('"index": 0', '"index": "0"'),
        messages(block("real")).replace('"index": 0', '"index": null'),
        messages([{"type": "text", "text": "real", "signature": False}]),
    )
    + noted(MESSAGES, messages(use('{"text":"real"}', id=17), reason="tool_use"))
    + noted(MESSAGES, messages([*use(), {"type": "input_json_delta", "partial_json": {"text": "real"}}]))
    + noted(MESSAGES, messages(use(input=[]), reason="tool_use"), text=""),
    GEMINI: [
        *answered(
            gemini({"text": "real", "thought": None, "thoughtSignature": False}, usageMetadata=""),
            gemini({"text": "real"}, responseId=17, promptFeedback="none", createTime=5),
            sse({"candidates": {"index": "0", "content": {"parts": {"text": "real"}}, "finishReason": "STOP"}}),
            gemini({"text": "real", "inlineData": ""}),
        ),
        ok(gemini({"text": "real"}, {"inlineData": {"mimeType": "image/png", "data": "%%"}})),
        *noted(GEMINI, gemini_call({"text": "real"}, id=17), gemini_call('{"text":"real"}')),
        *noted(GEMINI, gemini_call([]), text=""),
    ],
}

OTHER_NUMBERS: Cases = {
    CHAT: [
        *noted(
            CHAT,
            chat_call(arguments('{"te', "note", index=3, id="c"), arguments('xt":"real"}', index=3)),
            chat_call(arguments('{"te', "note", index=None, id="c"), arguments('xt":"real"}', index=None)),
            chat_call(arguments('{"te', "note", index=0, id="c"), arguments('xt":"real"}', index=1)),
            chat_call(arguments('{"te', "note", index=0, id="c"), arguments('xt":"real"}')),
            chat_call(arguments('{"te', index=0, id="c"), arguments('xt":"real"}', "note", index=0)),
            chat_call(arguments("", "no", index=0, id="c"), arguments('{"text":"real"}', "note", index=0, id="c")),
        ),
        Case(
            [
                chat_call(
                    arguments("", "note", index=0, id="a"),
                    arguments("", "note", index=0, id="b"),
                    arguments('{"text":', index=0, id="a"),
                    arguments('{"text":', index=0, id="b"),
                    arguments('"a"}', index=0, id="a"),
                    arguments('"b"}', index=0, id="b"),
                ),
                PLAIN[CHAT],
            ],
            noted=["a", "b"],
        ),
    ],
    RESPONSES: [
        *answered(grown(3), grown(None), grown("2"), grown(2, 1), grown(3, item_id="m")),
        *noted(
            RESPONSES,
            pieces_of_item('{"te', 'xt":"real"}').replace('0, "delta"', '7, "delta"'),
            pieces_of_item('{"te', 'xt":"real"}').replace('0, "delta"', 'null, "delta"'),
            pieces_of_item('{"text":"real"}').replace(".delta", ".done").replace('"delta"', '"arguments"'),
        ),
        Case([sse(*BOTH, END), PLAIN[RESPONSES]], noted=["a", "b"]),
        *answered(
            sse({"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": "real"}, END)
        ),
    ],
    MESSAGES: [
        *answered(started(3, "real", start=2), started(0, "real", start=None), started(None, "real", start=None)),
        *answered(started(None, "real", start=1), started("0", "real")),
        ok(
            started(0, "real", start=None).replace("text_delta", "thinking_delta").replace('"text"', '"thinking"')
            + messages(block("never")),
            text="",
            check=lambda seen: seen.reasoning == "real",
        ),
        *noted(MESSAGES, messages(use('{"te', 'xt":"real"}'), reason="tool_use").replace('0, "delta"', '7, "delta"')),
    ],
}

DEEP: Cases = {
    CHAT: [
        *answered(chat({"content": "real"}).replace('"index": 0', f'"x": {deep()}, "index": 0')),
        *answered(chat({"content": "real"}).replace('{"choices"', f'{{"x": {deep(100_000)}, "choices"')),
        *told(
            chat_call(arguments('{"text":' + deep() + "}", "note", index=0)),
            chat_call(arguments("DEEP", "note", index=0)).replace('"DEEP"', '{"text":' + deep() + "}"),
            chat_call(arguments(deep(), "note", index=0)),
            wire_format=CHAT,
        ),
    ],
    RESPONSES: [
        *answered(responses(item("real")).replace('"id"', f'"x": {deep()}, "id"')),
        *told(responses(function_call('{"text":' + deep() + "}")), wire_format=RESPONSES),
    ],
    MESSAGES: [
        *answered(messages(block("real")).replace('"index"', f'"x": {deep()}, "index"')),
        *told(messages(use('{"text":' + deep() + "}"), reason="tool_use"), wire_format=MESSAGES),
        *told(
            messages(use(input="DEEP"), reason="tool_use").replace('"DEEP"', '{"text":' + deep() + "}"),
            wire_format=MESSAGES,
        ),
    ],
    GEMINI: [
        *answered(gemini({"text": "real"}).replace('"text"', f'"x": {deep()}, "text"')),
        *told(gemini_call("DEEP").replace('"DEEP"', '{"text":' + deep() + "}"), wire_format=GEMINI),
        *told(gemini_call("DEEP").replace('"DEEP"', '{"text":' + deep(300) + "}"), wire_format=GEMINI),
    ],
}

NO_JSON: Cases = {
    name: answered(
        body.replace("{", '{"x": [NaN, -Infinity, 1e999], "y": "\x01\t", "z": "\\ud83d", ', 1),
        body.replace("{", '{"x": 123456789012345678901234567890, ', 1),
    )
    for name, body in PLAIN.items()
}

TWICE: Cases = {
    CHAT: noted(
        CHAT,
        chat_call(
            arguments("{}", "note", index=0, id="c"), arguments('{"te', index=0), arguments('xt":"real"}', index=0)
        ),
        chat_call(
            arguments('{"text":', "note", index=0, id="c"),
            arguments('"real"}', index=0),
            arguments('{"text":"real"}', index=0),
        ),
        chat_call(
            arguments('{"text":', "note", index=0, id="c"),
            arguments('"real"}', index=0),
            arguments('{"text":"real"}', "note", index=0, id="c"),
        ),
        chat_call(arguments('"{\\"text\\":\\"real\\"}"', "note", index=0, id="c")),
        chat_call(arguments('\ufeff{"text":"real"}', "note", index=0, id="c")),
        chat_call(
            arguments('{"te', "note", index=0, id="a"),
            arguments('xt":"r', index=0, id="b"),
            arguments('eal"}', index=0, id="d"),
        ),
        chat_call(arguments('{"te', "note", index=0, id="a"), arguments('xt":"real"}', "note", index=0, id="b")),
        chat_call(arguments('{"te', "note", index=0), arguments('xt":"real"}', "note", index=0)),
        chat_call(arguments("", "note", index=0, id="c"), arguments('{"text":"real"}', "", index=0, id="")),
    )
    + [
        Case([chat_call(*two), PLAIN[CHAT]], noted=["a", "b"])
        for two in (
            (arguments('{"text":"a"}', "note", index=0), arguments('{"text":"b"}', "note", index=0)),
            (arguments('{"text":"a"}', "note", index=0, id="a"), arguments('{"text":"b"}', "note", index=0, id="b")),
            (arguments('{"text":"a"}', "note"), arguments('{"text":"b"}', "note")),
            (arguments('{"text":"a"}', "note", id="a"), arguments('{"text":"b"}', "note", id="b")),
            (
                arguments("", "note", index=0, id="a"),
                arguments("", "note", index=1, id="b"),
                arguments('{"text":"b"}', index=1),
                arguments('{"text":"a"}', index=0),
            ),
            (
                arguments("{}", "note", index=0, id="a"),
                arguments("{}", "note", index=1, id="b"),
                arguments('{"text":"a"}', index=0),
                arguments('{"text":"b"}', index=1),
            ),
        )
    ],
    RESPONSES: noted(
        RESPONSES,
        pieces_of_item("{}", '{"te', 'xt":"real"}'),
        pieces_of_item('{"text":', '"real"}', '{"text":"real"}', last='{"text":"real"}'),
        pieces_of_item('{"te', last='{"text":"real"}'),
        responses(function_call('"{\\"text\\":\\"real\\"}"')),
    ),
    MESSAGES: noted(
        MESSAGES,
        messages(use("{}", '{"te', 'xt":"real"}'), reason="tool_use"),
        messages(use('{"text":', '"real"}', '{"text":"real"}'), reason="tool_use"),
        messages(use('{"te', 'xt":"real"}', input={"text": "real"}), reason="tool_use"),
        messages(use('"{\\"text\\":\\"real\\"}"'), reason="tool_use"),
        messages(use(input='{"text":"real"}'), reason="tool_use"),
    ),
    GEMINI: noted(GEMINI, gemini_call('{"text":"real"}'), gemini_call('"{\\"text\\":\\"real\\"}"')),
}


def _server_use(call_id: str) -> list[dict[str, Any]]:
    return [{"type": "server_tool_use", "id": call_id, "name": "web_search", "input": {"query": "q"}}]


def _server_result(call_id: str) -> list[dict[str, Any]]:
    return [{"type": "web_search_tool_result", "tool_use_id": call_id, "content": []}]


PAUSES: Cases = {
    MESSAGES: [
        Case(
            [
                messages(block("I search."), _server_use("srv-1"), reason="pause_turn"),
                messages(_server_result("srv-1"), block("real")),
            ]
        ),
        Case(
            [
                messages(_server_use("srv-1"), reason="pause_turn"),
                messages(_server_result("srv-1"), _server_use("srv-2"), reason="pause_turn"),
                messages(_server_result("srv-2"), use('{"text":"found"}'), reason="tool_use"),
                PLAIN[MESSAGES],
            ],
            noted=["found"],
        ),
        Case(
            [messages(_server_use("s"), reason="pause_turn")] * 3,
            text="",
            reason="STEP_LIMIT",
            session={"max_steps": 3},
        ),
    ],
}


def said(wire_format: str, *pieces: str) -> str:
    """A text in these pieces."""
    if wire_format == CHAT:
        return chat(*({"content": piece} for piece in pieces))
    if wire_format == MESSAGES:
        deltas = ({"type": "text_delta", "text": piece} for piece in pieces)
        return messages([{"type": "text", "text": ""}, *deltas])
    if wire_format == GEMINI:
        return gemini(*({"text": piece} for piece in pieces))
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0}
    return sse(*({**delta, "delta": piece} for piece in pieces)) + responses(item("".join(pieces)))


THOUGHTS: Sequence[tuple[str, str, str]] = (
    ("<think>plan</think>real", "plan", "real"),
    ("<think>\nplan\n</think>\n\nreal", "plan", "real"),
    (" \n<Think>plan</Think> real", "plan", "real"),
    ("\ufeff<think>plan</think>real", "plan", "real"),
    ("<thinking>plan</thinking>real", "plan", "real"),
    ("<thought>plan</thought>real", "plan", "real"),
    ("<seed:think>plan</seed:think>real", "plan", "real"),
    ("[THINK]plan[/THINK]real", "plan", "real"),
    ("<think>a < b </thin </think>real", "a < b </thin", "real"),
    ("<think></think>\n\nreal", "", "real"),
    ("</think>\n\nreal", "", "real"),
    ("<think>a</think><think>b</think>real", "ab", "real"),
    ("<think>plan", "plan", ""),
    ("<think>plan</think>", "plan", ""),
    ("<b>bold</b>", "", "<b>bold</b>"),
    ("<thin", "", "<thin"),
    ("  real", "", "  real"),
    ("real <think>no</think>", "", "real <think>no</think>"),
)
"""What is said, and what of it is reasoning and text."""


def _thinking(wire_format: str) -> list[Case]:
    def thought(reasoning: str) -> Any:
        return lambda seen: seen.reasoning == reasoning

    return [
        ok(said(wire_format, *pieces), text=text, check=thought(reasoning))
        for whole, reasoning, text in THOUGHTS
        for pieces in ([whole], list(whole), [whole[:7], whole[7:]])
    ]


NO_TEXT: Cases = {
    name: [
        ok(Answer.of(said(name, "reXal").encode().replace(b"X", bad)), text="re\ufffdal")
        for bad in (b"\xe9", b"\xf0\x9f")
    ]
    for name in (CHAT, RESPONSES, MESSAGES, GEMINI)
}

ANSWERS: dict[str, Cases] = {
    "bytes that are not UTF-8": NO_TEXT,
    "reasoning between tags in the text": {name: _thinking(name) for name in (CHAT, RESPONSES, MESSAGES, GEMINI)},
    "a pause between the tools that the provider runs": PAUSES,
    "a count of tokens that is no count": {name: _number_cases(name) for name in (CHAT, RESPONSES, MESSAGES, GEMINI)},
    "a field of another type": OTHER_TYPES,
    "parts under other numbers, or without a beginning": OTHER_NUMBERS,
    "values that nest without end": DEEP,
    "numbers and characters that JSON does not know": NO_JSON,
    "arguments sent twice, in a string, or under one number": TWICE,
}
