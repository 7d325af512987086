"""The ``anthropic-messages`` format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeeper_service.providers.base import ModelRequest
from turnkeeper_service.providers.formats.decoding import StreamDecoder
from turnkeeper_service.providers.formats.streaming import HttpProvider
from turnkeeper_service.providers.formats.tool_names import ToolNames

from .decode import MessagesDecoder
from .request import NAMES, SCHEMAS, build_body

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
