"""The tools of `examples/tools/` are served and called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.real import RealServer
from tests.examples.test_examples import ROOT, run

FOLDER = ROOT / "examples" / "tools"


@pytest.mark.asyncio
async def test_the_functions_are_called_and_one_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    server = RealServer(tmp_path / "data", "--config", str(FOLDER / "turnkeeper.toml"))
    try:
        await server.start()
        code, out, err = await run("examples/tools/ask.py", TURNKEEPER_ADDRESS=server.address)
    finally:
        await server.kill()
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "find_book: E-12",
        "due_date: error: weeks: 12 is greater than the maximum of 8",
        'due_date: {"due":"2026-03-22","weeks":3}',
        "may it order_book? not today",
        "order_book: error: this call was not allowed: the budget is spent",
        "Momo is on shelf E-12; bring it back by 22 March.",
    ]


def test_the_page_on_tools_shows_the_example_as_it_is() -> None:
    """What is copied from the page is what was run."""
    page = (ROOT / "docs" / "tools.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        assert block in (FOLDER / "library.py").read_text()
