"""The client: one connection to a server, and everything that can be asked of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Self, Unpack

from turnkeeper._config import Backoff, OnConnection, Settings
from turnkeeper._connection import Connection
from turnkeeper._conversation import Conversation
from turnkeeper._errors import TurnkeeperError
from turnkeeper._ids import new_id
from turnkeeper._options import Seconds, count, named_options, span
from turnkeeper._streams import RunStream, SessionStream, TenantStream
from turnkeeper._submission import (
    CancelModeName,
    Prompt,
    SubmitOptions,
    cancel_request,
    submission,
)
from turnkeeper._tools import AnyTool, by_name
from turnkeeper._worker import Closable, Worker
from turnkeeper.v1.content_pb2 import Message
from turnkeeper.v1.run_service_pb2 import (
    CancelReceipt,
    ClearQueueRequest,
    GetRunRequest,
    ListRunsRequest,
    OpenFrame,
    Run,
    RunReceipt,
    SubmitRunRequest,
    WatchFilter,
    WatchSessionRequest,
    WatchTenantRequest,
)
from turnkeeper.v1.session_service_pb2 import (
    AnswerApprovalRequest,
    Approval,
    CreateSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListApprovalsRequest,
    ListMessagesRequest,
    ListSessionsRequest,
    Session,
    SessionSettings,
    SummarizeSessionRequest,
    UpdateSessionRequest,
)
from turnkeeper.v1.tool_service_pb2 import ListToolsRequest, ListToolsResponse, OfferTools, OpenWorker

StrPath = str | os.PathLike[str]


@named_options
class Client:
    """A client of one server. Use it as `async with Client() as client`, in one event loop.

    Every method raises `TurnkeeperError` where the server refuses the call or cannot be reached.
    """

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        tls_ca: StrPath | None = None,
        *,
        tls_certificate: StrPath | None = None,
        tls_key: StrPath | None = None,
        backoff: Backoff | None = None,
        on_connection: OnConnection | None = None,
    ) -> None:
        """Say where the server is; nothing is opened before the first call.

        Args:
            address: `host:port`; else `TURNKEEPER_ADDRESS`, else 127.0.0.1:7450.
            token: The bearer token; else `TURNKEEPER_TOKEN`, else none.
            tls_ca: A file of the authorities to trust; else `TURNKEEPER_TLS_CA`. Without one the connection is plain.
            tls_certificate: A file with this client's certificate, for servers that ask for one.
            tls_key: A file with its key.
            backoff: How streams wait between connections.
            on_connection: Called where a stream has lost its connection, with the error, and with None when it is back.
        """
        settings = Settings.load(
            address,
            token,
            tls_ca,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            backoff=backoff,
            on_connection=on_connection,
        )
        self._connection = Connection(settings)
        self._live: set[Closable] = set()

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._connection.settings.address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all calls, conversations and workers and close the connection. Runs go on. Again does nothing."""
        for live in list(self._live):
            await live.close()
        await self._connection.close()

    async def create_session(self, session_id: str | None = None, settings: SessionSettings | None = None) -> Session:
        """Make a session; the same id and settings again return the session that is there."""
        request = CreateSessionRequest(session_id=session_id or new_id(), settings=settings)
        return (await self._connection.call(self._connection.sessions.CreateSession, request)).session

    async def get_session(self, session_id: str) -> Session:
        """Return a session."""
        request = GetSessionRequest(session_id=session_id)
        return (await self._connection.call(self._connection.sessions.GetSession, request)).session

    async def list_sessions(self, *, page_size: int = 0) -> AsyncIterator[Session]:
        """All sessions in creation order, fetched page by page."""
        token = ""
        while True:
            request = ListSessionsRequest(page_size=page_size, page_token=token)
            page = await self._connection.call(self._connection.sessions.ListSessions, request)
            for session in page.sessions:
                yield session
            if not (token := page.next_page_token):
                return

    async def update_session(
        self, session_id: str, settings: SessionSettings, paths: list[str] | None = None
    ) -> Session:
        """Change settings: those that `paths` names, else all that are set."""
        request = UpdateSessionRequest(session_id=session_id, settings=settings)
        if paths is not None:
            request.update_mask.paths.extend(paths)
        return (await self._connection.call(self._connection.sessions.UpdateSession, request)).session

    async def delete_session(self, session_id: str, *, force: bool = False) -> None:
        """Erase a session; with `force` cancel what is under way first."""
        request = DeleteSessionRequest(session_id=session_id, force=force)
        await self._connection.call(self._connection.sessions.DeleteSession, request)

    async def summarize_session(self, session_id: str, *, run_id: str | None = None) -> str:
        """Have a session's context summarised, by a run that stands in line; returns the run's id."""
        request = SummarizeSessionRequest(session_id=session_id, run_id=run_id or new_id())
        return (await self._connection.call(self._connection.sessions.SummarizeSession, request)).run_id

    async def list_messages(
        self, session_id: str, *, context_id: str = "", page_size: int = 0
    ) -> AsyncIterator[Message]:
        """All committed messages in order, fetched page by page; of one context, or of all with `*`."""
        token = ""
        while True:
            request = ListMessagesRequest(
                session_id=session_id, context_id=context_id, page_size=page_size, page_token=token
            )
            page = await self._connection.call(self._connection.sessions.ListMessages, request)
            for message in page.messages:
                yield message
            if not (token := page.next_page_token):
                return

    async def submit(self, session_id: str, prompt: Prompt, **options: Unpack[SubmitOptions]) -> RunReceipt:
        """Submit a prompt; return when it is durable."""
        request = SubmitRunRequest(submission=submission(session_id, prompt, **options))
        try:
            return (await self._connection.call(self._connection.runs.SubmitRun, request)).receipt
        except TurnkeeperError as error:
            error.run_id = request.submission.run_id
            raise

    def run(
        self, session_id: str, prompt: Prompt, *, follow_fold: bool = True, **options: Unpack[SubmitOptions]
    ) -> RunStream:
        """Submit a prompt and stream its run: the receipt, then its events and deltas, up to and with its terminal."""
        return RunStream(self._connection, submission(session_id, prompt, **options), follow_fold=follow_fold)

    async def get_run(self, run_id: str) -> Run:
        """Return a run, and what holds it while it is open."""
        return (await self._connection.call(self._connection.runs.GetRun, GetRunRequest(run_id=run_id))).run

    async def list_runs(self, session_id: str, *, open_only: bool = False, page_size: int = 0) -> AsyncIterator[Run]:
        """The session's runs in accept order, fetched page by page."""
        token = ""
        while True:
            request = ListRunsRequest(
                session_id=session_id, is_open_only=open_only, page_size=page_size, page_token=token
            )
            page = await self._connection.call(self._connection.runs.ListRuns, request)
            for run in page.runs:
                yield run
            if not (token := page.next_page_token):
                return

    async def cancel(
        self,
        session_id: str | None = None,
        *,
        run_id: str | None = None,
        up_to: int | None = None,
        all_sessions: bool = False,
        mode: CancelModeName = "abort",
        turn_id: str = "",
        rollback: bool = False,
        unwind: bool = False,
        wait: bool = False,
        hint: str = "",
    ) -> CancelReceipt:
        """Cancel what a scope has accepted so far, and nothing after it; return when that is durable.

        Args:
            session_id: All of this session; with `run_id`, the session that an unseen run has to be of.
            run_id: One run; one that has not come yet is cancelled when it comes.
            up_to: With `session_id`: only up to this accept sequence.
            all_sessions: All sessions of the tenant.
            mode: `abort` ends at once; `stop` lets the current tool finish and one last step follow.
            turn_id: With `run_id`: only this turn and what is below it.
            rollback: Take the turns' messages out of the context.
            unwind: Complete tasks of earlier runs too.
            wait: Return when every covered run has its terminal.
            hint: With mode `stop`: what the last step is told as the user's word.
        """
        request = cancel_request(
            session_id=session_id,
            run_id=run_id,
            up_to=up_to,
            all_sessions=all_sessions,
            mode=mode,
            turn_id=turn_id,
            rollback=rollback,
            unwind=unwind,
            wait=wait,
            hint=hint,
        )
        timeout = None if wait else 30.0
        return (await self._connection.call(self._connection.runs.CancelRuns, request, timeout)).receipt

    async def clear_queue(self, session_id: str) -> CancelReceipt:
        """Cancel all that a session has accepted so far but the open run."""
        request = ClearQueueRequest(session_id=session_id)
        return (await self._connection.call(self._connection.runs.ClearQueue, request)).receipt

    async def list_approvals(self, session_id: str, *, page_size: int = 0) -> AsyncIterator[Approval]:
        """The session's approvals that wait for an answer, fetched page by page."""
        token = ""
        while True:
            request = ListApprovalsRequest(session_id=session_id, page_size=page_size, page_token=token)
            page = await self._connection.call(self._connection.sessions.ListApprovals, request)
            for approval in page.approvals:
                yield approval
            if not (token := page.next_page_token):
                return

    async def answer_approval(self, session_id: str, approval_id: str, *, allow: bool, comment: str = "") -> Approval:
        """Answer an approval; the first answer counts, a second is refused APPROVAL_ANSWERED."""
        request = AnswerApprovalRequest(
            session_id=session_id, approval_id=approval_id, is_allowed=allow, comment=comment
        )
        return (await self._connection.call(self._connection.sessions.AnswerApproval, request)).approval

    async def list_tools(self, session_id: str = "", *, model: str = "") -> ListToolsResponse:
        """The tools of a session, or of a new one, also those that its model is not told of, each with why.

        Without a session and a model, which providers are not told of a tool.
        """
        request = ListToolsRequest(session_id=session_id, model=model)
        return await self._connection.call(self._connection.tools.ListTools, request)

    def watch(
        self,
        session_id: str,
        after_seq: int | None = None,
        *,
        run_ids: list[str] | None = None,
        deltas: bool = True,
        child_turns: bool = True,
        history_only: bool = False,
    ) -> SessionStream:
        """Stream a session's items.

        Args:
            session_id: The session.
            after_seq: The last seq that was seen; 0 for all, None for what comes from now on.
            run_ids: Only of these runs, and of those they were folded into.
            deltas: Whether to see messages while they are written.
            child_turns: Whether to see child turns.
            history_only: End once everything up to now is there.
        """
        request = WatchSessionRequest(
            session_id=session_id,
            after_seq=after_seq,
            filter=WatchFilter(run_ids=run_ids, without_deltas=not deltas, without_child_turns=not child_turns),
            is_history_only=history_only,
        )
        return SessionStream(self._connection, request)

    def watch_tenant(self, *, with_current: bool = False) -> TenantStream:
        """Stream notices of all sessions; `with_current` begins with one per session that is busy."""
        return TenantStream(self._connection, WatchTenantRequest(with_current=with_current))

    def converse(
        self,
        session_id: str,
        *,
        after_seq: int | None = None,
        create_with: SessionSettings | None = None,
        deltas: bool = True,
        child_turns: bool = True,
        client_name: str = "",
    ) -> Conversation:
        """Open a session both ways: `async with client.converse(session_id) as conversation`.

        Args:
            session_id: The session.
            after_seq: The last seq that was seen; 0 for all, None for what comes from now on.
            create_with: Make the session with these settings where it is not there.
            deltas: Whether to see messages while they are written.
            child_turns: Whether to see child turns.
            client_name: A name for this client in tool leases.
        """
        frame = OpenFrame(
            session_id=session_id,
            after_seq=after_seq,
            filter=WatchFilter(without_deltas=not deltas, without_child_turns=not child_turns),
            client_name=client_name,
            create_with=create_with,
        )
        return Conversation(self._connection, frame, self._live)

    def serve_tools(
        self,
        worker_id: str,
        tools: Iterable[AnyTool],
        *,
        max_concurrent: int = 0,
        reconnect_grace: Seconds | None = None,
    ) -> Worker:
        """Serve tools to all sessions of the tenant: `async with client.serve_tools(name, tools) as worker`.

        Args:
            worker_id: The worker's name; one that comes back under it goes on with its calls.
            tools: Functions, or `FunctionTool`s, which can say more.
            max_concurrent: Most calls that run here at a time; else the server's default.
            reconnect_grace: How long a lost worker keeps its calls, in seconds; else the server's default.
        """
        named = by_name(tools)
        offer = OfferTools(tools=[tool.tool for tool in named.values()])
        if reconnect_grace is not None:
            offer.reconnect_grace.FromTimedelta(span("reconnect_grace", reconnect_grace))
        opening = OpenWorker(worker_id=worker_id, offer=offer, max_concurrent=count("max_concurrent", max_concurrent))
        return Worker(self._connection, opening, named, self._live)
