"""Three tools of a library. The server runs them; `turnkeeper.toml` beside this names them.

A function's signature is what the model is told: names, types and defaults become a JSON Schema, the docstring the
description. Arguments that do not fit never reach the function; the model gets an error result and may try again.
"""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from turnkeeper_service.tools.functions import FunctionTool, ToolError

SHELVES = {"momo": "E-12", "dune": "H-03"}


class Loan(BaseModel):
    """What `due_date` returns; models see it as JSON."""

    due: date
    weeks: int


def due_date(borrowed: date, weeks: Annotated[int, Field(ge=1, le=8)] = 3) -> Loan:
    """Say when a book has to be back. A plain function runs in a thread, so it may block."""
    return Loan(due=borrowed + timedelta(weeks=weeks), weeks=weeks)


async def find_book(title: str, language: Literal["de", "en"] = "en") -> str:
    """Find the shelf of a book. A coroutine runs on the server's event loop, so it must not block."""
    await asyncio.sleep(0)
    shelf = SHELVES.get(title.lower())
    if shelf is None:
        # Its text is what the model reads; of any other exception it reads the name only.
        raise ToolError(f"there is no book {title!r} in {language}")
    return shelf


def order_book(title: str) -> str:
    """Order a book that the library does not have."""
    return f"{title} is ordered"


# With more than a function says by itself: somebody has to allow each call.
order = FunctionTool(order_book, needs_approval=True, timeout=20)
