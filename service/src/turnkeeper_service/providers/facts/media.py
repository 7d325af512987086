"""Media where a model takes them, and words in their place where it does not.

What the model takes is what the request's capabilities say; no vendor is known by its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelCapabilities, ModelRequest

from .media_types import type_of

MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}(?: *;[\x20-\x7e]{1,255})?", re.ASCII)
LOST = "[This media could not be loaded.]"
FOLLOWS = "[The result is media; it is in the next message.]"
OF_RESULT = "The media that the tool returned:"
_TEXT_TYPES = frozenset(
    f"application/{name}" for name in ("json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-sh", "sql")
)


def fit_media(
    request: ModelRequest, *, is_inside: bool, says: Callable[[str], bool] = lambda mime_type: True
) -> Sequence[content_pb2.Message]:
    """The request's messages with media only where the model takes them.

    ``is_inside`` says whether the format has media inside tool results, for models of which nothing else is known.
    Where it has not, they follow in a message of the user behind the last result, so that results stay together.
    ``says`` tells which types the format has a place for at all; they are told as they are, not as they are said to be.
    """
    messages = request.messages
    if not any(_has_media(message.parts) for message in messages):
        return messages
    capabilities = request.capabilities
    if capabilities.takes_result_media is not None:
        is_inside = capabilities.takes_result_media
    fitted: list[content_pb2.Message] = []
    lifted: list[content_pb2.Part] = []
    for message in messages:
        if lifted and message.role != content_pb2.ROLE_TOOL:
            fitted.append(_message_of(lifted))
            lifted = []
        if not _has_media(message.parts):
            fitted.append(message)
            continue
        copy = content_pb2.Message()
        copy.CopyFrom(message)
        _replace(copy, capabilities, says)
        if not is_inside:
            for part in copy.parts:
                if part.HasField("tool_result"):
                    lifted += _lift(part.tool_result)
        fitted.append(copy)
    if lifted:
        fitted.append(_message_of(lifted))
    return fitted


def is_text(media: content_pb2.Media) -> bool:
    """Whether the media is text that can stand in a prompt."""
    kind = media.mime_type.partition(";")[0].strip().lower()
    return bool(media.data) and (
        kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+json", "+xml", "+yaml"))
    )


def _has_media(parts: Iterable[content_pb2.Part]) -> bool:
    for part in parts:
        kind = part.WhichOneof("part")
        if kind == "media" or (kind == "tool_result" and _has_media(part.tool_result.content)):
            return True
    return False


def _replace(message: content_pb2.Message, capabilities: ModelCapabilities, says: Callable[[str], bool]) -> None:
    for part in message.parts:
        if part.HasField("tool_result"):
            for inner in part.tool_result.content:
                _replace_part(inner, capabilities, says)
        elif message.role != content_pb2.ROLE_ASSISTANT:
            # What a model made itself goes back to it alone; formats leave it out for others.
            _replace_part(part, capabilities, says)


def _replace_part(part: content_pb2.Part, capabilities: ModelCapabilities, says: Callable[[str], bool]) -> None:
    if not part.HasField("media"):
        return
    kind = type_of(part.media)
    text = _words(part.media, kind, capabilities, says)
    if text is not None:
        part.text.text = text
    else:
        part.media.mime_type = kind


def _words(
    media: content_pb2.Media, kind: str, capabilities: ModelCapabilities, says: Callable[[str], bool]
) -> str | None:
    if is_text(media):
        name = (media.name or "file").replace('"', "'")
        return f'<file name="{name}">\n{media.data.decode(errors="replace")}\n</file>'
    if not media.data and not media.uri:
        return LOST
    is_image = kind.startswith("image/")
    if says(kind) and (capabilities.takes_images if is_image else capabilities.takes_files):
        return None
    return f"[Here was media of the type {kind or 'unknown'}, which this model does not take.]"


def _lift(result: content_pb2.ToolResult) -> list[content_pb2.Part]:
    """Take the media out of a result and say so in it."""
    media = [part for part in result.content if part.HasField("media")]
    if not media:
        return []
    lifted = []
    for part in media:
        copy = content_pb2.Part()
        copy.CopyFrom(part)
        lifted.append(copy)
    kept = [part for part in result.content if not part.HasField("media")]
    text = "".join(part.text.text for part in kept)
    del result.content[:]
    result.content.add().text.text = f"{text}\n{FOLLOWS}" if text else FOLLOWS
    return lifted


def _message_of(media: list[content_pb2.Part]) -> content_pb2.Message:
    message = content_pb2.Message(role=content_pb2.ROLE_USER)
    message.parts.add().text.text = OF_RESULT
    message.parts.extend(media)
    return message
