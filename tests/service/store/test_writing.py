"""How the writer groups, retries and stops, by faults put into it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from tests.service.store.harness import SqliteHarness
from turnkeeper_service.store import committer
from turnkeeper_service.store.answers import Laid
from turnkeeper_service.store.base import Commit
from turnkeeper_service.store.conformance.harness import found, opened
from turnkeeper_service.store.conformance.rows import (
    TENANT,
    event,
    finish,
    message,
    new_session,
    partial,
    run,
    tombstone,
)
from turnkeeper_service.store.errors import StoreClosedError, StoreError
from turnkeeper_service.store.faults import FaultPoint, Faults, busy
from turnkeeper_service.store.sqlite import SqliteStore
from turnkeeper_service.store.writer import MAX_BATCH


@pytest.fixture
def harness(tmp_path: Path) -> SqliteHarness:
    return SqliteHarness(tmp_path)


@pytest.mark.asyncio
async def test_what_is_queued_becomes_one_batch(harness: SqliteHarness) -> None:
    faults = Faults()
    store = harness.store(faults)
    await store.open()
    faults.pause()
    futures = [store.commit(new_session(f"s{number}")) for number in range(500)]
    assert store.stats().queue_depth == 500
    faults.resume()
    await asyncio.gather(*futures)
    assert (store.stats().commits, store.stats().batches, store.stats().queue_depth) == (500, 1, 0)
    faults.pause()
    futures = [store.commit(Commit(TENANT, "s1", events=[event(seq)])) for seq in range(1, MAX_BATCH + 2)]
    faults.resume()
    await asyncio.gather(*futures)
    assert store.stats().batches == 3
    await store.close()


@pytest.mark.asyncio
async def test_a_sweep_keeps_its_place_in_the_queue(harness: SqliteHarness) -> None:
    faults = Faults()
    store = harness.store(faults)
    await store.open()
    await store.commit(new_session())
    faults.pause()
    erased = store.commit(Commit(TENANT, "s1", erase_session_us=1))
    sweep = asyncio.ensure_future(store.sweep(before_us=2))
    await asyncio.sleep(0)
    again = store.commit(new_session())
    faults.resume()
    await asyncio.gather(erased, again)
    assert await sweep == 1
    await store.close()


@pytest.mark.asyncio
async def test_a_batch_is_the_same_as_its_commits_one_by_one(tmp_path: Path) -> None:
    def commits() -> list[Commit]:
        """One session's life, in which every row is touched more than once."""
        return [
            new_session("s1", run("r1", 1), run("r2", 2)),
            Commit(TENANT, "s1", insert_runs=[run("r3", 3)]),
            Commit(TENANT, "s1", start_runs=[("r1", 1)], events=[event(1)], updated_us=1),
            Commit(TENANT, "s1", partials=[partial(0, b"a")], session_title="one"),
            Commit(TENANT, "s1", cancel_runs=[("r1", b"c1")]),
            Commit(TENANT, "s1", drop_partials=["r1"], events=[event(2)], messages=[message(2)]),
            Commit(TENANT, "s1", partials=[partial(0, b"b"), partial(0, b"c", run_id="r2")], session_settings=b"x"),
            finish("r1"),
            Commit(TENANT, "s1", cancel_runs=[("r1", b"late")], start_runs=[("r1", 5)], drop_tombstones=["r3"]),
            Commit(TENANT, "s1", message_contexts=[("m2", False)], drop_partials=["r2"]),
            Commit(TENANT, "s1", drop_tombstones=["r4"]),
            new_session("s2", run("r9", 9, "s2")),
            Commit(TENANT, "s2", events=[event(1, "r9")], erase_session_us=7),
            Commit(TENANT, "s1", message_contexts=[("m2", True)], session_title="two", events=[event(3)]),
        ]

    dumps = []
    for name, together in (("together", True), ("singly", False)):
        harness, faults = SqliteHarness(tmp_path / name), Faults()
        store = harness.store(faults)
        await store.open()
        for run_id in "r3", "r4", "r5":
            await store.lay_tombstone(tombstone(run_id), limit=9)
        before = store.stats().batches
        if together:
            faults.pause()
            futures = [store.commit(commit) for commit in commits()]
            faults.resume()
            await asyncio.gather(*futures)
            assert store.stats().batches == before + 1
        else:
            for commit in commits():
                await store.commit(commit)
        await store.close()
        dumps.append(harness.dump())
    assert dumps[0] == dumps[1]


