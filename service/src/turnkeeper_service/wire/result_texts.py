"""Texts of tools' results that are no UTF-8, made whole in the bytes of a request before it is parsed.

Where a client's protobuf does not check them, they arrive so; and a result that is refused leaves its call without one.
Everything else of a request is refused where it is no UTF-8.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

RESULT = "turnkeeper.v1.ToolResult"
MAX_DEPTH = 16
_SIZES = {1: 8, 5: 4}


def mended(kind: Descriptor, content: bytes) -> bytes | None:
    """The message with U+FFFD in place of what is no UTF-8; None where nothing of it can be mended."""
    try:
        made = _message(kind, content, is_result=False, depth=0)
    except (ValueError, IndexError):
        return None
    return made if made != content else None


def _message(kind: Descriptor, content: bytes, *, is_result: bool, depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    is_result = is_result or kind.full_name == RESULT
    made = bytearray()
    position = 0
    while position < len(content):
        tag, start = _number(content, position)
        if tag & 7 != 2:
            _, end = _number(content, start) if tag & 7 == 0 else (0, start + _size(tag & 7))
            made += content[position:end]
            position = end
            continue
        length, start = _number(content, start)
        if start + length > len(content):
            raise ValueError("cut off")
        value = content[start : start + length]
        field = kind.fields_by_number.get(tag >> 3)
        if field is not None and field.message_type is not None:
            value = _message(field.message_type, value, is_result=is_result, depth=depth + 1)
        elif field is not None and field.type == FieldDescriptor.TYPE_STRING and is_result:
            value = value.decode("utf-8", "replace").encode()
        made += _bytes_of(tag) + _bytes_of(len(value)) + value
        position = start + length
    return bytes(made)


def _size(wire_type: int) -> int:
    if wire_type not in _SIZES:
        raise ValueError("no wire type")
    return _SIZES[wire_type]


def _number(content: bytes, position: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("no varint")


def _bytes_of(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
