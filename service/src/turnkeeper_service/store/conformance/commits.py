"""What a commit does, and in which order."""

from __future__ import annotations

import asyncio

from turnkeeper_service.store.answers import Laid
from turnkeeper_service.store.base import Commit, EventRow, RunFinish, RunRow, RunState, SessionState, Store
from turnkeeper_service.store.completion import Completion
from turnkeeper_service.store.conformance.harness import Harness, found, opened, tombstones
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
from turnkeeper_service.store.errors import StoreClosedError, StoreError


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
            drop_tombstones=["r8"],
        )
        await store.lay_tombstone(tombstone("r8"), limit=9)
        await store.lay_tombstone(tombstone("r9"), limit=9)
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
        assert await tombstones(store, "r8") == []
        assert await tombstones(store, "r9") == [tombstone("r9")]


async def acknowledged_commits_survive_reopening(harness: Harness) -> None:
    """Durable means that the next process finds it."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 7)))
        await store.commit(Commit(TENANT, "s1", events=[event(1)]))
        await store.lay_tombstone(tombstone("r9"), limit=9)
    async with opened(harness) as store:
        row = found(await store.get_session(TENANT, "s1"))
        assert row.last_seq == 1
        assert await store.get_run(TENANT, "r1") == run("r1", 7)
        assert await store.read_events(TENANT, "s1", after_seq=0, limit=9) == [event(1)]
        assert await tombstones(store, "r9") == [tombstone("r9")]


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


async def _stops(harness: Harness, commit: Commit) -> None:
    """What was handed over before it stands; it and all behind it fail, and nothing is taken any more."""
    store = harness.store()
    await store.open()
    await store.commit(new_session("s1", run("r1", 1)))
    ahead = store.commit(Commit(TENANT, "s1", expected_seq=0, events=[event(1), event(2)]))
    refused = store.commit(commit)
    behind = store.commit(Commit(TENANT, "s1", events=[event(3)]))
    results = await asyncio.gather(ahead, refused, behind, return_exceptions=True)
    assert [isinstance(result, StoreError) for result in results] == [False, True, True]
    assert isinstance(await asyncio.wait_for(asyncio.shield(store.failure), 10), StoreError)
    await store.close()
    async with opened(harness) as store:
        row = found(await store.get_session(TENANT, "s1"))
        assert (row.last_seq, row.title) == (2, "title of s1")
        assert await store.get_run(TENANT, "r1") == run("r1", 1)
        # The same ids in another tenant are others.
        await store.commit(new_session("s1", run("r1", 8, tenant="other"), tenant="other"))


async def a_run_is_inserted_once(harness: Harness) -> None:
    """Names are claimed before: a second time must never be tried."""
    await _stops(harness, Commit(TENANT, "s1", insert_runs=[run("r2", 3), run("r1", 4)], session_title="refused"))


async def a_session_is_inserted_once(harness: Harness) -> None:
    """The same of a session."""
    await _stops(harness, new_session("s1", run("r2", 2)))


async def a_commit_follows_the_log_that_it_expects(harness: Harness) -> None:
    """If memory and record differ nothing more is written."""
    await _stops(harness, Commit(TENANT, "s1", expected_seq=1, session_title="refused"))


async def a_log_is_expected_over_batches(harness: Harness) -> None:
    """By commits that end up together or not, with events and without."""
    async with opened(harness) as store:
        commits = [new_session("s1")]
        for seq in range(0, 40, 2):
            commits.append(Commit(TENANT, "s1", expected_seq=seq, updated_us=seq))
            commits.append(Commit(TENANT, "s1", expected_seq=seq, events=[event(seq + 1), event(seq + 2)]))
        await asyncio.gather(*map(store.commit, commits[:30]))
        await asyncio.gather(*map(store.commit, commits[30:]))
        assert found(await store.get_session(TENANT, "s1")).last_seq == 40


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


async def an_event_is_completed_with_a_submission(harness: Harness) -> None:
    """What it lacks is there when it is written, also of a run in the same batch; of none there is None."""

    def complete(payload: bytes, submission: bytes | None) -> bytes:
        return payload + b" with " + (b"nothing" if submission is None else submission)

    async with opened(harness) as store:
        commits = [
            new_session("s1", run("r1", 1)),
            Commit(
                TENANT,
                "s1",
                events=[
                    event(1),
                    EventRow(2, "r1", 20, b"second", Completion("r1", complete)),
                    event(3),
                    EventRow(4, "r9", 20, b"fourth", Completion("r9", complete)),
                ],
            ),
        ]
        await asyncio.gather(*map(store.commit, commits))
        assert await store.read_events(TENANT, "s1", after_seq=0, limit=9) == [
            event(1),
            EventRow(2, "r1", 20, b"second with submission of r1"),
            event(3),
            EventRow(4, "r9", 20, b"fourth with nothing"),
        ]
        assert found(await store.get_session(TENANT, "s1")).last_seq == 4


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
    """One for each session that was named, renewed when it is laid again; all of them go with the run."""
    async with opened(harness) as store:
        anywhere, named = tombstone("r1", created_us=6), tombstone("r1", session_id="s1", created_us=5)
        for row in named, anywhere, tombstone("r2"), tombstone("r1", tenant="other"):
            assert await store.lay_tombstone(row, limit=9) is Laid.LAID
        assert await tombstones(store, "r1") == [anywhere, named]
        newer = tombstone("r1", session_id="s1", created_us=7, cancel=b"again")
        assert await store.lay_tombstone(newer, limit=9) is Laid.LAID
        assert await tombstones(store, "r1") == [newer, anywhere]
        # A clock that went back does not age it.
        await store.lay_tombstone(named, limit=9)
        assert [row.created_us for row in await tombstones(store, "r1")] == [7, 6]
        await store.commit(Commit(TENANT, "s1", drop_tombstones=["r1"]))
        assert await tombstones(store, "r1") == []
        assert await tombstones(store, "r2") == [tombstone("r2")]
        assert await tombstones(store, "r1", "other") == [tombstone("r1", tenant="other")]


async def tombstones_are_bounded_by_tenant(harness: Harness) -> None:
    """By what is stored, whatever came and went; one that renews itself counts once."""
    async with opened(harness) as store:

        async def lay(*run_ids: str, tenant: str = TENANT) -> list[Laid]:
            rows = [tombstone(run_id, tenant=tenant) for run_id in run_ids]
            return await asyncio.gather(*(store.lay_tombstone(row, limit=2) for row in rows))

        assert await lay("r1", "r2", "r3", "r1") == [Laid.LAID, Laid.LAID, Laid.FULL, Laid.LAID]
        assert await lay("r3", tenant="other") == [Laid.LAID]
        await store.commit(Commit(TENANT, "s1", drop_tombstones=["r1"]))
        assert await lay("r3", "r1") == [Laid.LAID, Laid.FULL]
        await store.sweep(before_us=9_000)
        assert await lay("r1") == [Laid.LAID]


async def a_claim_and_a_tombstone_see_each_other(harness: Harness) -> None:
    """Whichever of the two comes first, the other finds it, and waits for it."""
    async with opened(harness) as store:
        await store.commit(new_session())
        async with store.claim_run(TENANT, "r1") as claim:
            laying = asyncio.ensure_future(store.lay_tombstone(tombstone("r1"), limit=9))
            gone = asyncio.ensure_future(_claimed(store, "r1"))
            twin = asyncio.ensure_future(_claimed(store, "r1"))
            other = await store.lay_tombstone(tombstone("r2"), limit=9)
            assert (claim.run, list(claim.tombstones), other) == (None, [], Laid.LAID)
            assert not laying.done()
            # Who leaves loses its place, and no other.
            gone.cancel()
            store.commit(Commit(TENANT, "s1", insert_runs=[run("r1", 1)]))
        assert await laying is Laid.HAS_RUN
        assert await twin == run("r1", 1)
        late = asyncio.ensure_future(store.lay_tombstone(tombstone("r3"), limit=9))
        await asyncio.sleep(0)
        # Whoever leaves takes nothing back.
        late.cancel()
        assert await tombstones(store, "r3") == [tombstone("r3")]


async def _claimed(store: Store, run_id: str) -> RunRow | None:
    async with store.claim_run(TENANT, run_id) as claim:
        return claim.run


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
        stats = store.stats()
        assert (stats.commits, stats.queue_depth, stats.rows) == (5, 0, 10)
        assert 1 <= stats.batches <= 5


SCENARIOS = (
    one_commit_applies_its_fields_in_order,
    acknowledged_commits_survive_reopening,
    commits_are_acknowledged_in_the_order_handed_over,
    a_run_is_inserted_once,
    a_session_is_inserted_once,
    a_commit_follows_the_log_that_it_expects,
    a_log_is_expected_over_batches,
    a_finished_run_never_changes,
    finishing_a_run_twice_stops_the_store,
    the_last_of_several_changes_wins,
    an_event_is_completed_with_a_submission,
    partial_text_is_dropped_in_order,
    tombstones_come_and_go,
    tombstones_are_bounded_by_tenant,
    a_claim_and_a_tombstone_see_each_other,
    a_waiter_that_leaves_changes_nothing,
    counters_count,
)
