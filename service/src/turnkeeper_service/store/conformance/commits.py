"""What a commit does, and in which order."""

from __future__ import annotations

import asyncio

from turnkeeper_service.store.base import (
    Commit,
    RunConflictError,
    RunFinish,
    RunState,
    SessionConflictError,
    SessionState,
    StoreClosedError,
    StoreError,
)
from turnkeeper_service.store.conformance.harness import Harness, found, opened
from turnkeeper_service.store.conformance.rows import (
    TENANT,
    event,
    finish,
    message,
    new_session,
    partial,
    run,
    session,
    tombstone,
)


async def one_commit_applies_its_fields_in_order(harness: Harness) -> None:
    """A commit that carries everything; later fields see what earlier ones made."""
    async with opened(harness) as store:
        commit = Commit(
            TENANT,
            "s1",
            insert_session=session(),
            insert_runs=[run("r1", 1), run("r2", 2)],
            start_runs=[("r1", 3_000)],
            cancel_runs=[("r1", b"first"), ("r1", b"second")],
            finish_runs=[RunFinish("r1", b"done", 4_000)],
            events=[event(1), event(2), event(3)],
            messages=[message(2), message(3)],
            message_contexts=[("m2", False)],
            partials=[partial(0, b"text"), partial(0, b"kept", run_id="r2")],
            drop_partials=["r1"],
            session_settings=b"new settings",
            session_title="new title",
            session_usage=b"new usage",
            session_context_tokens=b"new size",
            session_todos=b"new todos",
            session_state=SessionState.DELETING,
            updated_us=6_000,
            insert_tombstones=[tombstone("r8"), tombstone("r9")],
            drop_tombstones=["r8"],
        )
        await store.commit(commit)
        row = found(await store.get_session(TENANT, "s1"))
        assert (row.state, row.title, row.settings, row.usage) == (
            SessionState.DELETING,
            "new title",
            b"new settings",
            b"new usage",
        )
        assert (row.context_tokens, row.todos) == (b"new size", b"new todos")
        assert (row.created_us, row.updated_us, row.last_seq, row.delete_us) == (1_000, 6_000, 3, None)
        r1 = found(await store.get_run(TENANT, "r1"))
        assert (r1.state, r1.started_us, r1.finished_us) == (RunState.FINISHED, 3_000, 4_000)
        assert (r1.cancel, r1.outcome) == (b"second", b"done")
        assert await store.get_run(TENANT, "r2") == run("r2", 2)
        assert await store.read_events(TENANT, "s1", after_seq=0, limit=9) == [event(1), event(2), event(3)]
        assert await store.read_context(TENANT, "s1", "main") == [event(3)]
        assert await store.read_partials(TENANT, "r1") == []
        assert await store.read_partials(TENANT, "r2") == [partial(0, b"kept", run_id="r2")]
        assert await store.get_tombstone(TENANT, "r8") is None
        assert await store.get_tombstone(TENANT, "r9") == tombstone("r9")


