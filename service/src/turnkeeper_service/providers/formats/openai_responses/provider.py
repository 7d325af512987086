"""The ``openai-responses`` format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeeper_service.providers.base import ModelRequest
from turnkeeper_service.providers.formats.decoding import StreamDecoder
from turnkeeper_service.providers.formats.streaming import HttpProvider
from turnkeeper_service.providers.formats.tool_names import ToolNames

from .decode import ResponsesDecoder
from .request import NAMES, SCHEMAS, build_body


class OpenAIResponsesProvider(HttpProvider):
    """Answers model requests over ``POST {base_url}/responses``."""

    path = "/responses"
    names = NAMES
    schemas = SCHEMAS

    def auth_headers(self) -> Mapping[str, str]:
        """A bearer token, if there is a key."""
        key = self.key
        return {"authorization": f"Bearer {key}"} if key else {}

    def encode(self, request: ModelRequest, names: ToolNames) -> bytes:
        """The body of the vendor's request."""
        return build_body(request, self.options, names)

    def decoder(self) -> StreamDecoder[Any]:
        """A decoder for one stream."""
        return ResponsesDecoder()
