"""What can be read, in which order and pages."""

from __future__ import annotations

import asyncio

from turnkeeper_service.store.answers import Page
from turnkeeper_service.store.base import Commit, RunFinish, RunState, SessionState
from turnkeeper_service.store.conformance.harness import Harness, found, opened, tombstones
from turnkeeper_service.store.conformance.rows import TENANT, event, finish, message, new_session, partial, run, session
from turnkeeper_service.store.slots import ALL_SLOTS, slot_of


async def what_is_not_there_is_not_found(harness: Harness) -> None:
    """Look-ups give None, ranges nothing; changing what is not there is no error."""
    async with opened(harness) as store:
        await store.commit(Commit(TENANT, "s1", session_title="x", start_runs=[("r1", 1)], drop_tombstones=["r1"]))
        assert await store.get_session(TENANT, "s1") is None
        assert await store.get_run(TENANT, "r1") is None
        assert await tombstones(store, "r1") == []
        page = await store.list_sessions(TENANT, after="", limit=10)
        assert (list(page.sessions), page.next_after) == ([], "")
        assert await store.list_runs(TENANT, "s1", after_sequence=0, limit=10) == Page([], has_more=False)
        assert list(await store.read_events(TENANT, "s1", after_seq=0, limit=10)) == []
        assert list(await store.read_run_events(TENANT, "s1", "r1")) == []
        assert list(await store.read_context(TENANT, "s1", "main")) == []
        assert await store.list_messages(TENANT, "s1", context_id="", after_seq=0, limit=10) == Page([], has_more=False)
        assert list(await store.read_partials(TENANT, "r1")) == []
        assert list(await store.open_runs(ALL_SLOTS)) == []
        assert list(await store.deleting_sessions(ALL_SLOTS)) == []


async def sessions_are_paged_in_creation_order(harness: Harness) -> None:
    """Pages neither repeat nor skip while sessions come and go; deleted ones are left out."""
    async with opened(harness) as store:
        for name in "zebra", "ant", "mole", "bee", "yak":
            await store.commit(new_session(name))
        await store.commit(new_session("stranger", tenant="other"))
        await store.commit(Commit(TENANT, "mole", session_state=SessionState.DELETING))
        first = await store.list_sessions(TENANT, after="", limit=2)
        assert [row.session_id for row in first.sessions] == ["zebra", "ant"]
        await store.commit(Commit(TENANT, "ant", erase_session_us=5_000))
        await store.commit(new_session("aardvark"))
        second = await store.list_sessions(TENANT, after=first.next_after, limit=2)
        assert [row.session_id for row in second.sessions] == ["mole", "bee"]
        third = await store.list_sessions(TENANT, after=second.next_after, limit=2)
        assert [row.session_id for row in third.sessions] == ["yak", "aardvark"]
        assert third.next_after == ""
        whole = await store.list_sessions(TENANT, after="", limit=50)
        assert [row.session_id for row in whole.sessions] == ["zebra", "mole", "bee", "yak", "aardvark"]
        assert [row.session_id for row in await store.deleting_sessions(ALL_SLOTS)] == ["mole"]


async def idle_sessions_are_found(harness: Harness) -> None:
    """Of every tenant, in creation order, by when they last changed; those that are going are not."""
    async with opened(harness) as store:
        for number, name in enumerate(("a", "b", "c", "d", "e")):
            tenant = "other" if name == "b" else TENANT
            await store.commit(new_session(name, tenant=tenant))
            await store.commit(Commit(tenant, name, updated_us=number * 10))
        await store.commit(Commit(TENANT, "c", session_state=SessionState.DELETING))
        found_ = list(await store.idle_sessions(before_us=40, after=0, limit=2))
        assert [row[1:] for row in found_] == [(TENANT, "a"), ("other", "b")]
        found_ = list(await store.idle_sessions(before_us=40, after=found_[-1][0], limit=2))
        assert [row[1:] for row in found_] == [(TENANT, "d")]
        assert list(await store.idle_sessions(before_us=40, after=found_[-1][0], limit=2)) == []