@pytest.mark.asyncio
async def test_a_shorter_life_too(tmp_path: Path) -> None:
    dumps = []
    for name, together in (("together", True), ("singly", False)):
        harness, faults = SqliteHarness(tmp_path / name), Faults()
        store = harness.store(faults)
        await store.open()
        commits = [
            new_session("s1", run("r1", 1), run("r2", 2)),
            Commit(TENANT, "s1", start_runs=[("r1", 1)], partials=[partial(0, b"a"), partial(0, b"a", run_id="r2")]),
            Commit(TENANT, "s1", cancel_runs=[("r1", b"c1"), ("r2", b"c2")], drop_partials=["r1"]),
            Commit(TENANT, "s1", partials=[partial(9, b"b")], events=[event(1)], messages=[message(1)]),
            finish("r1"),
            Commit(TENANT, "s1", cancel_runs=[("r1", b"late")], start_runs=[("r1", 5), ("r2", 6)]),
            Commit(TENANT, "s1", message_contexts=[("m1", False)]),
            Commit(TENANT, "s1", drop_tombstones=["r3"], erase_session_us=7, events=[event(2)]),
            Commit(TENANT, "s1", session_title="behind", events=[event(3)], drop_partials=["r2"]),
        ]
        if together:
            faults.pause()
        futures = []
        for commit in commits:
            futures.append(store.commit(commit))
            if not together:
                await futures[-1]
        faults.resume()
        await asyncio.gather(*futures)
        assert store.stats().batches == (1 if together else len(commits))
        await store.close()
        dumps.append(harness.dump())
    assert dumps[0] == dumps[1]


@pytest.mark.asyncio
async def test_a_commit_that_stops_the_store_leaves_nothing_of_itself(harness: SqliteHarness) -> None:
    async with opened(harness) as store:
        full = new_session("s1", run("r1", 1))
        full.events, full.partials = [event(1)], [partial(0, b"x")]
        await store.commit(full)
        await store.lay_tombstone(tombstone("r9"), limit=9)
        before = harness.dump()
        whole = Commit(
            TENANT,
            "s1",
            insert_runs=[run("r2", 2), run("r1", 3)],
            cancel_runs=[("r1", b"cancel")],
            events=[event(2)],
            messages=[message(2)],
            partials=[partial(5, b"y")],
            drop_partials=["r1"],
            session_title="refused",
            drop_tombstones=["r9"],
            erase_session_us=9,
        )
        with pytest.raises(StoreError, match="s1"):
            await store.commit(whole)
    assert harness.dump() == before


@pytest.mark.asyncio
@pytest.mark.parametrize("point", ["before", "inside"])
async def test_a_fault_that_passes_is_retried(harness: SqliteHarness, point: FaultPoint) -> None:
    faults = Faults()
    store = harness.store(faults)
    await store.open()
    faults.fail(point, times=committer.RETRIES)
    await store.commit(new_session("s1", run("r1", 1)))
    assert await store.get_run(TENANT, "r1") == run("r1", 1)
    assert not store.failure.done()
    assert store.stats().batches == 1
    await store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("point", ["before", "inside"])
async def test_a_lock_that_somebody_else_holds_is_waited_for(harness: SqliteHarness, point: FaultPoint) -> None:
    faults = Faults()
    store = harness.store(faults)
    await store.open()
    faults.fail(point, times=3 * committer.RETRIES, error=busy)
    await store.commit(new_session("s1", run("r1", 1)))
    faults.fail(point, times=3 * committer.RETRIES, error=busy)
    assert await store.lay_tombstone(tombstone("r2"), limit=9) is Laid.LAID
    assert not store.failure.done()
    await store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("point", ["before", "inside"])
async def test_a_disk_that_stays_full_stops_the_store(harness: SqliteHarness, point: FaultPoint) -> None:
    faults = Faults()
    store = harness.store(faults)
    await store.open()
    await store.commit(new_session("s1", run("r1", 1)))
    before = harness.dump()
    faults.fail(point, when=lambda commit: bool(commit.finish_runs))
    faults.pause()
    futures = [store.commit(finish("r1")), store.commit(Commit(TENANT, "s1", events=[event(1)]))]
    faults.resume()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(type(result) is StoreError and "full" in str(result) for result in results)
    assert "full" in str(await store.failure)
    with pytest.raises(StoreClosedError, match="full"):
        await store.commit(finish("r1"))
    with pytest.raises(StoreClosedError):
        await store.sweep(before_us=1)
    # What is durable can still be read.
    assert await store.get_run(TENANT, "r1") == run("r1", 1)
    await store.close()
    assert harness.dump() == before


