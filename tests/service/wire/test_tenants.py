"""What one tenant can learn of another, and who may call what: method by method, from the service descriptors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.service.harness import Harness, serving, submission
from tests.service.wire.refusals import Refusal, refusal, refused
from tests.service.wire.rows import dump
from tests.service.wire.tokens import CALLERS, Caller, write_token_file
from turnkeeper.v1 import admin_service_pb2 as admin
from turnkeeper.v1 import agent_service_pb2 as agents
from turnkeeper.v1 import event_pb2
from turnkeeper.v1 import run_service_pb2 as runs
from turnkeeper.v1 import session_service_pb2 as sessions
from turnkeeper.v1 import tool_service_pb2 as tools
from turnkeeper_service.wire.server import SERVICES

METHODS = [f"{service.name}.{method.name}" for service in SERVICES for method in service.methods]
LATER = refusal(grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
NO_SESSION = refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", kinds=("ResourceInfo",))
NO_RUN = refusal(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND", kinds=("ResourceInfo",))
SEES_NOTHING = "an answer that holds nothing of anybody else"
OPERATORS_ONLY = refusal(grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED")
OWN = "the same as if nobody had it"

MakeRequest = Callable[[str, str], Any]
ISOLATION: dict[str, tuple[Refusal | str, MakeRequest]] = {
    # What a stranger gets who asks for (session_id, run_id) of another tenant.
    "SessionService.CreateSession": (OWN, lambda s, r: sessions.CreateSessionRequest(session_id=s)),
    "SessionService.GetSession": (NO_SESSION, lambda s, r: sessions.GetSessionRequest(session_id=s)),
    "SessionService.ListSessions": (SEES_NOTHING, lambda s, r: sessions.ListSessionsRequest()),
    "SessionService.UpdateSession": (
        NO_SESSION,
        lambda s, r: sessions.UpdateSessionRequest(session_id=s, settings=sessions.SessionSettings(title="mine")),
    ),
    "SessionService.DeleteSession": (NO_SESSION, lambda s, r: sessions.DeleteSessionRequest(session_id=s, force=True)),
    "SessionService.ListMessages": (NO_SESSION, lambda s, r: sessions.ListMessagesRequest(session_id=s)),
    "SessionService.SummarizeSession": (NO_SESSION, lambda s, r: sessions.SummarizeSessionRequest(session_id=s)),
    "SessionService.ListOrphans": (LATER, lambda s, r: sessions.ListOrphansRequest(session_id=s)),
    "SessionService.ListApprovals": (NO_SESSION, lambda s, r: sessions.ListApprovalsRequest(session_id=s)),
    "SessionService.AnswerApproval": (
        refusal(grpc.StatusCode.NOT_FOUND, "APPROVAL_NOT_FOUND", kinds=("ResourceInfo",)),
        lambda s, r: sessions.AnswerApprovalRequest(session_id=s, approval_id="approval"),
    ),
    "RunService.SubmitRun": (NO_SESSION, lambda s, r: runs.SubmitRunRequest(submission=submission(s, run_id=r))),
    "RunService.Run": (NO_SESSION, lambda s, r: runs.RunRequest(submission=submission(s, run_id=r))),
    "RunService.GetRun": (NO_RUN, lambda s, r: runs.GetRunRequest(run_id=r)),
    "RunService.ListRuns": (NO_SESSION, lambda s, r: runs.ListRunsRequest(session_id=s)),
    "RunService.CancelRuns": (
        NO_SESSION,
        lambda s, r: runs.CancelRunsRequest(scope=runs.CancelScope(session_id=s)),
    ),
    "RunService.ClearQueue": (NO_SESSION, lambda s, r: runs.ClearQueueRequest(session_id=s)),
    "RunService.SpawnTurn": (LATER, lambda s, r: runs.SpawnTurnRequest(turn_token="t")),
    "RunService.WatchSession": (NO_SESSION, lambda s, r: runs.WatchSessionRequest(session_id=s, after_seq=0)),
    "RunService.WatchTenant": (SEES_NOTHING, lambda s, r: runs.WatchTenantRequest(with_current=True)),
    "RunService.Converse": (NO_SESSION, lambda s, r: runs.ConverseRequest(open=runs.OpenFrame(session_id=s))),
    "AgentService.CreateAgent": (LATER, lambda s, r: agents.CreateAgentRequest()),
    "AgentService.GetAgent": (LATER, lambda s, r: agents.GetAgentRequest()),
    "AgentService.ListAgents": (LATER, lambda s, r: agents.ListAgentsRequest()),
    "AgentService.UpdateAgent": (LATER, lambda s, r: agents.UpdateAgentRequest()),
    "AgentService.DeleteAgent": (LATER, lambda s, r: agents.DeleteAgentRequest()),
    "ToolService.ServeTools": (
        # A worker names no session: tests of tools show that it gets its own tenant's calls alone.
        refusal(grpc.StatusCode.INVALID_ARGUMENT, "FIRST_FRAME_NOT_OPEN"),
        lambda s, r: tools.ServeToolsRequest(),
    ),
    "ToolService.ListTools": (NO_SESSION, lambda s, r: tools.ListToolsRequest(session_id=s)),
    "AdminService.Drain": (OPERATORS_ONLY, lambda s, r: admin.DrainRequest()),
    "AdminService.GetStats": (OPERATORS_ONLY, lambda s, r: admin.GetStatsRequest()),
    "AdminService.ListActiveTurns": (OPERATORS_ONLY, lambda s, r: admin.ListActiveTurnsRequest(tenant="acme")),
    "AdminService.CancelAll": (OPERATORS_ONLY, lambda s, r: admin.CancelAllRequest(tenant="acme")),
}
READ = {"user", "read"}
USER = {"user"}
ADMIN = {"admin"}
ALLOWED: dict[str, set[str]] = {
    "SessionService.CreateSession": USER,
    "SessionService.GetSession": READ,
    "SessionService.ListSessions": READ,
    "SessionService.UpdateSession": USER,
    "SessionService.DeleteSession": USER,
    "SessionService.ListMessages": READ,
    "SessionService.SummarizeSession": USER,
    "SessionService.ListOrphans": READ,
    "SessionService.ListApprovals": READ,
    "SessionService.AnswerApproval": USER,
    "RunService.SubmitRun": USER,
    "RunService.Run": USER,
    "RunService.GetRun": READ,
    "RunService.ListRuns": READ,
    "RunService.CancelRuns": USER,
    "RunService.ClearQueue": USER,
    "RunService.SpawnTurn": USER,
    "RunService.WatchSession": READ,
    "RunService.WatchTenant": READ,
    "RunService.Converse": USER,
    "AgentService.CreateAgent": USER,
    "AgentService.GetAgent": READ,
    "AgentService.ListAgents": READ,
    "AgentService.UpdateAgent": USER,
    "AgentService.DeleteAgent": USER,
    "ToolService.ServeTools": {"user", "worker"},
    "ToolService.ListTools": READ,
    "AdminService.Drain": ADMIN,
    "AdminService.GetStats": ADMIN,
    "AdminService.ListActiveTurns": ADMIN,
    "AdminService.CancelAll": ADMIN,
}


def test_every_method_of_the_contract_has_its_rows() -> None:
    assert sorted(ISOLATION) == sorted(METHODS)
    assert sorted(ALLOWED) == sorted(METHODS)


@asynccontextmanager
async def two_tenants(data_dir: Path, **overrides: Any) -> AsyncIterator[tuple[Harness, dict[str, Caller]]]:
    """A server with a busy session "theirs" of acme, its run "running", and a session "mine" of bolt."""
    async with serving(data_dir, **write_token_file(data_dir), **overrides) as server:
        callers = {name: Caller(server.channel, name) for name in CALLERS}
        create = "SessionService.CreateSession"
        await callers["alice"].first(create, sessions.CreateSessionRequest(session_id="theirs"))
        await callers["bob"].first(create, sessions.CreateSessionRequest(session_id="mine"))
        running = submission("theirs", '{"text": "secret", "gate": "g"}', run_id="running")
        await callers["alice"].first("RunService.SubmitRun", runs.SubmitRunRequest(submission=running))
        await server.gates.reached("g")
        yield server, callers
        server.gates.open("g")


def without_names(found: Refusal, *names: str) -> tuple[Any, ...]:
    """All that a refusal says, the ids that the caller gave left out."""

    def cut(text: str) -> str:
        for name in names:
            text = text.replace(name, "ID")
        return text

    details = sorted((kind, cut(str(detail))) for kind, detail in found.found.items())
    return found.code, found.reason, cut(found.message), details


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.asyncio
async def test_a_tenant_sees_and_reaches_nothing_of_another(tmp_path: Path, method: str) -> None:
    wanted, make = ISOLATION[method]
    async with two_tenants(tmp_path) as (_, callers):
        bob = callers["bob"]
        before = dump(tmp_path)
        if isinstance(wanted, Refusal):
            found = await refused(bob.first(method, make("theirs", "running")))
            absent = await refused(bob.first(method, make("absent", "nothing")))
            assert found == wanted
            assert without_names(found, "theirs", "running") == without_names(absent, "absent", "nothing")
            assert dump(tmp_path) == before
        elif method == "SessionService.CreateSession":
            response = await bob.first(method, make("theirs", ""))
            assert (response.is_replay, response.session.is_busy) == (False, False)
        elif method == "SessionService.ListSessions":
            response = await bob.first(method, make("", ""))
            assert [one.session_id for one in response.sessions] == ["mine"]
        elif method == "RunService.WatchTenant":
            call = bob.call(method, make("", ""))
            await call.initial_metadata()
            # What comes first is of the one session that bob makes now, though another tenant's was busy before.
            await callers["alice"].first("SessionService.CreateSession", sessions.CreateSessionRequest(session_id="a"))
            await bob.first("SessionService.CreateSession", sessions.CreateSessionRequest(session_id="b"))
            assert (await call.read()).session.session_id == "b"
            call.cancel()
        else:
            raise AssertionError(f"no check for {method}")
        view = await callers["alice"].first("RunService.GetRun", runs.GetRunRequest(run_id="running"))
        assert view.run.state == runs.RUN_STATE_RUNNING
        got = await callers["alice"].first("SessionService.GetSession", sessions.GetSessionRequest(session_id="theirs"))
        assert (got.session.settings.title, got.session.open_run_id) == ("", "running")


@pytest.mark.asyncio
async def test_cancels_and_run_ids_of_one_tenant_mean_nothing_to_another(tmp_path: Path) -> None:
    async with two_tenants(tmp_path) as (server, callers):
        alice, bob = callers["alice"], callers["bob"]
        # A run of somebody else looks as one that was never seen: a tombstone of bob's own.
        by_run = runs.CancelRunsRequest(scope=runs.CancelScope(run_id="running"))
        unseen = runs.CancelRunsRequest(scope=runs.CancelScope(run_id="nothing"))
        for request in (by_run, unseen):
            (found,) = (await bob.first("RunService.CancelRuns", request)).receipt.runs
            assert found.disposition == runs.CANCEL_DISPOSITION_TOMBSTONED
            assert not found.HasField("outcome")
        everything = runs.CancelRunsRequest(scope=runs.CancelScope(tenant=runs.TenantScope()))
        assert not (await bob.first("RunService.CancelRuns", everything)).receipt.runs
        # The same run_id is bob's own, and the tombstone that bob laid is for it.
        mine = runs.SubmitRunRequest(submission=submission("mine", "hello", run_id="running"))
        receipt = (await bob.first("RunService.SubmitRun", mine)).receipt
        assert (receipt.is_replay, receipt.session_id) == (False, "mine")
        free = runs.SubmitRunRequest(submission=submission("mine", "hello", run_id="free"))
        await bob.first("RunService.SubmitRun", free)
        server.gates.open("g")
        waiting = runs.WatchSessionRequest(session_id="mine", after_seq=0)
        outcomes: dict[str, int] = {}
        call = bob.call("RunService.WatchSession", waiting)
        while len(outcomes) < 2:
            event = (await call.read()).item.event
            if event.HasField("run_finished"):
                outcomes[event.run_id] = event.run_finished.outcome.status
        call.cancel()
        assert outcomes == {
            "running": event_pb2.OUTCOME_STATUS_CANCELLED,
            "free": event_pb2.OUTCOME_STATUS_COMPLETED,
        }
        theirs = alice.call("RunService.WatchSession", runs.WatchSessionRequest(session_id="theirs", after_seq=0))
        while not (event := (await theirs.read()).item.event).HasField("run_finished"):
            pass
        theirs.cancel()
        outcome = event.run_finished.outcome
        assert (outcome.status, outcome.text) == (event_pb2.OUTCOME_STATUS_COMPLETED, "secret")


@pytest.mark.asyncio
async def test_a_page_token_of_another_tenant_is_no_token(tmp_path: Path) -> None:
    async with two_tenants(tmp_path) as (_, callers):
        make = "SessionService.CreateSession"
        await callers["alice"].first(make, sessions.CreateSessionRequest(session_id="second"))
        page = await callers["alice"].first("SessionService.ListSessions", sessions.ListSessionsRequest(page_size=1))
        assert page.next_page_token
        stolen = sessions.ListSessionsRequest(page_token=page.next_page_token)
        found = await refused(callers["bob"].first("SessionService.ListSessions", stolen))
        assert found == refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN", "page_token")


@pytest.mark.asyncio
async def test_roles_decide_who_may_call_what(tmp_path: Path) -> None:
    of_role = {"user": "adam", "read": "anna", "worker": "walt", "admin": "root"}
    async with two_tenants(tmp_path) as (_, callers):
        before = dump(tmp_path)
        for method in METHODS:
            for role, name in of_role.items():
                if role in ALLOWED[method]:
                    continue
                found = await refused(callers[name].first(method, ISOLATION[method][1]("theirs", "running")))
                assert found == OPERATORS_ONLY, (method, role)
                assert found.found["ErrorInfo"].metadata["role"] in ("user", "read", "worker", "admin"), method
        assert dump(tmp_path) == before
        for method in METHODS:
            if method in ("RunService.WatchTenant", "AdminService.Drain"):
                continue
            for role in ALLOWED[method]:
                call = callers[of_role[role]].call(method, ISOLATION[method][1]("none", "none"))
                assert await call.code() != grpc.StatusCode.PERMISSION_DENIED, (method, role)


@pytest.mark.asyncio
async def test_an_operator_reaches_all_tenants(tmp_path: Path) -> None:
    async with two_tenants(tmp_path) as (server, callers):
        root = callers["root"]
        await callers["bob"].first(
            "RunService.SubmitRun", runs.SubmitRunRequest(submission=submission("mine", '{"gate": "g"}', run_id="b"))
        )
        await server.gates.reached("g", 2)

        async def active(tenant: str) -> list[tuple[str, str]]:
            found: list[tuple[str, str]] = []
            token = ""
            while True:
                request = admin.ListActiveTurnsRequest(tenant=tenant, page_size=1, page_token=token)
                page = await root.first("AdminService.ListActiveTurns", request)
                found += [(turn.tenant, turn.run_id) for turn in page.turns]
                if not (token := page.next_page_token):
                    return found

        assert sorted(await active("")) == [("acme", "running"), ("bolt", "b")]
        assert await active("bolt") == [("bolt", "b")]
        stats = await root.first("AdminService.GetStats", admin.GetStatsRequest())
        assert (stats.num_open_runs, stats.num_running_turns) == (2, 2)
        covered = await root.first("AdminService.CancelAll", admin.CancelAllRequest(tenant="bolt"))
        assert covered.num_covered == 1
        call = callers["bob"].call("RunService.WatchSession", runs.WatchSessionRequest(session_id="mine", after_seq=0))
        while not (event := (await call.read()).item.event).HasField("run_finished"):
            pass
        call.cancel()
        outcome = event.run_finished.outcome
        assert (outcome.reason, outcome.actor) == (event_pb2.OUTCOME_REASON_ADMIN, "root")
        assert await active("") == [("acme", "running")]


@pytest.mark.asyncio
async def test_a_token_has_to_be_there_and_right_for_every_method(tmp_path: Path) -> None:
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED
    async with two_tenants(tmp_path) as (server, _):
        before = dump(tmp_path)
        nobody, wrong = Caller(server.channel, None), Caller(server.channel, "mallory")
        for method in METHODS:
            request = ISOLATION[method][1]("theirs", "running")
            assert await refused(nobody.first(method, request)) == refusal(unauthenticated, "TOKEN_MISSING"), method
            found = await refused(wrong.first(method, request))
            assert found == refusal(unauthenticated, "TOKEN_INVALID"), method
            assert "mallory" not in str(found), method
        assert dump(tmp_path) == before
