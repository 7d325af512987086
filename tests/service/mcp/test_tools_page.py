"""docs/tools.md says what tool servers may send, no more and no less than what is played."""

from __future__ import annotations

from tests.service.mcp import tools_page


def test_the_page_says_what_is_played() -> None:
    named = {case for _, _, cases in tools_page.ROWS for case in cases.split()}
    assert named == tools_page.cases()
    assert tools_page.page() == tools_page.PAGE.read_text(encoding="utf-8"), (
        "run `python -m tests.service.mcp.tools_page`"
    )
