"""Between protobuf and the JSON of vendors."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from google.protobuf import struct_pb2

from turnkeeper.v1 import content_pb2
from turnkeeper_service.json_text import without_lone_surrogates

_COLLECTED = ("tools", "include")
"""Lists to which both sides add: tools of the caller's and of the vendor's own, things to include in the answer."""
_encoder = msgspec.json.Encoder()
encode = _encoder.encode


def raw(json_text: str, default: str = "{}") -> msgspec.Raw:
    """JSON that is passed on as it is, save for what is no text in it."""
    return msgspec.Raw(without_lone_surrogates(json_text or default).encode())


def has_type(json_text: bytes) -> bool:
    """Whether it is an object that says of what type it is, as all must be that go back unchanged."""
    if not json_text.lstrip().startswith(b"{"):
        return False
    found = msgspec.json.decode(json_text, type=dict[str, msgspec.Raw]).get("type", msgspec.Raw(b""))
    return bytes(found).startswith(b'"') and bytes(found) != b'""'


def struct_to_json(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as plain values; whole numbers come out as integers, which a Struct cannot say."""
    return {key: _value(value) for key, value in struct.fields.items()}


def merge_options(body: dict[str, Any], options: dict[str, Any]) -> None:
    """Put the caller's own options into a body: objects merge, lists that collect grow, all else is replaced."""
    for key, value in options.items():
        there = body.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            merge_options(there, value)
        elif key in _COLLECTED and isinstance(there, list) and isinstance(value, list):
            body[key] = [*there, *(item for item in value if item not in there)]
        else:
            body[key] = value


def detail(part: content_pb2.Part, key: str) -> str:
    """One of the strings that an adapter left in a part's provider details, "" if it left none."""
    if not part.HasField("provider_details"):
        return ""
    value = part.provider_details.fields.get(key)
    return "" if value is None else value.string_value


def data_uri(media: content_pb2.Media) -> str:
    """Where the vendor finds the media: its own address, or the bytes inline."""
    return media.uri or f"data:{media.mime_type};base64,{base64_text(media)}"


def base64_text(media: content_pb2.Media) -> str:
    """The bytes of the media in base64."""
    return base64.b64encode(media.data).decode("ascii")


def is_written_by(message: content_pb2.Message, provider: str, model: str) -> bool:
    """Whether this provider's model wrote the message, so that signed reasoning may go back to it."""
    return message.model == f"{provider}/{model}"


def _value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return struct_to_json(value.struct_value)
        case "list_value":
            return [_value(item) for item in value.list_value.values]
        case _:
            return None
