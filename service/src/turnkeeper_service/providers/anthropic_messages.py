"""The ``anthropic-messages`` format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeeper_service.providers.anthropic_messages_decode import MessagesDecoder
from turnkeeper_service.providers.anthropic_messages_request import NAMES, SCHEMAS, build_body
from turnkeeper_service.providers.base import ModelRequest
from turnkeeper_service.providers.decoding import StreamDecoder
from turnkeeper_service.providers.streaming import HttpProvider
from turnkeeper_service.providers.tool_names import ToolNames

VERSION = "2023-06-01"


class AnthropicMessagesProvider(HttpProvider):
    """Answers model requests over ``POST {base_url}/messages``."""

    path = "/messages"
    names = NAMES
    schemas = SCHEMAS

    def auth_headers(self) -> Mapping[str, str]:
        """The format's version, and the key if there is one."""
        headers = {"anthropic-version": VERSION}
        if self.key:
            headers["x-api-key"] = self.key
        return headers

    def encode(self, request: ModelRequest, names: ToolNames) -> bytes:
        """The body of the vendor's request."""
        return build_body(request, self.options, names)

    def decoder(self) -> StreamDecoder[Any]:
        """A decoder for one stream."""
        return MessagesDecoder()