@pytest.mark.asyncio
async def test_a_fault_after_the_commit_leaves_the_outcome_open(harness: SqliteHarness) -> None:
    faults = Faults()
    faults.fail("after", batch=2)
    store = harness.store(faults)
    await store.open()
    await store.commit(new_session("s1", run("r1", 1)))
    with pytest.raises(StoreError):
        await store.commit(finish("r1"))
    assert store.failure.done()
    await store.close()
    async with opened(harness) as again:
        assert found(await again.get_run(TENANT, "r1")).outcome == b"outcome"


@pytest.mark.asyncio
async def test_a_commit_that_cannot_be_applied_stops_the_store(harness: SqliteHarness) -> None:
    faults = Faults()
    store = harness.store(faults)
    await store.open()
    faults.pause()
    futures = [
        store.commit(new_session("s1", run("r1", 1))),
        store.commit(Commit(TENANT, "s1", events=[event(1)])),
        store.commit(Commit(TENANT, "s1", session_title="half", events=[event(2), event(1)])),
        store.commit(Commit(TENANT, "s1", events=[event(3)])),
    ]
    faults.resume()
    results = await asyncio.gather(*futures, return_exceptions=True)
    none = type(None)
    assert [type(result) for result in results] == [none, none, StoreError, StoreError]
    assert "s1" in str(await store.failure)
    await store.close()
    async with opened(harness) as again:
        row = found(await again.get_session(TENANT, "s1"))
        assert (row.title, row.last_seq) == ("title of s1", 1)


@pytest.mark.asyncio
async def test_an_unforeseen_error_stops_the_store(harness: SqliteHarness) -> None:
    faults = Faults()
    faults.fail("before", error=lambda: sqlite3.DatabaseError("malformed"), times=1)
    store = harness.store(faults)
    await store.open()
    with pytest.raises(StoreError, match="malformed"):
        await store.commit(new_session())
    assert store.failure.done()
    await store.close()


@pytest.mark.asyncio
async def test_a_sweep_that_fails_stops_the_store(harness: SqliteHarness) -> None:
    store = harness.store()
    await store.open()
    with pytest.raises(StoreError):
        await store.sweep(before_us=1 << 80)
    assert store.failure.done()
    await store.close()


def test_a_loop_that_is_gone_is_tolerated(harness: SqliteHarness) -> None:
    faults = Faults()

    async def leave() -> SqliteStore:
        store = harness.store(faults)
        await store.open()
        faults.pause()
        store.commit(new_session("s1", run("r1", 1)))
        return store

    before = set(threading.enumerate())
    store = asyncio.run(leave())
    (writer,) = (thread for thread in set(threading.enumerate()) - before if thread.name == "store-writer")
    # Nobody can be told any more, but what was handed over is written, and the thread ends when it is told to.
    store._writer.stop()
    faults.resume()
    writer.join(30)
    assert not writer.is_alive()

    async def look() -> None:
        async with opened(harness) as again:
            assert await again.get_run(TENANT, "r1") == run("r1", 1)

    asyncio.run(look())


@pytest.mark.asyncio
async def test_a_position_that_no_page_gave_is_refused(harness: SqliteHarness) -> None:
    async with opened(harness) as store:
        for after in ("x", "-1", str(1 << 63), "1;"):
            with pytest.raises(ValueError, match=r"position|literal"):
                await store.list_sessions(TENANT, after=after, limit=1)


@pytest.mark.asyncio
async def test_erased_content_is_not_left_in_the_file(harness: SqliteHarness) -> None:
    async with opened(harness) as store:
        commit = new_session("s1", run("r1", 1))
        commit.events = [event(seq, payload=b"secret payload" * 50) for seq in range(1, 200)]
        await store.commit(commit)
    assert b"secret payload" in harness.path.read_bytes()
    async with opened(harness) as store:
        await store.commit(Commit(TENANT, "s1", erase_session_us=1))
    content = harness.path.read_bytes()
    assert b"secret payload" not in content
    assert run("r1", 1).submission not in content