async def acknowledged_commits_survive_reopening(harness: Harness) -> None:
    """Durable means that the next process finds it."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 7)))
        await store.commit(Commit(TENANT, "s1", events=[event(1)], insert_tombstones=[tombstone("r9")]))
    async with opened(harness) as store:
        row = found(await store.get_session(TENANT, "s1"))
        assert row.last_seq == 1
        assert await store.get_run(TENANT, "r1") == run("r1", 7)
        assert await store.read_events(TENANT, "s1", after_seq=0, limit=9) == [event(1)]
        assert await store.get_tombstone(TENANT, "r9") == tombstone("r9")


async def commits_are_acknowledged_in_the_order_handed_over(harness: Harness) -> None:
    """Over many sessions, without waiting in between."""
    async with opened(harness) as store:
        for number in range(4):
            await store.commit(new_session(f"s{number}"))
        done: list[int] = []
        futures = []
        for number in range(400):
            seq = number // 4 + 1
            future = store.commit(Commit(TENANT, f"s{number % 4}", events=[event(seq)], session_title=str(seq)))
            future.add_done_callback(lambda _, number=number: done.append(number))  # type: ignore[misc]
            futures.append(future)
        await asyncio.gather(*futures)
        assert done == list(range(400))
        for number in range(4):
            row = found(await store.get_session(TENANT, f"s{number}"))
            assert (row.last_seq, row.title) == (100, "100")
            events = await store.read_events(TENANT, f"s{number}", after_seq=0, limit=500)
            assert [e.seq for e in events] == list(range(1, 101))


async def a_run_is_inserted_once(harness: Harness) -> None:
    """The second commit fails whole and alone; the ones around it stand."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 1)))
        first = store.commit(Commit(TENANT, "s1", events=[event(1)], insert_runs=[run("r2", 2)]))
        twice = Commit(
            TENANT, "s2", insert_session=session("s2"), insert_runs=[run("r3", 3), run("r1", 4)], events=[event(1)]
        )
        refused = store.commit(twice)
        # Against a commit of the same batch, too.
        again = store.commit(Commit(TENANT, "s1", insert_runs=[run("r2", 5)], session_title="refused"))
        behind = store.commit(Commit(TENANT, "s1", events=[event(2)], insert_runs=[run("r4", 6)]))
        results = await asyncio.gather(first, refused, again, behind, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), RunConflictError, RunConflictError, type(None)]
        assert await store.get_session(TENANT, "s2") is None
        assert await store.get_run(TENANT, "r3") is None
        assert await store.get_run(TENANT, "r1") == run("r1", 1)
        assert await store.get_run(TENANT, "r4") == run("r4", 6)
        row = found(await store.get_session(TENANT, "s1"))
        assert (row.last_seq, row.title) == (2, "title of s1")
        assert not store.failure.done()
        # The same id in another tenant is another run.
        await store.commit(new_session("s1", run("r1", 8, tenant="other"), tenant="other"))


async def a_session_is_inserted_once(harness: Harness) -> None:
    """The second commit fails whole and alone."""
    async with opened(harness) as store:
        first = store.commit(new_session("s1", run("r1", 1)))
        refused = store.commit(new_session("s1", run("r2", 2)))
        behind = store.commit(Commit(TENANT, "s1", events=[event(1)]))
        results = await asyncio.gather(first, refused, behind, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), SessionConflictError, type(None)]
        assert await store.get_run(TENANT, "r2") is None
        row = found(await store.get_session(TENANT, "s1"))
        assert row.last_seq == 1
        assert not store.failure.done()


async def a_finished_run_never_changes(harness: Harness) -> None:
    """Starting or cancelling it is without effect, whether its end is being written or long durable."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 1)))
        late = Commit(TENANT, "s1", start_runs=[("r1", 3_000)], cancel_runs=[("r1", b"late")])
        await asyncio.gather(store.commit(finish("r1")), store.commit(late))
        await store.commit(late)
        row = found(await store.get_run(TENANT, "r1"))
        assert (row.state, row.started_us, row.cancel, row.outcome) == (RunState.FINISHED, None, None, b"outcome")


async def finishing_a_run_twice_stops_the_store(harness: Harness) -> None:
    """What was handed over before it stands; it and all behind it fail, and nothing is taken any more."""
    store = harness.store()
    await store.open()
    await store.commit(new_session("s1", run("r1", 1), run("r2", 2)))
    before = store.commit(finish("r1", b"the one terminal"))
    twice = store.commit(finish("r1", b"a second one"))
    behind = store.commit(finish("r2"))
    results = await asyncio.gather(before, twice, behind, return_exceptions=True)
    assert results[0] is None
    assert [isinstance(result, StoreError) for result in results[1:]] == [True, True]
    assert isinstance(await asyncio.wait_for(asyncio.shield(store.failure), 10), StoreError)
    after = await asyncio.gather(store.commit(finish("r2")), return_exceptions=True)
    assert isinstance(after[0], StoreClosedError)
    await store.close()
    async with opened(harness) as store:
        assert found(await store.get_run(TENANT, "r1")).outcome == b"the one terminal"
        assert found(await store.get_run(TENANT, "r2")).state is RunState.QUEUED


async def the_last_of_several_changes_wins(harness: Harness) -> None:
    """Changes of one row that end up in one batch keep their order, and leave what they do not name."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 1)))
        changes = [
            Commit(TENANT, "s1", session_title="one", session_usage=b"one", updated_us=1),
            Commit(TENANT, "s1", session_title="two", cancel_runs=[("r1", b"one")]),
            Commit(TENANT, "s1", session_settings=b"three", updated_us=3, cancel_runs=[("r1", b"three")]),
        ]
        await asyncio.gather(*map(store.commit, changes))
        row, r1 = found(await store.get_session(TENANT, "s1")), found(await store.get_run(TENANT, "r1"))
        assert (row.title, row.usage, row.settings, row.updated_us) == ("two", b"one", b"three", 3)
        assert (row.state, r1.state, r1.cancel) == (SessionState.ACTIVE, RunState.QUEUED, b"three")


