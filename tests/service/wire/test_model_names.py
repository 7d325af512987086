"""Models by name: which one a session has, and what a caller is told who names one that is not there."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.service.harness import Harness, load_settings, reason, serving, submission
from turnkeeper.v1 import run_service_pb2, session_service_pb2


async def refusal(server: Harness, model: str) -> str:
    request = run_service_pb2.SubmitRunRequest(submission=submission("s", model=model))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.runs.SubmitRun(request)
    assert reason(caught.value) == "UNKNOWN_MODEL"
    return caught.value.details() or ""


@pytest.mark.asyncio
async def test_who_names_a_model_that_is_not_there_is_told_which_are(tmp_path: Path) -> None:
    overrides = {
        "providers.router.format": "openai-chat",
        "providers.router.base_url": "http://127.0.0.1:9/v1",
        'models."router/large".context_window_tokens': "1000",
    }
    there = "there are router/large, router/*, scripted/echo, scripted/lorem"
    async with serving(tmp_path, settings=load_settings(tmp_path, **overrides)) as server:
        await server.session("s")
        for model, why in {
            "ruoter/large": "there is no provider 'ruoter'; did you mean 'router'?",
            "nobody/model": "there is no provider 'nobody'",
            "large": "'large' is not of the form provider/model; did you mean 'router/large'?",
            "echo": "'echo' is not of the form provider/model; did you mean 'scripted/echo'?",
        }.items():
            assert await refusal(server, model) == f"submission.model: {why}; {there}"
        assert len(await refusal(server, "x" * 100_000)) < 500


@pytest.mark.asyncio
async def test_a_session_says_the_model_that_its_next_prompt_gets(tmp_path: Path) -> None:
    async with serving(tmp_path, defaults__model="scripted/lorem") as server:
        made = await server.session("plain")
        assert (made.settings.model, made.model) == ("", "scripted/lorem")
        assert (await server.session("own", model="scripted/echo")).model == "scripted/echo"
        listed = await server.sessions.ListSessions(session_service_pb2.ListSessionsRequest())
        assert [(one.session_id, one.model) for one in listed.sessions] == [
            ("plain", "scripted/lorem"),
            ("own", "scripted/echo"),
        ]
