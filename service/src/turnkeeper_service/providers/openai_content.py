"""The content of a message as both formats of OpenAI want it: the same lists, in words of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.summary import summary_text

Json = dict[str, Any]


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


def joined(first: str | list[Json], second: str | list[Json], text_type: str) -> str | list[Json]:
    """Two contents as one: texts stay a text, paragraph by paragraph."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_items(first, text_type), *_items(second, text_type)]


def _items(content: str | list[Json], text_type: str) -> list[Json]:
    return [{"type": text_type, "text": content}] if isinstance(content, str) else content
