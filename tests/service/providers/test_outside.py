"""What vendors send and their documents do not say, through the running service; each kind in every format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.upstream import Answer
from tests.service.dispatch.watch import watching
from tests.service.providers.outside_failures import FAILURES
from tests.service.providers.outside_kinds import KINDS, said, with_counts
from tests.service.providers.outside_vendor import MESSAGES, PLAIN, block, messages, outside_server
from tests.service.providers.test_splits import WIRE_FORMATS
from tests.service.titles.stage import calls_of, is_update, seen

ALL_KINDS = KINDS | FAILURES


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_kind(kind: str, tmp_path: Path) -> None:
    faults: list[str] = []
    numbered = [(name, number, case) for name, cases in ALL_KINDS[kind].items() for number, case in enumerate(cases)]
    for retries in sorted({case.retries for _, _, case in numbered}):
        folder = tmp_path / str(retries)
        folder.mkdir()
        async with outside_server(folder, **{"retries.max_retries": str(retries)}) as it:
            for wire_format, number, case in numbered:
                if case.retries == retries:
                    found = case.faults(await it.run(wire_format, case.answers, **case.session))
                    faults += [f"{wire_format} {number}: {fault}" for fault in found]
    assert not faults, "\n".join(faults)


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_title_whose_tokens_are_no_counts(wire_format: str, tmp_path: Path) -> None:
    async with outside_server(tmp_path, **{"defaults.generate_titles": "true"}) as it:
        answer = with_counts(wire_format, -1000, -35)
        run = await it.run(wire_format, [answer, answer])
        assert run.outcome.text == "real"
        async with watching(it.server, "s1") as watch:
            assert (await watch.until(is_update)).session_updated.title == "real"
        session = await seen(it.server, "s1")
        assert calls_of(session) == {f"{wire_format}/m": 2}
        assert (session.usage.own.output_tokens, session.usage.own.is_estimated) == (2, True)
        shown = it.server.server._metrics.render().decode()
        assert 'turnkeeper_tokens_total{model="other",type="output"} 2.0' in shown


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
    "The estimated number of input and maximum output tokens (9000) exceeded this model context window limit (8000).",
)
"""How those say that the context is full whose words nobody else uses."""


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_full_context_is_summarised_by_whichever_words(wire_format: str, tmp_path: Path) -> None:
    async with outside_server(tmp_path) as it:
        for number, words in enumerate(FULL):
            said = {"error": words} if number % 2 else {"object": "error", "message": words, "code": 400}
            body = json.dumps(said)
            for full in (Answer.error(400, body), Answer.of(f"data: {body}\n\n"), Answer.error(200, body)):
                first = await it.run(wire_format, [PLAIN[wire_format]], "long " * 400)
                again = await it.run(wire_format, [full, PLAIN[wire_format], PLAIN[wire_format]], is_new=False)
                assert first.outcome.text == "real"
                assert again.outcome.text == "real", (words, again.outcome)
                assert again.num_asked == 3, words


@pytest.mark.asyncio
async def test_what_paused_goes_back_unchanged_and_whole(tmp_path: Path) -> None:
    search = {"type": "server_tool_use", "id": "srv-1", "name": "web_search", "input": {"query": "q"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srv-1", "content": []}
    async with outside_server(tmp_path, **{f"providers.{MESSAGES}.is_cache_marked": "false"}) as it:
        answers = [
            messages(block("I search."), [search], reason="pause_turn"),
            messages([found], block("real")),
            messages(block("more")),
        ]
        assert (await it.run(MESSAGES, answers[:2])).outcome.text == "real"
        assert (await it.run(MESSAGES, answers[2:], is_new=False)).outcome.text == "more"
        sent = [request.json["messages"] for request in it.vendor.requests]
        said = [[(one["role"], one["content"]) for one in each] for each in sent]
        begin = [{"type": "text", "text": "I search."}, search]
        assert said[1][1:] == [("assistant", begin)]
        assert said[2][1] == ("assistant", [*begin, found, {"type": "text", "text": "real"}])
        assert [role for role, _ in said[2]] == ["user", "assistant", "user"]


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_reasoning_between_tags_is_no_part_of_the_output_and_does_not_go_back(
    wire_format: str, tmp_path: Path
) -> None:
    async with outside_server(tmp_path) as it:
        answer = said(wire_format, '<think>{"a":', ' 2}</think>\n{"a":', "1}")
        schema = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}'
        seen = await it.run(wire_format, [answer], schema=schema)
        assert (seen.outcome.output_json, seen.reasoning) == ('{"a":1}', '{"a": 2}')
        await it.run(wire_format, [PLAIN[wire_format]], is_new=False)
        body = it.vendor.requests[-1].body.decode()
        assert "think>" not in body
        assert '{\\"a\\": 2}' not in body
