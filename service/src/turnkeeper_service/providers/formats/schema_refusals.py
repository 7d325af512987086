"""Vendors that refuse the schema of an answer, for a model or beside tools: it is put into the prompt then.

Servers of one format differ in that, and say so only when they are asked. What was refused once is not tried again.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from turnkeeper_service.providers.base import FailureReason, ModelEvent, ModelRequest, ProviderError

from .output_schema import in_prompt

MAX_KEPT = 256
_REFUSED = (400, 404, 415, 422, 501)
_WORDS = re.compile(
    r"response[_ ]?format|response[_ ]?schema|response[_ ]?json[_ ]?schema|response[_ ]?mime[_ ]?type|json[_ ]?schema"
    r"|json[_ ]mode|text\.format|output[_ ]?(?:config|format|schema)|structured[_ ]?output|guided[_ ]?(?:json|decod)",
    re.IGNORECASE,
)
_log = logging.getLogger(__name__)


Opening = Callable[[ModelRequest], AbstractAsyncContextManager[AsyncIterator[ModelEvent]]]


class SchemaRefusals:
    """Asks once more with the schema in the prompt where a vendor refuses a request for its schema."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._refused: OrderedDict[tuple[str, bool, str], None] = OrderedDict()

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Open the call of a request with a schema."""
        key = (request.model, bool(request.tools), request.output_schema_json)
        is_refused = key in self._refused
        async with AsyncExitStack() as stack:
            try:
                events = await stack.enter_async_context(self._opening(in_prompt(request) if is_refused else request))
            except ProviderError as error:
                if is_refused or not _is_of_schema(error):
                    raise
                _log.info("a schema goes into the prompt", extra={"model": request.model, "status": error.status})
                events = await stack.enter_async_context(self._opening(in_prompt(request)))
                # Only now is it known that the schema was what the vendor did not take.
                self._refused[key] = None
                if len(self._refused) > MAX_KEPT:
                    self._refused.popitem(last=False)
            yield events


def _is_of_schema(error: ProviderError) -> bool:
    is_refused = error.reason is FailureReason.PROVIDER_REFUSED and error.status in _REFUSED
    return is_refused and _WORDS.search(error.detail) is not None
