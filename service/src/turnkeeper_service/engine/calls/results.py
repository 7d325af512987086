"""What a tool's result may hold, whoever gives it: what no vendor takes would end every later run of the session."""

from __future__ import annotations

from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.facts.media import MEDIA_TYPE


def problem_of(result: content_pb2.ToolResult) -> str:
    """What is wrong with a result, in words for the model; "" for one that can be used."""
    for number, part in enumerate(result.content, 1):
        kind = part.WhichOneof("part")
        problem = "is neither text nor media" if kind not in ("text", "media") else _media_problem(part)
        if problem:
            return f"the tool gave a result that cannot be used: part {number} {problem}"
    return ""


def _media_problem(part: content_pb2.Part) -> str:
    if not part.HasField("media"):
        return ""
    media = part.media
    if MEDIA_TYPE.fullmatch(media.mime_type) is None:
        return "has no media type such as image/png"
    if bool(media.data) == bool(media.uri):
        return "has to have either data or a uri"
    if media.uri and not media.uri.startswith("https://"):
        return "has a uri that is not https"
    return ""
