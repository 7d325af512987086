"""What vendors send and their documents do not say, through the running service; each kind in every format."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.dispatch.watch import watching
from tests.service.providers.outside_failures import FAILURES
from tests.service.providers.outside_kinds import KINDS, with_counts
from tests.service.providers.outside_vendor import outside_server
from tests.service.providers.test_splits import WIRE_FORMATS
from tests.service.titles.stage import calls_of, is_update, seen

ALL_KINDS = KINDS | FAILURES


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_kind(kind: str, tmp_path: Path) -> None:
    faults: list[str] = []
    numbered = [(name, number, case) for name, cases in ALL_KINDS[kind].items() for number, case in enumerate(cases)]
    for retries in sorted({case.retries for _, _, case in numbered}):
        folder = tmp_path / str(retries)
        folder.mkdir()
        async with outside_server(folder, **{"retries.max_retries": str(retries)}) as it:
            for wire_format, number, case in numbered:
                if case.retries == retries:
                    found = case.faults(await it.run(wire_format, case.answers))
                    faults += [f"{wire_format} {number}: {fault}" for fault in found]
    assert not faults, "\n".join(faults)


@pytest.mark.asyncio
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_a_title_whose_tokens_are_no_counts(wire_format: str, tmp_path: Path) -> None:
    async with outside_server(tmp_path, **{"defaults.generate_titles": "true"}) as it:
        answer = with_counts(wire_format, -1000, -35)
        run = await it.run(wire_format, [answer, answer])
        assert run.outcome.text == "real"
        async with watching(it.server, "s1") as watch:
            assert (await watch.until(is_update)).session_updated.title == "real"
        session = await seen(it.server, "s1")
        assert calls_of(session) == {f"{wire_format}/m": 2}
        assert (session.usage.own.output_tokens, session.usage.own.is_estimated) == (2, True)
        shown = it.server.server._metrics.render().decode()
        assert f'turnkeeper_tokens_total{{model="{wire_format}/m",type="output"}} 2.0' in shown
