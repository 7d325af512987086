"""What all commands share: the application, their options, and how one is run with a client."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import grpc
import typer

from turnkeeper import Client, TurnkeeperError, __version__
from turnkeeper.cli import _refusal, _show
from turnkeeper.cli._help import help_of
from turnkeeper.cli._plugins import PluginGroup
from turnkeeper.cli._screen import Screen

USAGE = 2

app = typer.Typer(
    cls=PluginGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Talk to a Turnkeeper server.\n\n"
        "The server is found by --address or TURNKEEPER_ADDRESS, the token by TURNKEEPER_TOKEN.\n\n"
        "Exit codes: 0 done, 1 failure, 2 wrong usage."
    ),
)

Address = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="The server; else TURNKEEPER_ADDRESS.")
]
TlsCa = Annotated[
    Path | None, typer.Option("--tls-ca", metavar="FILE", help="Authorities to trust; else TURNKEEPER_TLS_CA.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
SessionArgument = Annotated[str, typer.Argument(metavar="SESSION", help="The session.")]
Command = TypeVar("Command", bound=Callable[..., None])


def command(function: Command) -> Command:
    """Add a command. Its help is its docstring, whose examples keep their lines."""

    @functools.wraps(function)
    def called(**values: object) -> None:
        _refusal.remember(function, values)
        function(**values)

    app.command(function.__name__, help=help_of(function))(called)
    return function


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"turnkeeper {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Nothing but the options of the command itself."""


def run_with_client(
    address: str | None,
    tls_ca: Path | None,
    work: Callable[[Client], Awaitable[int]],
    screen: Screen | None = None,
) -> NoReturn:
    """Run a command with a client; a refusal is one line and exit code 1. The screen is told of lost connections."""
    where = ""

    def tell(lost: TurnkeeperError | None) -> None:
        if screen is not None:
            screen.remark("[connected again]" if lost is None else f"[no connection to {where}; trying again]")

    async def run() -> int:
        nonlocal where
        async with Client(address, tls_ca=tls_ca, on_connection=tell) as client:
            where = client.address
            try:
                return await work(client)
            except TurnkeeperError as error:
                if error.code is grpc.StatusCode.UNAVAILABLE and not error.reason:
                    return _show.fail(error.message)
                if error.code is grpc.StatusCode.UNAUTHENTICATED and not os.environ.get("TURNKEEPER_TOKEN"):
                    return _show.fail(f"{error} (TURNKEEPER_TOKEN is not set)")
                return _show.fail(_refusal.words(error))

    try:
        code = asyncio.run(run())
    except KeyboardInterrupt:
        code = 0
    except ValueError as error:
        code = _show.fail(str(error), USAGE)
    except BrokenPipeError:
        # Whoever read the output has gone, which `main` knows how to take.
        raise
    except OSError as error:
        code = _show.fail(str(error))
    raise typer.Exit(code)


def fail_usage(message: str) -> NoReturn:
    """Say what is wrong about how the command was called."""
    raise typer.Exit(_show.fail(message, USAGE))
