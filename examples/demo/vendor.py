"""Who answers the prompts: recorded streams on the loopback, or a real provider."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.upstream import RECORDINGS, Answer, Request, Upstream, load_exchanges, streams_folder

OPENAI, ANTHROPIC = "openai-chat", "anthropic-messages"


@dataclass(frozen=True)
class Played:
    """What a prompt is answered with: an exchange of a recording or, without recordings, one of our own streams."""

    wire_format: str
    recording: str
    exchange: int
    own: str
    seconds: float
    """How long the answer takes."""

    def body(self, recordings: Path | None) -> str:
        """The stream, byte by byte as the vendor sent it."""
        if recordings is None:
            return (streams_folder() / self.wire_format / f"{self.own}.sse").read_text()
        return load_exchanges(recordings / self.wire_format / f"{self.recording}.json")[self.exchange].body


WEATHER = "What is the weather in Florence?"
PICTURE = "What does the picture show?"
CROSSING = "How do I cross the street?"
SUM = "Add 2 and 3, then multiply them."
GREETING = "How do I say hello in Portuguese?"
WHO = "Who are you?"
HEAT = "How hot is it in Florence, and is that much?"
SHORTER = "In one sentence, please."
ON_FOOT = "Explain at length how one crosses a street on foot."
HELLO = "Say hello in Portuguese."
NEVER = "This prompt must never reach a model."
ALOUD = "How do I cross the street? Think aloud, and at length."

ANSWERS = {
    WEATHER: Played(OPENAI, "azure__TestAzureCommon_azure-gpt-5-mini_tool_streaming", 1, "plain", 1.2),
    PICTURE: Played(
        ANTHROPIC, "anthropic__TestImageUploadAgentStreaming_anthropic-claude-sonnet-4-stream", 0, "plain", 1.5
    ),
    CROSSING: Played(OPENAI, "mistral__test_mistral_test_mistral_model_thinking_part_iter", 0, "reasoning-signed", 1.8),
    SUM: Played(OPENAI, "openai__TestOpenAICommon_openai-gpt-4o_multi_tool_streaming", 1, "comments", 0.8),
    GREETING: Played(OPENAI, "openrouter__TestOpenRouterCommon_kimi_simple_streaming", 0, "framing", 0.6),
    WHO: Played(OPENAI, "openrouter__test_openrouter_test_openrouter_stream_with_reasoning", 0, "usage-beside", 0.8),
    HEAT: Played(OPENAI, "avian__TestOpenAICompatibleCommon_avian-kimi_tool_streaming", 1, "long", 1.5),
    SHORTER: Played(OPENAI, "openai__TestOpenAICommon_openai-gpt-4o_tool_streaming", 1, "plain", 0.5),
    ON_FOOT: Played(ANTHROPIC, "anthropic__test_anthropic_test_anthropic_model_thinking_part_stream", 0, "long", 4.0),
    HELLO: Played(ANTHROPIC, "anthropic__TestAnthropicCommon_claude-sonnet-4_simple_streaming", 0, "plain", 0.5),
    ALOUD: Played(OPENAI, "huggingface__test_huggingface_test_hf_model_thinking_part_iter", 0, "long", 5.0),
}


class Vendor:
    """The loopback upstream, which answers every prompt of the demo, and notes what it was asked."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.recordings = _recordings(environ)
        self.upstream = Upstream(self._answer)

    @property
    def title(self) -> str:
        """What it plays."""
        kind = "made-up streams of the project" if self.recordings is None else "recorded streams of real providers"
        return f"{kind}, by HTTP at {self.upstream.base_url}"

    @property
    def asked(self) -> list[str]:
        """Every request's body."""
        return [request.body.decode() for request in self.upstream.requests]

    @property
    def config(self) -> str:
        """The server's configuration."""
        url = f"{self.upstream.base_url}/v1"
        tables = {"openai": OPENAI, "anthropic": ANTHROPIC}
        return "".join(
            f'[providers.{name}]\nformat = "{form}"\nbase_url = "{url}"\n\n' for name, form in tables.items()
        )

    def _answer(self, request: Request) -> Answer:
        played = ANSWERS.get(_last_prompt(request.json))
        if played is None or played.wire_format != request.wire_format:
            return Answer.error(404, json.dumps({"error": {"message": "the demo has no answer to this prompt"}}))
        # An event per piece, paced, as a model writes.
        pieces = re.findall(r".+?(?:\r?\n\r?\n|\Z)", played.body(self.recordings), re.DOTALL)
        return Answer([piece.encode() for piece in pieces], pace=played.seconds / len(pieces))


@dataclass(frozen=True)
class RealProvider:
    """An OpenAI-compatible provider, from the environment."""

    base_url: str
    model: str
    has_key: bool

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> RealProvider | None:
        """The provider that `DEMO_BASE_URL` names; None where it is unset. Raises ValueError."""
        base_url, model = environ.get("DEMO_BASE_URL", ""), environ.get("DEMO_MODEL", "")
        if not base_url:
            return None
        if not model:
            raise ValueError("DEMO_BASE_URL needs DEMO_MODEL, the provider's name of the model")
        return cls(base_url, model, bool(environ.get("DEMO_API_KEY")))

    @property
    def config(self) -> str:
        """The server's configuration; it reads the key from its environment."""
        key = 'api_key_env = "DEMO_API_KEY"\n' if self.has_key else ""
        return f'[providers.real]\nformat = "openai-chat"\nbase_url = {json.dumps(self.base_url)}\n{key}'


def _recordings(environ: Mapping[str, str]) -> Path | None:
    folder = Path(environ.get(RECORDINGS) or Path(__file__).resolve().parents[3] / "shared" / "recordings")
    wanted = [folder / played.wire_format / f"{played.recording}.json" for played in ANSWERS.values()]
    return folder if all(path.is_file() for path in wanted) else None


def _last_prompt(body: Any) -> str:
    """The text of the last message of the user, in either format."""
    content = next(message["content"] for message in reversed(body["messages"]) if message["role"] == "user")
    return content if isinstance(content, str) else str(content[-1]["text"])


def clean_environment() -> dict[str, str]:
    """The environment for children, without settings of a server or client that is the user's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TURNKEEPER_")}
