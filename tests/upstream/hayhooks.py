"""Hayhooks, which serves pipelines in two of the wire formats; ours is a model that repeats and calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.upstream.third_party import environment, free_port, running

REQUIREMENT = "hayhooks==2.1.0"
MODEL = "parrot"
# What the model writes in a stream is ours; how it is written, in either format, is the server's.
PIPELINE = """
from types import SimpleNamespace

from hayhooks import BasePipelineWrapper


def call(**fields):
    return SimpleNamespace(content="", tool_calls=[SimpleNamespace(index=0, **fields)])


def answer(size, said, result, has_tools):
    if result is not None:
        yield from (f"{result} ", f"({size})")
    elif has_tools:
        yield SimpleNamespace(content="", reasoning=SimpleNamespace(reasoning_text="Let me see."))
        yield call(id="call-1", tool_name="find", arguments='{"q":')
        yield call(id="call-1", tool_name=None, arguments=' "gull"}')
    else:
        for word in said.split():
            if word == "fail":
                raise RuntimeError("as asked")
            yield f"{word} "
        yield f"({size})"


def text_of(content):
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        last = messages[-1]
        text = text_of(last["content"])
        return answer(len(messages), text, text if last["role"] == "tool" else None, body.get("tools"))

    def run_response(self, model, input_items, body):
        last = input_items[-1]
        said = text_of(last.get("content", ""))
        return answer(len(input_items), said, last.get("output"), body.get("tools"))
"""


@contextmanager
def running_hayhooks(folder: Path) -> Iterator[str]:
    """Run the server; gives the address under which its formats' paths are."""
    pipeline = folder / "pipelines" / MODEL
    pipeline.mkdir(parents=True)
    (pipeline / "pipeline_wrapper.py").write_text(PIPELINE)
    port = str(free_port())
    arguments = ["run", "--host", "127.0.0.1", "--port", port, "--pipelines-dir", str(folder / "pipelines")]
    settings = {"HAYSTACK_TELEMETRY_ENABLED": "False"}
    with running([environment(REQUIREMENT) / "bin/hayhooks", *arguments], folder, b"Uvicorn running on", settings):
        yield f"http://127.0.0.1:{port}/v1"
