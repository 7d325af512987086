"""The ``gemini`` format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from turnkeeper_service.providers.base import FailureReason, ModelRequest, ProviderError
from turnkeeper_service.providers.formats.decoding import StreamDecoder
from turnkeeper_service.providers.formats.streaming import HttpProvider
from turnkeeper_service.providers.formats.tool_names import ToolNames
from turnkeeper_service.providers.http.addresses import endpoint
from turnkeeper_service.providers.http.transport import Url, parse_url

from .decode import GeminiDecoder
from .request import NAMES, SCHEMAS, build_body


class GeminiProvider(HttpProvider):
    """Answers model requests over ``POST {base_url}/models/{model}:streamGenerateContent``."""

    names = NAMES
    schemas = SCHEMAS

    def url(self, request: ModelRequest) -> Url:
        """The model stands in the path; a name with a slash brings its own collection, as tuned models do."""
        if any(step in ("", ".", "..") for step in request.model.split("/")):
            # It would lead to another path of the vendor's, with the operator's key.
            raise ProviderError(
                FailureReason.PROVIDER_REFUSED, "No such model", f"{request.model!r} is no model's name."
            )
        return _url(self.options.base_url, request.model)

    def auth_headers(self) -> Mapping[str, str]:
        """The key, if there is one."""
        key = self.key
        return {"x-goog-api-key": key} if key else {}

    def encode(self, request: ModelRequest, names: ToolNames) -> bytes:
        """The body of the vendor's request."""
        return build_body(request, self.options, names)

    def decoder(self) -> StreamDecoder[Any]:
        """A decoder for one stream."""
        return GeminiDecoder()


@lru_cache(maxsize=256)
def _url(base_url: str, model: str) -> Url:
    name = quote(model, safe="/@")
    if "/" not in model:
        name = f"models/{name}"
    return parse_url(endpoint(base_url, f"/{name}:streamGenerateContent", "alt=sse"))