async def runs_are_listed_in_accept_order(harness: Harness) -> None:
    """Of one session, above a sequence, of some states."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r3", 30), run("r1", 10), run("r2", 20)))
        await store.commit(new_session("s2", run("r4", 15, "s2")))
        await store.commit(Commit(TENANT, "s1", start_runs=[("r2", 1)]))
        await store.commit(finish("r1"))

        async def listed(after: int, limit: int, *states: RunState) -> list[str]:
            page = await store.list_runs(TENANT, "s1", after_sequence=after, limit=limit, states=states)
            assert page.has_more == (len(page.rows) == limit)
            return [row.run_id for row in page.rows]

        assert await listed(0, 10) == ["r1", "r2", "r3"]
        assert await listed(0, 2) == ["r1", "r2"]
        whole = await store.list_runs(TENANT, "s1", after_sequence=0, limit=3)
        assert ([row.submission for row in whole.rows], whole.has_more) == ([b""] * 3, False)
        assert await listed(10, 10) == ["r2", "r3"]
        assert await listed(0, 10, RunState.QUEUED, RunState.FINISHED) == ["r1", "r3"]
        assert await listed(0, 10, RunState.STARTED) == ["r2"]
        assert await listed(0, 10, RunState.AWAITING) == []


async def open_runs_are_all_that_is_not_finished(harness: Harness) -> None:
    """Of every tenant, in accept order, also after a restart."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 40), run("r2", 20)))
        await store.commit(new_session("s1", run("r1", 30, tenant="other"), tenant="other"))
        await store.commit(Commit(TENANT, "s1", insert_runs=[run("r3", 10)], start_runs=[("r1", 1)]))
        await store.commit(finish("r2"))
    async with opened(harness) as store:
        rows = await store.open_runs(ALL_SLOTS)
        assert [(row.tenant, row.run_id, row.state) for row in rows] == [
            (TENANT, "r3", RunState.QUEUED),
            ("other", "r1", RunState.QUEUED),
            (TENANT, "r1", RunState.STARTED),
        ]
        assert [row.accept_sequence for row in await store.open_runs(ALL_SLOTS, limit=2)] == [10, 30]
        assert [row.accept_sequence for row in await store.open_runs(ALL_SLOTS, after_sequence=10, limit=1)] == [30]


async def each_slot_is_asked_for_by_itself(harness: Harness) -> None:
    """Open runs and deletions of some slots, the others left out; all of it together is all that there is."""
    names = [f"s{number}" for number in range(40)]
    async with opened(harness) as store:
        for number, name in enumerate(names, 1):
            await store.commit(new_session(name, run(f"r-{name}", number, name)))
            await store.commit(Commit(TENANT, name, session_state=SessionState.DELETING))
        mine = {slot_of(TENANT, name) for name in names[:7]}
        expected = [name for name in names if slot_of(TENANT, name) in mine]
        rows = await store.open_runs(mine)
        assert [row.session_id for row in rows] == expected
        after = rows[2].accept_sequence
        assert [row.session_id for row in await store.open_runs(mine, after_sequence=after, limit=2)] == expected[3:5]
        assert [row.session_id for row in await store.deleting_sessions(mine)] == expected
        others = ALL_SLOTS - mine
        assert [row.session_id for row in await store.open_runs(others)] == [x for x in names if x not in expected]
        assert [row.session_id for row in await store.deleting_sessions(others)] == [
            name for name in names if name not in expected
        ]
        assert list(await store.open_runs(())) == []
        assert list(await store.deleting_sessions(())) == []


async def events_are_read_in_bounded_pages(harness: Harness) -> None:
    """By count and by bytes; one event always comes."""
    async with opened(harness) as store:
        await store.commit(new_session())
        events = [event(seq, payload=bytes([seq]) * 100) for seq in range(1, 11)]
        await store.commit(Commit(TENANT, "s1", events=events))
        assert list(await store.read_events(TENANT, "s1", after_seq=0, limit=100)) == events
        assert list(await store.read_events(TENANT, "s1", after_seq=3, limit=4)) == events[3:7]
        assert list(await store.read_events(TENANT, "s1", after_seq=10, limit=4)) == []
        assert list(await store.read_events(TENANT, "s1", after_seq=0, limit=100, max_bytes=1)) == events[:1]
        some = await store.read_events(TENANT, "s1", after_seq=0, limit=100, max_bytes=450)
        assert 1 <= len(some) <= 5
        assert list(some) == events[: len(some)]


