"""What a vendor gets of attachments, by what its model takes, over real sockets; the history keeps all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.upstream import Answer, Upstream, token_stream
from tests.service.dispatch.watch import Watch, watching
from tests.service.harness import LIMIT, Harness, load_settings, serving
from tests.service.turns.scenes import STEER, Tools
from turnkeeper.v1 import content_pb2, event_pb2, run_service_pb2

BLIND, SEEING = "up/blind", "up/seeing"
PNG = b"\x89PNG\r\n\x1a\n"
IN_BASE64 = "data:image/png;base64,iVBORw0KGgo="
AT = "https://example.org/cat.png"


def media(mime_type: str = "image/png", **fields: Any) -> content_pb2.Part:
    return content_pb2.Part(media=content_pb2.Media(mime_type=mime_type, **fields))


IMAGE, LINKED = media(data=PNG, name="dot.png"), media(uri=AT)
NOTES = media("text/markdown", data=b"# Buy milk", name="notes.md")
PDF = media("application/pdf", data=b"%PDF-1.7", name="a.pdf")
SAID = content_pb2.Part(text=content_pb2.Text(text="Look."))
PROMPT = [SAID, IMAGE, NOTES, PDF]


def calling(*names: str) -> Answer:
    calls = [
        {"index": index, "id": f"id-{name}", "function": {"name": name, "arguments": "{}"}}
        for index, name in enumerate(names)
    ]
    end = {"choices": [{"delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    return Answer.of(f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n")


def answering() -> Answer:
    return Answer(token_stream(1))


class Vendor:
    """A server whose models are all the upstream's, with the session ``s``."""

    def __init__(self, server: Harness, upstream: Upstream, watch: Watch) -> None:
        self.server = server
        self.upstream = upstream
        self.watch = watch

    async def submit(self, run_id: str, prompt: Sequence[content_pb2.Part], **fields: Any) -> None:
        message = run_service_pb2.Submission(session_id="s", run_id=run_id, prompt=prompt, **fields)
        await self.server.runs.SubmitRun(run_service_pb2.SubmitRunRequest(submission=message))

    async def run(self, run_id: str, prompt: Sequence[content_pb2.Part], **fields: Any) -> list[Any]:
        """Run a prompt to its answer; the messages of the vendor's last request."""
        await self.submit(run_id, prompt, **fields)
        assert (await self.watch.terminal(run_id)).reason == event_pb2.OUTCOME_REASON_ANSWERED
        return self.sent()

    def sent(self) -> list[Any]:
        """The messages of the last request."""
        messages: list[Any] = self.upstream.requests[-1].json["messages"]
        return messages

    async def kept(self, role: content_pb2.Role.ValueType) -> list[list[content_pb2.Part]]:
        """The parts of the history's messages of a role."""
        return [list(message.parts) for message in await self.server.messages("s") if message.role == role]


@asynccontextmanager
async def vendor(data_dir: Path, tools: Tools | None = None) -> AsyncIterator[Vendor]:
    tools = tools or Tools()
    async with Upstream() as upstream:
        settings = {"providers.up.format": "openai-chat", "providers.up.base_url": upstream.base_url}
        for model, capabilities in ((BLIND, '["tools"]'), (SEEING, '["tools", "images"]')):
            settings[f'models."{model}".capabilities'] = capabilities
            # Enough is known of it: the public list is not read.
            settings[f'models."{model}".context_window_tokens'] = "100000"
            settings[f'models."{model}".flat_rate'] = "true"
        loaded = load_settings(data_dir, **settings)
        async with serving(data_dir, settings=loaded, gates=tools.gates, tools=tools.offered) as server:
            await server.session("s", model=BLIND)
            async with watching(server, "s") as watch:
                yield Vendor(server, upstream, watch)


