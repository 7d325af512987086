"""SessionService: maps messages; the logic is in `runs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from turnkeeper.v1 import session_service_pb2 as pb
from turnkeeper_service.engine.contexts import MAIN
from turnkeeper_service.principal import Role
from turnkeeper_service.runs.runs import Runs
from turnkeeper_service.runs.session.run import Run

from .call import Call
from .pages import from_token, not_of_this_query, number, page_size, to_token
from .validate import Findings, Validator, check_id, check_text, require_id

ROLES: Mapping[str, Role] = {
    "CreateSession": "user",
    "GetSession": "read",
    "ListSessions": "read",
    "UpdateSession": "user",
    "DeleteSession": "user",
    "ListMessages": "read",
    "SummarizeSession": "user",
    "ListOrphans": "read",
    "ListApprovals": "read",
    "AnswerApproval": "user",
}


class SessionServicer:
    """Sessions of the caller's tenant."""

    def __init__(self, runs: Runs, validator: Validator) -> None:
        self._runs = runs
        self._validator = validator

    def methods(self) -> Mapping[str, Callable[..., Any]]:
        """The methods that are implemented."""
        return {
            "CreateSession": self.create,
            "GetSession": self.get,
            "ListSessions": self.list,
            "UpdateSession": self.update,
            "DeleteSession": self.delete,
            "ListMessages": self.messages,
            "SummarizeSession": self.summarize,
            "ListApprovals": self.approvals,
            "AnswerApproval": self.answer,
        }

    async def create(self, request: pb.CreateSessionRequest, call: Call) -> pb.CreateSessionResponse:
        """CreateSession."""
        found = Findings()
        if request.session_id:
            check_id(found, "session_id", request.session_id)
        self._validator.settings(request.settings, found=found)
        session, is_replay = await self._runs.create_session(call.tenant, request.session_id, request.settings)
        return pb.CreateSessionResponse(session=session, is_replay=is_replay)

    async def get(self, request: pb.GetSessionRequest, call: Call) -> pb.GetSessionResponse:
        """GetSession."""
        session_id = require_id("session_id", request.session_id)
        return pb.GetSessionResponse(session=await self._runs.get_session(call.tenant, session_id))

    async def list(self, request: pb.ListSessionsRequest, call: Call) -> pb.ListSessionsResponse:
        """ListSessions."""
        query = ("sessions", call.tenant)
        found = Findings()
        after = found.attempt(lambda: from_token(request.page_token, *query), "")
        limit = found.attempt(lambda: page_size(request.page_size), 0)
        found.refuse()
        try:
            sessions, next_after = await self._runs.list_sessions(call.tenant, after, limit)
        except ValueError:
            raise not_of_this_query() from None
        return pb.ListSessionsResponse(sessions=sessions, next_page_token=to_token(next_after, *query))

    async def update(self, request: pb.UpdateSessionRequest, call: Call) -> pb.UpdateSessionResponse:
        """UpdateSession."""
        found = Findings()
        check_id(found, "session_id", request.session_id)
        known = pb.SessionSettings.DESCRIPTOR.fields_by_name
        paths = list(request.update_mask.paths) or [field.name for field, _ in request.settings.ListFields()]
        for path in paths:
            if path not in known:
                found.add("update_mask", f"settings have no field {path[:64]!r}")
        self._validator.settings(request.settings, found=found)
        session = await self._runs.update_session(call.tenant, request.session_id, request.settings, paths)
        return pb.UpdateSessionResponse(session=session)

    async def delete(self, request: pb.DeleteSessionRequest, call: Call) -> pb.DeleteSessionResponse:
        """DeleteSession."""
        session_id = require_id("session_id", request.session_id)
        await self._runs.delete_session(call.tenant, session_id, call.actor, force=request.force)
        return pb.DeleteSessionResponse()

    async def messages(self, request: pb.ListMessagesRequest, call: Call) -> pb.ListMessagesResponse:
        """ListMessages."""
        session_id = request.session_id
        context_id = "" if request.context_id == "*" else request.context_id or MAIN
        query = ("messages", call.tenant, session_id, context_id)
        found = Findings()
        check_id(found, "session_id", session_id)
        if context_id:
            check_id(found, "context_id", context_id)
        after = found.attempt(lambda: number(request.page_token, *query), 0)
        limit = found.attempt(lambda: page_size(request.page_size), 0)
        found.refuse()
        messages, has_more = await self._runs.list_messages(call.tenant, session_id, context_id, after, limit)
        response = pb.ListMessagesResponse(messages=messages)
        if has_more:
            response.next_page_token = to_token(str(response.messages[-1].seq), *query)
        return response

    async def summarize(self, request: pb.SummarizeSessionRequest, call: Call) -> pb.SummarizeSessionResponse:
        """SummarizeSession."""
        found = Findings()
        check_id(found, "session_id", request.session_id)
        if request.run_id:
            check_id(found, "run_id", request.run_id)
        found.refuse()
        run = await self._runs.summarize(call.tenant, call.actor, request.session_id, request.run_id)
        sequence = run.sequence if isinstance(run, Run) else run.accept_sequence
        return pb.SummarizeSessionResponse(run_id=run.run_id, accept_sequence=sequence)

    async def approvals(self, request: pb.ListApprovalsRequest, call: Call) -> pb.ListApprovalsResponse:
        """ListApprovals."""
        session_id = request.session_id
        query = ("approvals", call.tenant, session_id)
        found = Findings()
        check_id(found, "session_id", session_id)
        after = found.attempt(lambda: number(request.page_token, *query), 0)
        limit = found.attempt(lambda: page_size(request.page_size), 0)
        found.refuse()
        waiting, following = await self._runs.list_approvals(call.tenant, session_id, after, limit)
        response = pb.ListApprovalsResponse(approvals=waiting)
        if following:
            response.next_page_token = to_token(str(following), *query)
        return response

    async def answer(self, request: pb.AnswerApprovalRequest, call: Call) -> pb.AnswerApprovalResponse:
        """AnswerApproval."""
        check_answer(request)
        return pb.AnswerApprovalResponse(approval=await self._runs.approvals.answer(call.tenant, call.actor, request))


def check_answer(request: pb.AnswerApprovalRequest, path: str = "") -> None:
    """The shape of an approval's answer. Raises Refused."""
    found = Findings()
    check_text(found, request, path)
    check_id(found, f"{path}session_id", request.session_id)
    check_id(found, f"{path}approval_id", request.approval_id)
    found.refuse()
