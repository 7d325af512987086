"""Whether a vendor says that the request is longer than the model can hold.

Few have a code for it, so most is told by their words. Limits on how much may be asked for in a while, and on how long
an answer may be, sound alike and are not meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "request_too_large"})
_PAYLOAD_TOO_LARGE, _TOO_MANY_REQUESTS = 413, 429
_OTHER_TROUBLE = frozenset({401, 402, 403, 404})
_WORDS = re.compile(
    "|".join(
        (
            r"(?:prompt|input) is too long",  # Anthropic, Bedrock, Fireworks
            r"exceeds? context limit",  # Anthropic, with the room for the answer
            r"exceeds? the context window",  # OpenAI
            r"maximum context length",  # OpenAI, DeepSeek, OpenRouter, vLLM, Mistral
            r"context length is only \d+",  # vLLM, LM Studio
            r"longer than the maximum model length|too long to fit into the model",  # vLLM
            r"context ?window ?exceeded",  # LiteLLM
            r"input[ _]tokens exceed|expected maxLength: \d+, actual: \d+",  # Bedrock
            r"token length exceeds? model limit|exceed max message tokens",  # StepFun, Volcengine
            r"prompt tokens too long|prompt 超长",  # Qianfan, Z.ai
            r"reduce the length of the (?:messages|input|prompt)",  # Groq, Cerebras
            r"token count\b.{0,40}\bexceeds the (?:maximum|limit)",  # Gemini, Copilot
            r"maximum prompt length is \d+",  # xAI
            r"exceeds the available context size|context size has been exceeded",  # llama.cpp
            r"context window exceeds limit",  # MiniMax
            r"exceeded model token limit",  # Moonshot
            r"prompt exceeds max length",  # Z.ai
            r"range of input length should be",  # DashScope
            r"inputs must have less than \d+ tokens|tokens \+ `?max_new_tokens`? must be <=",  # TGI, Together
            r"context length of (?:only )?\d+|when (?:the )?context (?:the )?overflows",  # LM Studio
            r"n_keep \(\d+\) >=? n_ctx",  # LM Studio, over llama.cpp
            r"(?:prompt|input) too long",  # Ollama
            r"too many tokens: (?:total number of tokens|size limit)",  # Cohere
            r"(?:input|prompt|sequence) length\b.{0,40}\b(?:exceeds?|is (?:over|greater))\b",  # SGLang, Ollama, Tabby
            # What several say in words of their own: something is more than the context.
            r"\b(?:exceed(?:s|ed|ing)?|(?:long|great|larg)er than|more than|over(?:flow(?:s|ed)?)?)\b.{0,60}"
            r"\bcontext[ _](?:length|window|size|limit)",
            r"\bcontext[ _](?:length|window|size|limit)\b.{0,30}\b(?:exceeded|overflow(?:ed)?|reached|too small)\b",
        )
    ),
    re.IGNORECASE,
)
_LARGER_THAN_ANY_RATE = re.compile(r"request too large for", re.IGNORECASE)
"""A request that alone is over what may be sent within a minute, so that no waiting helps."""
_SAYING = (
    *("error", "errors", "message", "detail", "msg", "code", "type", "metadata", "raw"),
    *("base_resp", "status_msg", "error_message", "error_msg", "errmsg", "text", "title"),
)
"""Where vendors, and gateways that quote them, speak. Elsewhere they repeat what they were sent."""
_MAX_DEPTH = 5


def says_overflow(error: Any, status: int | None = None) -> bool:
    """Whether an error body, or the error inside a stream, says so. ``status`` is that of HTTP, if it is not 200."""
    if status == _PAYLOAD_TOO_LARGE:
        return True
    if status in _OTHER_TROUBLE:
        return False
    said = list(_strings(error))
    if any(_LARGER_THAN_ANY_RATE.search(text) for text in said):
        return True
    return status != _TOO_MANY_REQUESTS and any(text in _CODES or _WORDS.search(text) for text in said)


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth > _MAX_DEPTH:
        return
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one, depth + 1)
    elif isinstance(value, dict):
        for key in _SAYING:
            if key in value:
                yield from _strings(value[key], depth + 1)
