"""Who owns a store, how it ends, and how what is in it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from turnkeeper_service.store.base import Commit, RunState, SessionState
from turnkeeper_service.store.conformance.harness import Harness, found, opened, tombstones
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
from turnkeeper_service.store.errors import StoreClosedError, StoreError, StoreFencedError, StoreLockedError


async def _error(awaitable: Awaitable[object]) -> type[BaseException] | None:
    try:
        await awaitable
    except StoreError as error:
        return type(error)
    return None


async def each_owner_gets_a_higher_epoch(harness: Harness) -> None:
    """And the largest accept sequence, also of runs that are gone."""
    store = harness.store()
    first = await store.open()
    assert (first.epoch > 0, first.last_sequence) == (True, 0)
    await asyncio.gather(
        store.commit(new_session("s1", run("r1", 70), run("r2", 80))), store.commit(new_session("s2", run("r3", 75)))
    )
    await store.commit(Commit(TENANT, "s1", erase_session_us=5_000))
    await store.sweep(before_us=9_000)
    await store.close()
    store = harness.store()
    second = await store.open()
    assert second.epoch > first.epoch
    assert second.last_sequence == 80
    await store.close()


async def one_store_is_open_at_a_time(harness: Harness) -> None:
    """The second is told so, and can open once the first is closed."""
    async with opened(harness):
        second = harness.store()
        assert await _error(second.open()) is StoreLockedError
        await second.close()
    async with opened(harness):
        pass


async def an_owner_that_is_deposed_writes_nothing_more(harness: Harness) -> None:
    """Its commits fail, all of them, and it says so once; the new owner is not disturbed."""
    old = harness.store()
    await old.open()
    await old.commit(new_session("s1", run("r1", 1)))
    await old.check_fence()
    harness.break_lock()
    async with opened(harness) as new:
        await new.commit(Commit(TENANT, "s1", session_title="of the new owner"))
        commits = [Commit(TENANT, "s1", session_title="of the old owner"), finish("r1"), new_session("s2")]
        results = await asyncio.gather(*map(old.commit, commits), return_exceptions=True)
        assert [type(result) for result in results] == [StoreFencedError] * 3
        assert type(await asyncio.wait_for(asyncio.shield(old.failure), 10)) is StoreFencedError
        assert await _error(old.commit(finish("r1"))) is StoreClosedError
        assert await _error(old.sweep(before_us=9_000)) is StoreClosedError
        row = found(await new.get_session(TENANT, "s1"))
        assert row.title == "of the new owner"
        assert await new.get_run(TENANT, "r1") == run("r1", 1)
        assert await new.get_session(TENANT, "s2") is None
        await new.check_fence()
        await old.close()
        await new.commit(finish("r1"))


async def checking_the_fence_finds_a_new_owner(harness: Harness) -> None:
    """Without a commit, and then commits are refused too."""
    old = harness.store()
    await old.open()
    harness.break_lock()
    async with opened(harness):
        assert await _error(old.check_fence()) is StoreFencedError
        assert type(await asyncio.wait_for(asyncio.shield(old.failure), 10)) is StoreFencedError
        assert await _error(old.commit(new_session())) is StoreClosedError
        assert await _error(old.check_fence()) is StoreFencedError
    await old.close()


async def a_commit_of_a_lost_slot_fails_alone(harness: Harness) -> None:
    """Those beside it are written, the store goes on, and so does whoever owns the slot."""
    store = harness.store()
    boot = await store.open()
    now, before = boot.epoch, boot.epoch - 1
    made = new_session("s1", run("r1", 1))
    made.epoch = now
    await store.commit(made)
    commits = [
        Commit(TENANT, "s1", before, expected_seq=0, events=[event(1)]),
        new_session("s2"),
        Commit(TENANT, "s1", before, expected_seq=1, session_title="of the old owner"),
        Commit(TENANT, "s1", now, expected_seq=0, events=[event(1), event(2)]),
    ]
    results = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
    assert [type(result) for result in results] == [StoreFencedError, type(None), StoreFencedError, type(None)]
    assert await _error(store.commit(Commit(TENANT, "s1", before))) is StoreFencedError
    assert not store.failure.done()
    await store.commit(Commit(TENANT, "s1", now, expected_seq=2, session_title="of the owner"))
    row = found(await store.get_session(TENANT, "s1"))
    assert (row.last_seq, row.title) == (2, "of the owner")
    assert await store.get_session(TENANT, "s2") is not None
    await store.close()


async def a_watcher_that_is_cancelled_is_no_failure(harness: Harness) -> None:
    """Cancelling a task that awaits the failure leaves the store as it was; the next watcher sees a real one."""
    old = harness.store()
    await old.open()
    old.failure.cancel()
    await old.commit(new_session())
    assert not old.failure.done()
    harness.break_lock()
    async with opened(harness):
        assert await _error(old.commit(new_session("s2"))) is StoreFencedError
        old.failure.cancel()
        assert type(await asyncio.wait_for(old.failure, 10)) is StoreFencedError
    await old.close()


async def closing_writes_what_was_handed_over(harness: Harness) -> None:
    """Closing twice, at once or later, is the same as closing once; a closed store takes and gives nothing."""
    store = harness.store()
    await store.close()
    store = harness.store()
    await store.open()
    futures = [store.commit(new_session(f"s{number}")) for number in range(20)]
    await asyncio.gather(store.close(), store.close())
    await store.close()
    assert all(future.done() for future in futures)
    await asyncio.gather(*futures)
    assert await _error(store.commit(new_session("late"))) is StoreClosedError
    assert await _error(store.get_session(TENANT, "s1")) is StoreClosedError
    assert await _error(store.read_events(TENANT, "s1", after_seq=0, limit=1)) is StoreClosedError
    assert await _error(store.sweep(before_us=1)) is StoreClosedError
    assert not store.failure.done()
    async with opened(harness) as store:
        page = await store.list_sessions(TENANT, after="", limit=100)
        assert [row.session_id for row in page.sessions] == [f"s{number}" for number in range(20)]


async def erasing_leaves_only_what_answers_for_the_runs(harness: Harness) -> None:
    """Content goes, also what the same batch brought; ids, fingerprints and outcomes stay."""
    async with opened(harness) as store:
        full = new_session("s1", run("r1", 1))
        full.events, full.messages, full.partials = [event(1)], [message(1)], [partial(0, b"text")]
        full.session_todos = b"todos"
        other = new_session("s2", run("r2", 2, "s2"))
        other.events, other.messages = [event(1, "r2")], [message(1, run_id="r2")]
        await asyncio.gather(
            store.commit(full),
            store.commit(other),
            store.commit(finish("r1")),
            store.commit(Commit(TENANT, "s1", events=[event(2)], erase_session_us=5_000)),
            store.commit(Commit(TENANT, "s2", session_title="behind it")),
        )
        row, r1 = found(await store.get_session(TENANT, "s1")), found(await store.get_run(TENANT, "r1"))
        assert (row.state, row.delete_us, row.title, row.settings) == (SessionState.DELETED, 5_000, "", b"")
        assert row.todos == b""
        assert row.last_seq == 2
        assert (r1.state, r1.outcome, r1.submission) == (RunState.FINISHED, b"outcome", b"")
        assert (r1.fingerprint, r1.accept_sequence) == (run("r1", 1).fingerprint, 1)
        assert list(await store.read_events(TENANT, "s1", after_seq=0, limit=9)) == []
        assert list(await store.read_context(TENANT, "s1", "main")) == []
        assert list(await store.read_partials(TENANT, "r1")) == []
        assert list(await store.read_context(TENANT, "s2", "main")) == [event(1, "r2")]
        kept = found(await store.get_session(TENANT, "s2"))
        assert (kept.title, kept.settings) == ("behind it", b"settings")
        assert await store.get_run(TENANT, "r2") == run("r2", 2, "s2")


async def sweeping_frees_ids(harness: Harness) -> None:
    """What is older than the bound goes, rows are counted, and the ids can be used again."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 1), run("r2", 2)))
        await store.commit(new_session("s2", run("r3", 3, "s2")))
        await asyncio.gather(
            *(
                store.commit(finish(run_id, session_id=sid))
                for run_id, sid in (("r1", "s1"), ("r2", "s1"), ("r3", "s2"))
            )
        )
        for row in tombstone("t1", created_us=5_000), tombstone("t2", created_us=6_000):
            await store.lay_tombstone(row, limit=9)
        await store.commit(Commit(TENANT, "s1", erase_session_us=5_000))
        await store.commit(Commit(TENANT, "s2", erase_session_us=6_000))
        assert await store.sweep(before_us=5_000) == 0
        assert await store.sweep(before_us=6_000) == 4
        assert await store.get_session(TENANT, "s1") is None
        assert await store.get_run(TENANT, "r1") is None
        assert await store.get_run(TENANT, "r3") is not None
        assert await tombstones(store, "t1") == []
        assert len(await tombstones(store, "t2")) == 1
        await store.commit(new_session("s1", run("r1", 4)))
        assert await store.get_run(TENANT, "r1") == run("r1", 4)
        assert await store.sweep(before_us=7_000) == 3


SCENARIOS = (
    each_owner_gets_a_higher_epoch,
    one_store_is_open_at_a_time,
    an_owner_that_is_deposed_writes_nothing_more,
    checking_the_fence_finds_a_new_owner,
    a_commit_of_a_lost_slot_fails_alone,
    a_watcher_that_is_cancelled_is_no_failure,
    closing_writes_what_was_handed_over,
    erasing_leaves_only_what_answers_for_the_runs,
    sweeping_frees_ids,
)
