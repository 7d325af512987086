"""What both formats of OpenAI want alike: the content of a message, in words of their own, and the answer's schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelRequest

from .output_schema import STRICT, fulfils, in_prompt, object_schema
from .summary import summary_text
from .wire_json import raw

Json = dict[str, Any]


def place_schema(request: ModelRequest) -> tuple[ModelRequest, Json | None]:
    """The request, and the schema of its answer as both formats take it; in the prompt where they take none."""
    if not request.output_schema_json:
        return request, None
    schema_json = object_schema(request.output_schema_json)
    if not schema_json:
        return in_prompt(request), None
    return request, {"name": "answer", "strict": fulfils(schema_json, STRICT), "schema": raw(schema_json)}


def build_content(
    parts: Iterable[content_pb2.Part], text_type: str, build_media: Callable[[content_pb2.Media], Json]
) -> str | list[Json]:
    """Text, summaries and media as items; a single text is a plain string, nothing an empty list."""
    items: list[Json] = []
    is_text = True
    for part in parts:
        kind = part.WhichOneof("part")
        if kind == "text" and part.text.text:
            items.append({"type": text_type, "text": part.text.text})
        elif kind == "summary":
            items.append({"type": text_type, "text": summary_text(part.summary)})
        elif kind == "media":
            is_text = False
            items.append(build_media(part.media))
    if is_text and len(items) == 1:
        return str(items[0]["text"])
    return items


def items_of(content: str | list[Json], text_type: str) -> list[Json]:
    """A content as a list, also where it is a plain string."""
    return [{"type": text_type, "text": content}] if isinstance(content, str) else content