async def partial_text_is_dropped_in_order(harness: Harness) -> None:
    """Dropping the text of one step leaves the text of the next, flushed behind it."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 1)))
        commits = [
            Commit(TENANT, "s1", partials=[partial(0, b"old"), partial(3, b"er")]),
            Commit(TENANT, "s1", drop_partials=["r1"]),
            Commit(TENANT, "s1", partials=[partial(0, b"new")]),
        ]
        await asyncio.gather(*map(store.commit, commits))
        assert await store.read_partials(TENANT, "r1") == [partial(0, b"new")]
        # Flushed again, a piece replaces itself.
        await store.commit(Commit(TENANT, "s1", partials=[partial(0, b"newer")]))
        assert await store.read_partials(TENANT, "r1") == [partial(0, b"newer")]
        await store.commit(Commit(TENANT, "s1", drop_partials=["r1"]))
        assert await store.read_partials(TENANT, "r1") == []


async def tombstones_come_and_go(harness: Harness) -> None:
    """They are counted by tenant, replaced and dropped in order."""
    async with opened(harness) as store:
        commits = [
            Commit(TENANT, "", insert_tombstones=[tombstone("r1"), tombstone("r2"), tombstone("r3")]),
            Commit(TENANT, "", drop_tombstones=["r1", "r2"]),
            Commit(TENANT, "", insert_tombstones=[tombstone("r2", cancel=b"again")]),
            Commit("other", "", insert_tombstones=[tombstone("r1", tenant="other")], drop_tombstones=["r3"]),
        ]
        await asyncio.gather(*map(store.commit, commits))
        assert await store.get_tombstone(TENANT, "r1") is None
        assert await store.get_tombstone(TENANT, "r2") == tombstone("r2", cancel=b"again")
        assert await store.get_tombstone(TENANT, "r3") == tombstone("r3")
        assert await store.get_tombstone("other", "r1") == tombstone("r1", tenant="other")
        assert (await store.count_tombstones(TENANT), await store.count_tombstones("other")) == (2, 1)


async def a_waiter_that_leaves_changes_nothing(harness: Harness) -> None:
    """A future may be cancelled; its commit is written all the same."""
    async with opened(harness) as store:
        store.commit(new_session("s1", run("r1", 1))).cancel()
        await store.commit(Commit(TENANT, "s1", events=[event(1)]))
        assert await store.get_run(TENANT, "r1") == run("r1", 1)
        assert store.stats().queue_depth == 0


async def counters_count(harness: Harness) -> None:
    """Durable commits only; the depth is what is not durable yet."""
    async with opened(harness) as store:
        futures = [store.commit(new_session(f"s{number}", run(f"r{number}", number))) for number in range(5)]
        assert store.stats().queue_depth == 5
        await asyncio.gather(*futures)
        refused = await asyncio.gather(store.commit(new_session("s1")), return_exceptions=True)
        assert isinstance(refused[0], SessionConflictError)
        stats = store.stats()
        assert (stats.commits, stats.queue_depth, stats.rows) == (5, 0, 10)
        assert 1 <= stats.batches <= 5


SCENARIOS = (
    one_commit_applies_its_fields_in_order,
    acknowledged_commits_survive_reopening,
    commits_are_acknowledged_in_the_order_handed_over,
    a_run_is_inserted_once,
    a_session_is_inserted_once,
    a_finished_run_never_changes,
    finishing_a_run_twice_stops_the_store,
    the_last_of_several_changes_wins,
    partial_text_is_dropped_in_order,
    tombstones_come_and_go,
    a_waiter_that_leaves_changes_nothing,
    counters_count,
)
