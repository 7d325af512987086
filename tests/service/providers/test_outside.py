"""What vendors send and their documents do not say, through the running service; each kind in every format."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.dispatch.watch import watching
from tests.service.providers.outside import KINDS
from tests.service.providers.outside_answers import said, with_counts
from tests.service.providers.outside_vendor import (
    CHAT,
    MESSAGES,
    PLAIN,
    RESPONSES,
    block,
    chat,
    messages,
    outside_server,
    responses,
)
from tests.service.providers.test_splits import WIRE_FORMATS
from tests.service.titles.stage import calls_of, is_update, seen


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_kind(kind: str, tmp_path: Path) -> None:
    faults: list[str] = []
    numbered = [(name, number, case) for name, cases in KINDS[kind].items() for number, case in enumerate(cases)]
    for retries in sorted({case.retries for _, _, case in numbered}):
        folder = tmp_path / str(retries)
        folder.mkdir()
        async with outside_server(folder, **{"retries.max_retries": str(retries)}) as it:
            for wire_format, number, case in numbered:
                if case.retries != retries:
                    continue
                if case.has_past:
                    await it.run(wire_format, [PLAIN[wire_format]], "long " * 400)
                seen = await it.run(wire_format, case.answers, is_new=not case.has_past, **case.session)
                faults += [f"{wire_format} {number}: {fault}" for fault in case.faults(seen)]
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


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_what_is_tolerated_of_an_answer_is_of_a_title(wire_format: str, tmp_path: Path) -> None:
    async with outside_server(tmp_path, **{"defaults.generate_titles": "true"}) as it:
        for kind, cases in KINDS.items():
            for case in [one for one in cases.get(wire_format, ()) if len(one.answers) == 1 and not one.session][:2]:
                run = await it.run(wire_format, [*case.answers, *case.answers])
                title = "real" if run.outcome.text == "real" else "hello"
                async with watching(it.server, it.session_id) as watch:
                    told = (await watch.until(is_update)).session_updated.title
                assert told in (title, run.outcome.text), kind


@pytest.mark.asyncio
@pytest.mark.parametrize("odd", [{"marker": []}, {"type": 5, "marker": 1}, {"type": "", "marker": 1}])
async def test_what_says_no_type_does_not_go_back(odd: dict[str, object], tmp_path: Path) -> None:
    answers = {
        CHAT: chat({"reasoning_details": [{**odd, "type": None, "text": "marker"}]}, {"content": "real"}),
        MESSAGES: messages(
            [odd, {"type": "text_delta", "text": "re"}],
            [odd],
            [{"type": "web_search_tool_result", "content": ["marker"]}],
            [*block("al"), {"type": "c", "citation": odd}],
        ),
        RESPONSES: responses(
            odd, {"type": "message", "content": [{"type": "output_text", "text": "real", "annotations": [odd, None]}]}
        ),
    }
    async with outside_server(tmp_path) as it:
        for wire_format, answer in answers.items():
            assert (await it.run(wire_format, [answer])).outcome.text == "real"
            assert (await it.run(wire_format, [PLAIN[wire_format]], is_new=False)).outcome.text == "real"
            body = it.vendor.requests[-1].body.decode()
            assert "marker" not in body
            assert "null" not in body