def check_calls(messages: Sequence[Any]) -> None:
    """Each call has one result, directly after it."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
        else:
            assert not waiting, "a call without a result"
            waiting = [call["id"] for call in message.get("tool_calls", ())]
    assert not waiting


def shown(message: Any) -> list[str]:
    """What the parts of a message are, and their texts."""
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else part["type"] for part in content or ()]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:X-19")
async def test_a_model_gets_what_it_takes_and_the_history_keeps_everything(tmp_path: Path) -> None:
    tools = Tools()

    async def shoot() -> content_pb2.Part:
        return IMAGE

    tools.add("shoot", shoot)
    async with vendor(tmp_path, tools) as on:
        on.upstream.plan(calling("shoot"), answering(), answering())
        blind = await on.run("r1", PROMPT)
        check_calls(blind)
        assert not {"image_url", "file"} & {part for message in blind for part in shown(message)}
        said, image, notes, pdf = shown(blind[0])
        assert said == "Look."
        assert notes == '<file name="notes.md">\n# Buy milk\n</file>'
        assert "image/png" in image
        assert "application/pdf" in pdf
        assert "image/png" in shown(blind[2])[0], "the tool's image is said too"

        seeing = await on.run("r2", [SAID], model=SEEING)
        check_calls(seeing)
        assert shown(seeing[0]) == ["Look.", "image_url", notes, "file"]
        assert seeing[0]["content"][1]["image_url"]["url"] == IN_BASE64
        assert shown(seeing[3])[1] == "image_url", "the tool's image follows its result"

        assert await on.kept(content_pb2.ROLE_USER) == [PROMPT, [SAID]]
        ((result,),) = await on.kept(content_pb2.ROLE_TOOL)
        assert list(result.tool_result.content) == [IMAGE]


@pytest.mark.asyncio
@pytest.mark.spec("dispatch:X-19")
async def test_a_request_has_a_result_for_each_call_that_was_cut(tmp_path: Path) -> None:
    tools = Tools()
    tools.quick("done")
    tools.held("stuck")
    async with vendor(tmp_path, tools) as on:
        on.upstream.plan(calling("done", "stuck"), answering())
        await on.submit("r1", [SAID])
        await tools.gates.reached("stuck")
        await on.server.cancel(run_id="r1")
        await on.watch.terminal("r1")
        sent = await on.run("r2", [SAID])
        check_calls(sent)
        results = {message["tool_call_id"]: shown(message) for message in sent if message["role"] == "tool"}
        assert results["id-done"] == ["done is done"]
        assert "cancelled" in results["id-stuck"][0]


@pytest.mark.asyncio
@pytest.mark.spec("subturns:T79")
@pytest.mark.parametrize("model", [BLIND, SEEING])
async def test_media_of_a_steered_prompt_are_for_the_model_and_stay_what_they_are(tmp_path: Path, model: str) -> None:
    tools = Tools()
    tools.held("wait")
    steered = [SAID, LINKED, IMAGE, NOTES]
    async with vendor(tmp_path, tools) as on:
        on.upstream.plan(calling("wait"), answering())
        await on.submit("r", [SAID], model=model)
        await tools.gates.reached("wait")
        await on.submit("steer", steered, delivery=STEER)
        tools.gates.open("wait")
        assert (await on.watch.terminal("r")).reason == event_pb2.OUTCOME_REASON_ANSWERED
        sent = on.sent()
        check_calls(sent)
        said, linked, image, notes = shown(sent[-1])
        assert (said, notes) == ("Look.", '<file name="notes.md">\n# Buy milk\n</file>')
        if model == SEEING:
            urls = [part["image_url"]["url"] for part in sent[-1]["content"][1:3]]
            assert urls == [AT, IN_BASE64]
        else:
            assert "image/png" in linked
            assert "image/png" in image
        assert await on.kept(content_pb2.ROLE_USER) == [[SAID], steered]


@pytest.mark.asyncio
@pytest.mark.spec("subturns:T75")
async def test_files_that_come_while_the_model_answers_are_steered_in_as_what_became_of_them(tmp_path: Path) -> None:
    voice = media("audio/ogg", data=b"OggS", name="memo.ogg")
    async with vendor(tmp_path) as on:
        rest = asyncio.Event()
        on.upstream.plan(Answer(token_stream(1), before_end=rest), answering())
        await on.submit("r", [SAID])
        async with asyncio.timeout(LIMIT):
            await on.upstream.until(lambda: on.upstream.num_requests_open == 1)
        await on.submit("steer", [voice, NOTES], delivery=STEER)
        rest.set()
        outcome = await on.watch.terminal("r")
        assert (outcome.reason, outcome.num_steps) == (event_pb2.OUTCOME_REASON_ANSWERED, 2)
        assert len(on.upstream.requests) == 2
        heard, notes = shown(on.sent()[-1])
        # It is no text, and this model takes no sound: it is told what there was.
        assert "audio/ogg" in heard
        assert "OggS" not in heard
        assert notes == '<file name="notes.md">\n# Buy milk\n</file>'
        assert (await on.kept(content_pb2.ROLE_USER))[-1] == [voice, NOTES]
