"""The commands about tools: which there are, and which calls wait for somebody's leave."""

from __future__ import annotations

from typing import Annotated

import typer

from turnkeeper import Client
from turnkeeper.cli import _show
from turnkeeper.cli._runner import Address, Json, TlsCa, command, fail_usage, run_with_client
from turnkeeper.cli._screen import Screen


@command
def tools(
    session: Annotated[
        str | None, typer.Argument(metavar="[SESSION]", help="The session; those of a new one if not given.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="PROVIDER/MODEL", help="Another model than the session's.")
    ] = "",
    address: Address = None,
    tls_ca: TlsCa = None,
    as_json: Json = False,
) -> None:
    """List the tools, who runs them, and why a model is not told of one.

    A tool is left out where the vendor does not take its schema, or the session does not name it. Without a session
    and a model, it says which of the providers are not told of it.

    Examples:
        turnkeeper tools
        turnkeeper tools travel
        turnkeeper tools --model openai/gpt-5-mini
    """
    screen = Screen(is_json=as_json)

    async def show(client: Client) -> int:
        rows = []
        for found in (await client.list_tools(session or "", model=model)).tools:
            if as_json:
                screen.json("tool", found)
            told = f"left out: {found.left_out}" if found.left_out else "offered"
            rows.append((found.name, found.executor, told, _show.short(found.description, 60)))
        if not as_json:
            screen.table(("TOOL", "RUN BY", "STATE", "DESCRIPTION"), rows)
        return 0

    run_with_client(address, tls_ca, show)


@command
def approvals(
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="The session; else all that work.")] = None,
    allow: Annotated[str | None, typer.Option("--allow", metavar="APPROVAL", help="Allow this call.")] = None,
    deny: Annotated[str | None, typer.Option("--deny", metavar="APPROVAL", help="Refuse this call.")] = None,
    comment: Annotated[str, typer.Option("--comment", help="What the model is told beside a refusal.")] = "",
    address: Address = None,
    tls_ca: TlsCa = None,
    as_json: Json = False,
) -> None:
    """List the tool calls that wait for somebody's leave, or answer one.

    The first answer counts; a second one is refused.

    Examples:
        turnkeeper approvals
        turnkeeper approvals travel --allow s1c3.approval-9-5f2c
        turnkeeper approvals travel --deny s1c3.approval-9-5f2c --comment "not before Friday"
    """
    if allow is not None and deny is not None:
        fail_usage("give one of --allow and --deny")
    if session is None and (allow or deny) is not None:
        fail_usage("name the session of the approval")
    screen = Screen(is_json=as_json)

    async def answer(client: Client, session_id: str, approval_id: str) -> int:
        answered = await client.answer_approval(session_id, approval_id, allow=allow is not None, comment=comment)
        if as_json:
            screen.json("approval", answered)
        else:
            verb = "allowed" if allow is not None else "refused"
            screen.line(f"{answered.approval_id}  {verb}  {_show.call(answered.tool_call)}")
        return 0

    async def show(client: Client) -> int:
        chosen = allow if allow is not None else deny
        if session is not None and chosen is not None:
            return await answer(client, session, chosen)
        busy = [found.session_id async for found in client.list_sessions() if found.is_busy] if session is None else []
        rows = []
        for session_id in busy if session is None else [session]:
            async for found in client.list_approvals(session_id):
                if as_json:
                    screen.json("approval", found)
                until = f"{_show.when(found.deadline)}, else {'allowed' if found.is_allowed_by_default else 'refused'}"
                rows.append((found.session_id, found.approval_id, until, _show.call(found.tool_call)))
        if not as_json:
            screen.table(("SESSION", "APPROVAL", "UNTIL", "CALL"), rows)
        return 0

    run_with_client(address, tls_ca, show)
