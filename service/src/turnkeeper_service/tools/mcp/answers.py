"""What tool servers answer, in the one form in which the SDK takes it from every version of the protocol.

Read here is what something depends on, and no more. What cannot be used is left out, one tool or one part at a time: a
part is named in a note for the model, a tool in the log.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from turnkeeper_service.json_text import MAX_DEPTH, with_finite_numbers
from turnkeeper_service.providers.facts.media import MEDIA_TYPE

Json = dict[str, Any]
LIST = "tools/list"
LEFT_OUT = "turnkeeper.dev/left-out"
"""The key in `_meta` under which a list has the tools that it should have had, each with why it has not."""
MAX_ANSWER_DEPTH = 200
"""Of what is nested in each other in one answer. What the SDK makes of it ends at 255."""
_DATA_URL = re.compile(r"\s*data:([^;,]*)((?:;[^;,]*)*),")
_SIGNATURES = {
    re.compile(pattern, re.S): kind
    for pattern, kind in (
        (rb"\x89PNG\r\n\x1a\n.*", "image/png"),
        (rb"\xff\xd8\xff.*", "image/jpeg"),
        (rb"GIF8.*", "image/gif"),
        (rb"RIFF....WEBP.*", "image/webp"),
        (rb"%PDF-.*", "application/pdf"),
    )
}
_OF_EVERY_RESULT = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
"""What newer versions of the protocol want to be there."""


def normal(method: str, result: object) -> Json:
    """The answer to a request, in its one form."""
    made = _FORMS.get(method)
    if isinstance(result, dict) and (made is None or result.get("resultType") == "input_required"):
        # What nobody reads here, and what the SDK itself refuses.
        return result
    return made(result) if made is not None else {}


def depth_of(value: object) -> int:
    """How deep lists and objects are nested in a value, counted up to a little more than is allowed."""
    level, depth = [value], 0
    while level and depth <= MAX_ANSWER_DEPTH:
        inner: list[object] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        level, depth = [one for one in inner if isinstance(one, dict | list)], depth + 1
    return depth


# ---- the handshake


def _handshake(result: object) -> Json:
    given = _object(result)
    version = given.get("protocolVersion")
    if version not in HANDSHAKE_PROTOCOL_VERSIONS:
        # A server may name one that nobody has released: it speaks the newest that is not newer than that.
        older = [one for one in HANDSHAKE_PROTOCOL_VERSIONS if isinstance(version, str) and one <= version]
        version = older[-1] if older else HANDSHAKE_PROTOCOL_VERSIONS[0]
    tools = _object(given.get("capabilities")).get("tools")
    capabilities: Json = {}
    if tools is not None and tools is not False:
        capabilities["tools"] = {"listChanged": _object(tools).get("listChanged") is True}
    info = _object(given.get("serverInfo"))
    made: Json = {
        "protocolVersion": version,
        "capabilities": capabilities,
        "serverInfo": {key: _text(info.get(key)) or "unknown" for key in ("name", "version")},
    }
    if isinstance(given.get("instructions"), str):
        made["instructions"] = given["instructions"]
    return made


# ---- the list of tools


def _listing(result: object) -> Json:
    given = result if isinstance(result, dict) else {"tools": result}
    listed = given.get("tools")
    tools: list[Json] = []
    left_out: dict[str, str] = {}
    for number, one in enumerate(listed.values() if isinstance(listed, dict) else _list(listed), 1):
        tool = _object(one)
        name = tool.get("name")
        schema, why = _input_schema(tool.get("inputSchema"))
        if not isinstance(name, str) or not name:
            left_out[f"#{number}"] = "it has no name"
        elif schema is None:
            left_out[name] = why
        else:
            tools.append(_tool(name, schema, tool))
    made: Json = {"tools": tools, "_meta": {LEFT_OUT: left_out}, **_OF_EVERY_RESULT}
    cursor = given.get("nextCursor")
    if isinstance(cursor, str | int) and not isinstance(cursor, bool) and cursor != "":
        made["nextCursor"] = str(cursor)
    return made


def _tool(name: str, schema: Json, given: Json) -> Json:
    made: Json = {"name": name, "inputSchema": schema}
    for key in ("title", "description"):
        if given.get(key) is not None:
            made[key] = _text(given[key])
    hints = _object(given.get("annotations"))
    made["annotations"] = {
        key: hints[key] for key in ("readOnlyHint", "idempotentHint") if isinstance(hints.get(key), bool)
    }
    if _object(given.get("execution")).get("taskSupport") == "required":
        made["execution"] = {"taskSupport": "required"}
    # No output schema: a result is what the tool gives, and nothing here depends on its form.
    return made


def _input_schema(given: object) -> tuple[Json | None, str]:
    """The schema of an object, or why it cannot be made one."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return None, "its schema is not JSON"
    if given is None or given is True or given == []:
        given = {}
    if not isinstance(given, dict):
        return None, "its schema is not a JSON object"
    if depth_of(given) > MAX_DEPTH:
        return None, "its schema is nested too deeply"
    kind = given.get("type", "object")
    kind = kind.lower() if isinstance(kind, str) else kind
    if kind is not None and kind != "object" and not (isinstance(kind, list) and "object" in kind):
        return None, "its schema is not that of an object"
    schema = {**json.loads(with_finite_numbers(json.dumps(given))), "type": "object"}
    if not isinstance(schema.get("$schema", ""), str):
        del schema["$schema"]
    if "properties" in schema:
        properties = _object(schema["properties"])
        schema["properties"] = {key: one if isinstance(one, dict | bool) else {} for key, one in properties.items()}
    if "required" in schema:
        schema["required"] = [key for key in _list(schema["required"]) if isinstance(key, str)]
    return schema, ""


