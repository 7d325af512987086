"""Bytes that a tool server sent, read for what they are: messages of JSON-RPC, as the SDK takes them.

Servers send more than the protocol says: bytes that are no UTF-8, halves of characters, lines that are no messages,
answers without an id. What can be used is made usable; a call whose answer cannot be is told so at once.
"""

from __future__ import annotations

import json
import re
from typing import Any

import structlog
from mcp_types import INTERNAL_ERROR, JSONRPCMessage, JSONRPCNotification, JSONRPCRequest

from turnkeeper_service.json_text import without_lone_surrogates

from . import answers as mcp_answers
from .answers import MAX_ANSWER_DEPTH, Json, depth_of

log = structlog.get_logger(__name__)

TOOLS_CHANGED = "notifications/tools/list_changed"
MAX_STARTS = 8
"""Places of a line at which a message is looked for, behind what a server wrote before it."""
_ID = re.compile(r'"id"\s*:\s*(?:"([^"\\]{1,128})"|([0-9]{1,18})\b)')
_START = re.compile(r"[{\[]")
_NESTING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.S)
PRUNED_DEPTH = MAX_ANSWER_DEPTH + 20
_DECODER = json.JSONDecoder(strict=False)


class Exchange:
    """What one server was asked and has not answered, so that an answer can be read as one."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._open: dict[str, tuple[int | str, str]] = {}
        """Ids and methods, by the ids as texts: some servers answer 7 with "7"."""
        self._has_complained = False

    def sent(self, message: JSONRPCMessage) -> None:
        """A message goes to the server."""
        if isinstance(message, JSONRPCRequest):
            self.asked(message.id, message.method)
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self.forget((message.params or {}).get("requestId"))

    def asked(self, request_id: int | str, method: str) -> None:
        """A request goes to the server."""
        self._open[str(request_id)] = (request_id, method)

    def forget(self, request_id: int | str | None) -> None:
        """Nobody waits for an answer any more."""
        self._open.pop(str(request_id), None)

    def read(self, data: bytes, answers: int | str | None = None) -> list[Json]:
        """The messages in what the server sent at once.

        ``answers`` is the request whose answer it is, where that is known. A text that is no message is an error for
        the call that it answers, if that can be told; else it is left out.
        """
        text = without_lone_surrogates(data.decode("utf-8", "replace"))
        if not text.strip().lstrip("\ufeff"):
            return []
        try:
            values = _values(text)
        except RecursionError:
            values = _values(_pruned(text))
        if not values:
            return self.unusable(text, "is not JSON", answers)
        messages: list[Json] = []
        for value in values:
            message = self._message(value, answers)
            if message is not None:
                messages.append(message)
        if not messages:
            return self.unusable("", "is no message of JSON-RPC", answers)
        return messages

    def unusable(self, text: str, why: str, answers: int | str | None = None) -> list[Json]:
        """The end of the call that a text would have answered, if it can be told which; nothing else."""
        if answers is None and '"jsonrpc"' in text:
            found = next((one for one in _ID.finditer(text) if (one[1] or one[2]) in self._open), None)
            answers = self._open[found[1] or found[2]][0] if found is not None else None
        if answers is None:
            self._complain(why)
            return []
        self._open.pop(str(answers), None)
        log.warning("an answer of a tool server cannot be used", server=self._server, why=why)
        return [_error(answers, f"the tool server gave an answer that cannot be used: it {why}")]

    def _complain(self, why: str) -> None:
        # Its first such line tells the operator; a server that writes its log there does not fill ours.
        (log.debug if self._has_complained else log.warning)(
            "a tool server writes what is no message", server=self._server, why=why
        )
        self._has_complained = True

    def _message(self, value: Json, answers: int | str | None) -> Json | None:
        """A message that is one; None for what is none, or answers nothing that was asked."""
        own_id = _id_of(value.get("id"))
        method = value.get("method")
        # Some servers write their log there, in JSON too: only what says that it is a message is taken for one.
        is_message = "jsonrpc" in value
        if "result" not in value and "error" not in value:
            return _unasked(method, own_id, value.get("params")) if is_message and isinstance(method, str) else None
        if answers is not None:
            own_id = answers
        elif own_id is None and is_message and len(self._open) == 1:
            # Without an id it can only be the answer to the one that is open.
            own_id = next(iter(self._open.values()))[0]
        if own_id is None or (not is_message and str(own_id) not in self._open):
            return None
        _, asked = self._open.pop(str(own_id), (own_id, ""))
        error = value.get("error")
        if error or "result" not in value:
            return _error(own_id, *_words(error))
        return _answer(own_id, asked, value["result"])


def _values(text: str) -> list[Json]:
    """The objects in a text, those of a list too, whatever stands before, between and behind them.

    Raises RecursionError.
    """
    values: list[Json] = []
    position = num_tried = 0
    while (found := _START.search(text, position)) is not None and num_tried < MAX_STARTS:
        try:
            value, position = _DECODER.raw_decode(text, found.start())
        except ValueError:
            position, num_tried = found.start() + 1, num_tried + 1
            continue
        values += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]
    return values


def _pruned(text: str) -> str:
    """The text with null for what is nested deeper than anything may be, and still deep enough to be seen as that."""
    kept: list[str] = []
    depth, position = 0, 0
    for token in _NESTING.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth == PRUNED_DEPTH:
                kept.append(text[position : token.start()] + "null")
        elif token[0] in "]}":
            if depth == PRUNED_DEPTH:
                position = token.end()
            depth -= 1
    if depth < PRUNED_DEPTH:
        kept.append(text[position:])
    return "".join(kept)


def _id_of(value: object) -> int | str | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _unasked(method: str, own_id: int | str | None, params: object) -> Json:
    message: Json = {"jsonrpc": "2.0", "method": method}
    if own_id is not None:
        message["id"] = own_id
    # That tools have changed is all that this says: nothing beside it can make it unreadable.
    if isinstance(params, dict) and method != TOOLS_CHANGED:
        message["params"] = params
    return message


def _answer(own_id: int | str, asked: str, result: object) -> Json:
    if depth_of(result) > MAX_ANSWER_DEPTH and asked != mcp_answers.LIST:
        # A list is read tool by tool: one deep schema costs that tool.
        return _error(own_id, "the tool server gave an answer that cannot be used: it is nested too deeply")
    return {"jsonrpc": "2.0", "id": own_id, "result": mcp_answers.normal(asked, result)}


def _error(own_id: int | str, message: str, code: int = INTERNAL_ERROR, data: Any = None) -> Json:
    error: Json = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": own_id, "error": error}


def _words(error: object) -> tuple[str, int, Any]:
    """An error's message, code and data, however it is written."""
    if not isinstance(error, dict):
        return (error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)), INTERNAL_ERROR, None
    code, message = error.get("code"), error.get("message")
    if isinstance(code, str | float):
        code = int(code) if re.fullmatch(r"-?[0-9]{1,9}(\.0)?", str(code)) else None
    if not isinstance(message, str):
        message = "" if message is None else json.dumps(message, ensure_ascii=False)
    data = error.get("data")
    return (
        message,
        code if isinstance(code, int) else INTERNAL_ERROR,
        data if depth_of(data) <= MAX_ANSWER_DEPTH else None,
    )
