"""The commands about sessions and runs. Each talks to a server by the client and prints what it says."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from turnkeeper import Client, Delta, Event, OutcomeStatus, SessionSettings
from turnkeeper._ids import new_id
from turnkeeper._submission import CancelModeName
from turnkeeper.cli import _events, _show
from turnkeeper.cli._chat import HELP, Chat
from turnkeeper.cli._lines import Input, Lines
from turnkeeper.cli._runner import Address, Json, SessionArgument, TlsCa, command, fail_usage, run_with_client
from turnkeeper.cli._screen import Screen


@command
def chat(
    session: Annotated[
        str | None, typer.Option("--session", help="The session; made where it is not there. A new one if not given.")
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="PROVIDER/MODEL", help="The model of a new session.")] = "",
    system_prompt: Annotated[str, typer.Option("--system-prompt", help="The system prompt of a new session.")] = "",
    address: Address = None,
    tls_ca: TlsCa = None,
    as_json: Json = False,
) -> None:
    """Converse in the terminal.

    Every line is a prompt, and stands in line while another is answered. /steer TEXT joins the run that is open,
    /stop lets it end soon, with a hint what to say if one follows; /cancel ends it now, /queue clears the line,
    /summarize makes the context shorter, /quit leaves. Ctrl-C cancels the run that is open, a second one leaves.
    Where a tool needs somebody's leave, it asks: y allows, n refuses, and what follows n is told to the model.
    From a pipe it ends when all runs have, and exits 1 if one of them failed.

    Examples:
        turnkeeper chat --model scripted/echo
        turnkeeper chat --session travel
        echo "Where are we going?" | turnkeeper chat --session travel
    """
    screen = Screen(is_json=as_json)
    is_interactive = sys.stdin.isatty() and screen.is_terminal
    lines: Input = Lines(sys.stdin.fileno())
    if is_interactive and not as_json and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown"):
        # Imported here, for it takes longer than all the rest of the command.
        from turnkeeper.cli._terminal import terminal_of_user

        screen = lines = terminal_of_user()

    async def converse(client: Client) -> int:
        settings = SessionSettings(model=model, system_prompt=system_prompt)
        async with client.converse(session or new_id(), create_with=settings) as conversation, lines:
            if is_interactive:
                screen.remark(f"session {conversation.session_id} · {HELP}")
            kept = conversation.session.model
            if model and kept != model:
                screen.remark(f"[the session was there already, with {kept}]")
            listed = client.list_approvals(conversation.session_id)
            waiting = [found async for found in listed] if is_interactive else []
            talk = Chat(
                conversation,
                screen,
                lines,
                is_interactive=is_interactive,
                summarize=lambda run_id: client.summarize_session(conversation.session_id, run_id=run_id),
                approvals=waiting,
            )
            return await talk.run()

    run_with_client(address, tls_ca, converse, screen)


@command
def watch(
    session: SessionArgument,
    after: Annotated[int | None, typer.Option("--after", metavar="N", min=0, help="After this seq; 0 for all.")] = None,
    history: Annotated[bool, typer.Option("--history", help="End once everything up to now is printed.")] = False,
    deltas: Annotated[bool, typer.Option("--deltas/--no-deltas", help="Print messages while they are written.")] = True,
    address: Address = None,
    tls_ca: TlsCa = None,
    as_json: Json = False,
) -> None:
    """Print what happens in a session.

    From now on, or from a seq; over lost connections. Ctrl-C ends it.

    Examples:
        turnkeeper watch travel
        turnkeeper watch travel --after 0 --history --json
    """
    screen = Screen(is_json=as_json)

    async def follow(client: Client) -> int:
        async with client.watch(session, after, deltas=deltas, history_only=history) as stream:
            async for item in stream:
                if isinstance(item, Event):
                    screen.json("event", item) if as_json else screen.line(_events.event_line(item))
                elif as_json:
                    screen.json("delta" if isinstance(item, Delta) else "snapshot", item)
                elif isinstance(item, Delta):
                    screen.text(item.text)
        screen.end_line()
        return 0

    run_with_client(address, tls_ca, follow, screen)


@command
def runs(
    session: SessionArgument,
    open_only: Annotated[bool, typer.Option("--open", help="Only runs that have not ended.")] = False,
    address: Address = None,
    tls_ca: TlsCa = None,
    as_json: Json = False,
) -> None:
    """List the runs of a session, and what holds them.

    Examples:
        turnkeeper runs travel
        turnkeeper runs travel --open --json
    """
    screen = Screen(is_json=as_json)

    async def show(client: Client) -> int:
        rows = []
        async for run in client.list_runs(session, open_only=open_only):
            if as_json:
                screen.json("run", run)
            about = _show.outcome(run.outcome) if run.HasField("outcome") else ", ".join(map(_show.hold, run.holds))
            rows.append((run.run_id, _show.state(run.state), _show.when(run.create_time), about))
        if not as_json:
            screen.table(("RUN", "STATE", "ACCEPTED", "OUTCOME OR HOLDS"), rows)
        return 0

    run_with_client(address, tls_ca, show)


@command
def sessions(address: Address = None, tls_ca: TlsCa = None, as_json: Json = False) -> None:
    """List the sessions.

    Examples:
        turnkeeper sessions
        turnkeeper sessions --json
    """
    screen = Screen(is_json=as_json)

    async def show(client: Client) -> int:
        rows = []
        async for found in client.list_sessions():
            if as_json:
                screen.json("session", found)
            busy = f"busy, {found.queued_runs} in line" if found.is_busy else "idle"
            title = _show.short(found.title, 40)
            rows.append((found.session_id, busy, found.model, _show.when(found.update_time), title))
        if not as_json:
            screen.table(("SESSION", "STATE", "MODEL", "CHANGED", "TITLE"), rows)
        return 0

    run_with_client(address, tls_ca, show)


@command
def messages(
    session: SessionArgument,
    context: Annotated[str, typer.Option("--context", help="The context; `*` for all, else the main one.")] = "",
    address: Address = None,
    tls_ca: TlsCa = None,
    as_json: Json = False,
) -> None:
    """Print the messages of a session.

    Examples:
        turnkeeper messages travel
        turnkeeper messages travel --json
    """
    screen = Screen(is_json=as_json)

    async def show(client: Client) -> int:
        async for message in client.list_messages(session, context_id=context):
            if as_json:
                screen.json("message", message)
                continue
            aside = "" if message.in_context else " (not in context)"
            screen.line(f"{_show.role(message.role)}  {_show.when(message.create_time)}{aside}")
            for line in _show.message_lines(message):
                screen.line(f"  {line}")
        return 0

    run_with_client(address, tls_ca, show)


@command
def cancel(
    run: Annotated[str | None, typer.Option("--run", help="Cancel this run.")] = None,
    session: Annotated[str | None, typer.Option("--session", help="Cancel all of this session.")] = None,
    all_sessions: Annotated[bool, typer.Option("--all", help="Cancel all of all sessions.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Let the current tool finish and one last step follow.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Take the turns' messages out of the context.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when every run that it covers has ended.")] = False,
    hint: Annotated[str, typer.Option("--hint", help="With --stop: what the last step is told.")] = "",
    address: Address = None,
    tls_ca: TlsCa = None,
    as_json: Json = False,
) -> None:
    """Cancel a run, a session, or everything.

    It covers what was accepted so far, and nothing after it.

    Examples:
        turnkeeper cancel --session travel --wait
        turnkeeper cancel --run 0197c0de-0000-7000-8000-000000000000 --stop --hint "say what you have"
    """
    if (run is not None) + (session is not None) + all_sessions != 1:
        fail_usage("give one of --run, --session and --all")
    if hint and not stop:
        fail_usage("--hint goes with --stop")
    screen = Screen(is_json=as_json)
    mode: CancelModeName = "stop" if stop else "abort"

    async def do(client: Client) -> int:
        receipt = await client.cancel(
            session, run_id=run, all_sessions=all_sessions, mode=mode, rollback=rollback, wait=wait, hint=hint
        )
        if as_json:
            screen.json("receipt", receipt)
            return 0
        for found in receipt.runs:
            about = f"  {_show.outcome(found.outcome)}" if found.HasField("outcome") else ""
            screen.line(f"{found.run_id}  {_show.disposition(found.disposition)}{about}")
        if not receipt.runs:
            screen.remark("[nothing to cancel]")
        return 0

    run_with_client(address, tls_ca, do)


@command
def summarize(
    session: SessionArgument,
    address: Address = None,
    tls_ca: TlsCa = None,
    as_json: Json = False,
) -> None:
    """Have the context of a session summarised, so that less is sent to models; wait for it.

    It stands in line like a prompt. Ctrl-C leaves, and the summary is made all the same.

    Examples:
        turnkeeper summarize travel
    """
    screen = Screen(is_json=as_json)

    async def show(client: Client) -> int:
        before = (await client.get_session(session)).last_seq
        run_id = await client.summarize_session(session)
        async with client.watch(session, before, run_ids=[run_id], deltas=False) as stream:
            async for item in stream:
                if not isinstance(item, Event):
                    continue
                screen.json("event", item) if as_json else screen.line(_events.event_line(item))
                if item.HasField("run_finished"):
                    return 0 if item.run_finished.outcome.status == OutcomeStatus.OUTCOME_STATUS_COMPLETED else 1
        return 1

    run_with_client(address, tls_ca, show, screen)


@command
def delete(
    session: SessionArgument,
    force: Annotated[bool, typer.Option("--force", help="Cancel what is under way first.")] = False,
    address: Address = None,
    tls_ca: TlsCa = None,
) -> None:
    """Erase a session with all that was said in it.

    It is refused while a run is under way, unless it is forced. What is erased cannot be had back.

    Examples:
        turnkeeper delete travel
        turnkeeper delete travel --force
    """

    async def erase(client: Client) -> int:
        await client.delete_session(session, force=force)
        return 0

    run_with_client(address, tls_ca, erase)