async def events_of_one_run_are_found(harness: Harness) -> None:
    """Among those of the runs around it, from the commit that accepted it on."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 1)))
        await store.commit(Commit(TENANT, "s1", events=[event(1), event(2)]))
        commits = [
            Commit(TENANT, "s1", events=[event(3)]),
            Commit(TENANT, "s1", insert_runs=[run("r2", 2)], events=[event(4, "r2"), event(5)]),
            Commit(TENANT, "s1", events=[event(6, "r2"), event(7)]),
        ]
        await asyncio.gather(*map(store.commit, commits))
        assert [e.seq for e in await store.read_run_events(TENANT, "s1", "r1")] == [1, 2, 3, 5, 7]
        assert [e.seq for e in await store.read_run_events(TENANT, "s1", "r2")] == [4, 6]


async def messages_enter_and_leave_a_context(harness: Harness) -> None:
    """Out of context is not deleted: the message is still listed."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 1)))
        commit = Commit(TENANT, "s1", events=[event(seq) for seq in range(1, 7)])
        commit.messages = [message(1), message(3), message(4, context_id="child"), message(6, in_context=False)]
        await store.commit(commit)
        assert list(await store.read_context(TENANT, "s1", "main")) == [event(1), event(3)]
        assert list(await store.read_context(TENANT, "s1", "child")) == [event(4)]
        await store.commit(Commit(TENANT, "s1", message_contexts=[("m3", False), ("m1", False), ("m6", True)]))
        await store.commit(Commit(TENANT, "s1", message_contexts=[("m1", True)]))
        assert list(await store.read_context(TENANT, "s1", "main")) == [event(1), event(6)]

        async def listed(context_id: str, after_seq: int, limit: int) -> list[tuple[int, bool]]:
            page = await store.list_messages(TENANT, "s1", context_id=context_id, after_seq=after_seq, limit=limit)
            assert [row for row, _ in page.rows] == [event(row.seq) for row, _ in page.rows]
            return [(row.seq, in_context) for row, in_context in page.rows]

        assert await listed("main", 0, 10) == [(1, True), (3, False), (6, True)]
        assert await listed("", 0, 10) == [(1, True), (3, False), (4, True), (6, True)]
        assert await listed("", 1, 2) == [(3, False), (4, True)]
        assert await listed("child", 4, 2) == []


async def pages_are_bounded_by_bytes(harness: Harness) -> None:
    """A page ends before it would be too long, holds one row at least, and says that there are more."""
    async with opened(harness) as store:
        names = [f"r{number}" for number in range(1, 5)]
        commit = new_session("s1", *(run(name, number) for number, name in enumerate(names, 1)))
        commit.session_settings = b"x" * 5_000
        commit.finish_runs = [RunFinish(name, b"x" * 1_500, 1) for name in names]
        commit.events = [event(seq, payload=b"x" * 1_500) for seq in range(1, 5)]
        commit.messages = [message(seq) for seq in range(1, 5)]
        await store.commit(commit)
        await store.commit(new_session("s2"))
        for max_bytes, length in (1, 1), (2_500, 1), (5_000, 2), (9_000, 4):
            runs = await store.list_runs(TENANT, "s1", after_sequence=0, limit=4, max_bytes=max_bytes)
            assert ([row.run_id for row in runs.rows], runs.has_more) == (names[:length], length < 4)
            messages = await store.list_messages(TENANT, "s1", context_id="", after_seq=0, limit=4, max_bytes=max_bytes)
            assert (len(messages.rows), messages.has_more) == (length, length < 4)
        first = await store.list_sessions(TENANT, after="", limit=2, max_bytes=5_000)
        assert [row.session_id for row in first.sessions] == ["s1"]
        rest = await store.list_sessions(TENANT, after=first.next_after, limit=2, max_bytes=5_000)
        assert ([row.session_id for row in rest.sessions], rest.next_after) == (["s2"], "")


async def partial_text_is_read_in_its_place(harness: Harness) -> None:
    """By attempt, part and offset, however it was flushed."""
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 1)))
        places = [(2, 0, 0), (1, 1, 0), (1, 0, 5), (1, 0, 0)]
        pieces = [partial(offset, b"x", attempt=attempt, part=part) for attempt, part, offset in places]
        await store.commit(Commit(TENANT, "s1", partials=pieces))
        assert list(await store.read_partials(TENANT, "r1")) == pieces[::-1]


async def tenants_do_not_mix(harness: Harness) -> None:
    """The same ids in another tenant are other rows."""
    async with opened(harness) as store:
        for sequence, tenant in enumerate((TENANT, "other"), 1):
            commit = new_session("s1", run("r1", sequence, tenant=tenant), tenant=tenant)
            commit.events = [event(1, payload=tenant.encode())]
            commit.messages = [message(1)]
            commit.partials = [partial(0, tenant.encode())]
            await store.commit(commit)
        await store.commit(Commit("other", "s1", erase_session_us=5_000))
        assert await store.get_run(TENANT, "r1") == run("r1", 1)
        assert list(await store.read_context(TENANT, "s1", "main")) == [event(1, payload=TENANT.encode())]
        assert list(await store.read_context("other", "s1", "main")) == []
        assert list(await store.read_partials(TENANT, "r1")) == [partial(0, TENANT.encode())]
        row = found(await store.get_session(TENANT, "s1"))
        assert row.title == session().title


SCENARIOS = (
    what_is_not_there_is_not_found,
    sessions_are_paged_in_creation_order,
    idle_sessions_are_found,
    runs_are_listed_in_accept_order,
    pages_are_bounded_by_bytes,
    open_runs_are_all_that_is_not_finished,
    each_slot_is_asked_for_by_itself,
    events_are_read_in_bounded_pages,
    events_of_one_run_are_found,
    messages_enter_and_leave_a_context,
    partial_text_is_read_in_its_place,
    tenants_do_not_mix,
)