# ---- the result of a call


def _result(result: object) -> Json:
    given = result if isinstance(result, dict) else {"content": result}
    content = given.get("content")
    if content is not None and not isinstance(content, list):
        content = [content if isinstance(content, str | dict) else json.dumps(content)]
    blocks = [_block(one) for one in _list(content)]
    if not any(block.get("text") != "" and not block.get("_isNote") for block in blocks):
        # There is no content that could be used. Some servers say all in another place.
        others = {
            key: one for key, one in given.items() if key not in ("content", "isError", "_meta", *_OF_EVERY_RESULT)
        }
        whole = others.get("structuredContent", others.get("toolResult", others or None))
        if whole is not None:
            blocks = [block for block in blocks if block.get("text") != ""]
            blocks.insert(0, _said(whole if isinstance(whole, str) else json.dumps(whole, ensure_ascii=False)))
    for block in blocks:
        block.pop("_isNote", None)
    return {"content": blocks, "isError": given.get("isError") in (True, 1, "true"), **_OF_EVERY_RESULT}


def _block(given: object) -> Json:
    if isinstance(given, str):
        return _said(given)
    block = _object(given)
    match block.get("type"):
        case "text" if block.get("text") is not None:
            return _said(_text(block["text"]))
        case "image" | "audio" | "image_url":
            return _media(*_kind_and_data(block))
        case "resource":
            return _resource(_object(block.get("resource")))
        case "resource_link":
            name = _text(block.get("title")) or _text(block.get("name"))
            first = f"{name}: {_text(block.get('uri'))}"
            return _said("\n".join(filter(None, [first, _text(block.get("description"))])))
        case _ if isinstance(block.get("text"), str):
            return _said(block["text"])
        case None if isinstance(block.get("data"), str):
            return _media(block.get("mimeType"), block["data"])
        case kind:
            return _note(f"content of the kind {_text(kind)[:64]!r}" if kind else "content of no kind")


def _kind_and_data(block: Json) -> tuple[object, object]:
    """The type and the data of media, also where they stand as vendors of models write them."""
    source, url = _object(block.get("source")), block.get("image_url", block.get("url"))
    data = block.get("data") or source.get("data") or _object(url).get("url", url)
    return block.get("mimeType") or source.get("media_type"), data


def _resource(given: Json) -> Json:
    if isinstance(given.get("text"), str):
        return _said(given["text"])
    if given.get("blob") is None:
        return _note("a resource without content")
    made = _media(given.get("mimeType") or "application/octet-stream", given["blob"])
    if "data" not in made:
        return made
    uri = _text(given.get("uri")) or "resource:"
    return {"type": "resource", "resource": {"uri": uri, "mimeType": made["mimeType"], "blob": made["data"]}}


def _media(mime_type: object, data: object) -> Json:
    kind, text = _text(mime_type).strip(), data if isinstance(data, str) else ""
    raw: bytes | None = None
    if (url := _DATA_URL.match(text)) is not None:
        kind, text = kind or url[1].strip(), text[url.end() :]
        if "base64" not in url[2]:
            raw = unquote_to_bytes(text)
    if raw is None:
        raw = _from_base64(text)
    if raw is None:
        return _note(f"{kind or 'media'} that is not base64")
    if not raw:
        return _note(f"{kind or 'media'} without data")
    seen = next((one for start, one in _SIGNATURES.items() if start.fullmatch(raw[:16])), "")
    if MEDIA_TYPE.fullmatch(kind) is None or (seen and kind.startswith("image/")):
        # Vendors look at the bytes, and refuse an image that is another kind than it is called.
        kind = seen
    if not kind:
        return _note("media of no type")
    return {"type": "image", "mimeType": kind, "data": base64.b64encode(raw).decode()}


def _from_base64(text: str) -> bytes | None:
    """The bytes, with line ends in the text or without, padded or not, in either alphabet; None for no base64."""
    plain = "".join(text.split()).rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _said(text: str) -> Json:
    return {"type": "text", "text": text}


def _note(what: str) -> Json:
    return {**_said(f"[A part of this result was left out: {what}.]"), "_isNote": True}


def _text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _object(value: object) -> Json:
    """The value where it is an object; PHP writes an empty one as a list."""
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


_FORMS: Mapping[str, Callable[[object], Json]] = {"initialize": _handshake, LIST: _listing, "tools/call": _result}
