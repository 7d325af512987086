"""What decoders of `openai-responses` and `gemini` keep beside the text: to be shown, and to go back."""

from __future__ import annotations

import json

import pytest

from tests.service.providers.test_streams import play, stream
from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import PartKind


def kept(part: content_pb2.Part, key: str) -> str:
    return part.provider_details.fields[key].string_value


@pytest.mark.asyncio
async def test_the_seal_rides_on_the_last_part_of_its_item() -> None:
    collected = await play(stream("openai-responses/summaries"))
    first, second, _ = collected.parts
    assert (first.reasoning.text, first.reasoning.signature) == ("Low water first.", b"")
    assert (second.reasoning.text, second.reasoning.signature) == ("Then the wind.", b"a2VlbA==")
    assert {kept(part, "item_id") for part in (first, second)} == {"rs-2"}


@pytest.mark.asyncio
async def test_the_seal_is_the_one_of_the_items_end() -> None:
    collected = await play(stream("openai-responses/calls"))
    assert collected.parts[0].reasoning.signature == b"c2VhbGVkLWhhcmJvdXI="
    assert collected.kinds == [PartKind.REASONING, PartKind.TOOL_CALL, PartKind.TOOL_CALL]


@pytest.mark.asyncio
async def test_tools_of_the_responses_provider_are_calls_that_nobody_here_answers() -> None:
    collected = await play(stream("openai-responses/own-tools"))
    calls = [part.tool_call for part in collected.parts[:3]]
    assert all(call.is_provider_executed for call in calls)
    assert [(call.name, json.loads(call.arguments_json)) for call in calls] == [
        ("web_search", {"type": "search", "query": "harbour dues"}),
        ("code_interpreter", {"code": "print(6*7)"}),
        ("ask", {"about": "shoals"}),
    ]
    assert json.loads(kept(collected.parts[1], "item"))["outputs"] == [{"type": "logs", "logs": "42"}]
    assert json.loads(kept(collected.parts[3], "annotations"))[0]["url"] == "https://example.org/dues"
    assert not collected.calls


@pytest.mark.asyncio
async def test_phases_stay_with_their_texts() -> None:
    collected = await play(stream("openai-responses/phases"))
    assert [kept(part, "phase") for part in collected.parts] == ["commentary", "final_answer"]


@pytest.mark.asyncio
async def test_items_for_the_provider_are_kept_unless_they_say_nothing() -> None:
    collected = await play(stream("openai-responses/kept-items"))
    assert collected.kinds == [PartKind.PROVIDER, PartKind.PROVIDER, PartKind.TEXT]
    assert [json.loads(kept(part, "item"))["id"] for part in collected.parts[:2]] == ["mcpl-2", "cmp-1"]


@pytest.mark.asyncio
async def test_a_failed_response_says_whether_trying_again_may_help() -> None:
    failed = await play(stream("openai-responses/failed"))
    limited = await play(stream("openai-responses/error-event"))
    gemini = await play(stream("gemini/error"))
    for collected, words in ((failed, "lost at sea"), (limited, "one boat at a time"), (gemini, "the lock is full")):
        assert collected.error is not None
        assert (collected.error.is_retryable, collected.error.detail) == (True, words)


@pytest.mark.asyncio
async def test_signatures_stay_on_the_piece_that_brought_them() -> None:
    last = await play(stream("gemini/signed-empty-text"))
    assert [part.text.text for part in last.parts if part.HasField("text")] == ["High at two.", ""]
    assert kept(last.parts[-1], "thought_signature") == "c2lnbi0z"
    first = await play(stream("gemini/signed-first-text"))
    assert [part.text.text for part in first.parts] == ["The lamp ", "is lit."]
    assert [kept(part, "thought_signature") for part in first.parts] == ["c2lnbi00", ""]
    thought = await play(stream("gemini/signed-thought"))
    assert thought.parts[0].reasoning.signature == b"c2lnbi01"


@pytest.mark.asyncio
async def test_calls_without_ids_get_some() -> None:
    minted = await play(stream("gemini/calls"))
    assert [call.tool_call_id for call in minted.calls] == ["call_0", "call_1", "call_2"]
    assert not any("call_id" in part.provider_details.fields for part in minted.parts)
    given = await play(stream("gemini/calls-with-ids"))
    assert [kept(part, "call_id") for part in given.parts if part.HasField("tool_call")] == ["fn-1", "fn-2"]


@pytest.mark.asyncio
async def test_code_of_the_gemini_provider_is_kept_with_its_outcome() -> None:
    collected = await play(stream("gemini/own-tools"))
    assert collected.kinds == [PartKind.TEXT, PartKind.TOOL_CALL, PartKind.PROVIDER, PartKind.TEXT]
    call, outcome = collected.parts[1:3]
    assert call.tool_call.is_provider_executed
    assert json.loads(call.tool_call.arguments_json) == {"language": "PYTHON", "code": "print(6*7)"}
    assert json.loads(kept(call, "own"))["thoughtSignature"] == "c2lnbi02"
    assert json.loads(kept(outcome, "own"))["codeExecutionResult"]["output"] == "42\n"


@pytest.mark.asyncio
async def test_an_image_of_the_model_is_media() -> None:
    collected = await play(stream("gemini/image"))
    assert collected.parts[1].media.mime_type == "image/png"
    assert collected.parts[1].media.data == b"\x89PNG"
