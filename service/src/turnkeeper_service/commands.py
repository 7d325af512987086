"""The server's part of the ``turnkeeper`` command: serve, config, token.

The ``turnkeeper`` command, which belongs to the client, finds them by the entry point group ``turnkeeper.commands``.
Importing this module must stay cheap: what a command needs it imports when it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Protocol

import typer

if TYPE_CHECKING:
    from turnkeeper_service.settings.settings import Settings

FAILURE, USAGE, LOCKED = 1, 2, 3
GC_ALLOCATIONS = 20_000
"""Objects more than before until the collector looks at the young ones."""
CLOSE_SECONDS = 10.0

ConfigFlag = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The configuration file.")]
SetFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any setting, such as limits.max_running_turns=2. May be repeated."
    ),
]
DataDirFlag = Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="The data directory.")]

config_app = typer.Typer(invoke_without_command=True, add_completion=False, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the server's commands to a command line."""
    app.command("serve")(serve)
    app.add_typer(config_app, name="config")
    app.command("token")(token)


def serve(
    config: ConfigFlag = None,
    data_dir: DataDirFlag = None,
    grpc_address: Annotated[
        str | None, typer.Option("--grpc-address", metavar="HOST:PORT", help="Where gRPC is served.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="gRPC on 127.0.0.1 at this port; 0 picks one.")
    ] = None,
    http_address: Annotated[
        str | None, typer.Option("--http-address", metavar="HOST:PORT", help="Where metrics and probes are served.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="PROVIDER/MODEL", help="The model of sessions that name none.")
    ] = None,
    auth_mode: Annotated[
        str | None, typer.Option("--auth", metavar="none|token", help="Whether callers must show who they are.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Token hashes; implies --auth token.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Private key, PEM.")] = None,
    drain_timeout: Annotated[
        float | None, typer.Option("--drain-timeout", metavar="SECONDS", help="Time for running turns at the end.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="FORMAT", help="auto, json or text.")
    ] = None,
    set_: SetFlag = None,
) -> None:
    """Run the server until SIGTERM or SIGINT; it then drains. A second signal ends it at once.

    When it serves it prints one line: `listening grpc=HOST:PORT http=HOST:PORT`.

    Exit codes: 0 after a drain, 1 failure, 2 bad configuration or unreadable database, 3 data directory in use.

    Examples:
        turnkeeper serve
        turnkeeper serve --port 0 --data-dir ./data --set limits.max_running_turns=8
        TURNKEEPER_CONFIG=/etc/turnkeeper.toml turnkeeper serve
    """
    if port is not None and grpc_address is not None:
        _fail(USAGE, "--port and --grpc-address exclude each other")
    flags = {
        "server.data_dir": data_dir,
        "server.grpc_address": f"127.0.0.1:{port}" if port is not None else grpc_address,
        "server.http_address": http_address,
        "defaults.model": model,
        "auth.mode": auth_mode or ("token" if token_file is not None else None),
        "auth.token_file": token_file,
        "tls.cert_file": tls_cert,
        "tls.key_file": tls_key,
        "server.drain_timeout_seconds": drain_timeout,
        "server.log_level": log_level,
        "server.log_format": log_format,
    }
    settings = _load(config, flags, set_)
    raise typer.Exit(run_server(settings))


@config_app.callback()
def show_config(context: typer.Context, config: ConfigFlag = None, set_: SetFlag = None) -> None:
    """Print all settings as a configuration file would hold them, secrets masked.

    Examples:
        turnkeeper config
        turnkeeper config --config turnkeeper.toml --set limits.max_running_turns=2
        turnkeeper config check --config turnkeeper.toml
    """
    context.obj = (config, set_)
    if context.invoked_subcommand is None:
        from turnkeeper_service.settings.text import render

        typer.echo(render(_load(config, {}, set_)), nl=False)


@config_app.command("check")
def check_config(context: typer.Context, config: ConfigFlag = None, set_: SetFlag = None) -> None:
    """Read the settings and what they name: files, keys, function tools, programs; say what is wrong.

    Variables that begin with TURNKEEPER_ and mean nothing are named too.

    Exit codes: 0 right, 2 wrong.

    Examples:
        turnkeeper config check
        turnkeeper config check --config turnkeeper.toml
    """
    from turnkeeper_service.principal import TokenFileError, read_token_file
    from turnkeeper_service.process.clock import SystemClock
    from turnkeeper_service.process.tls import TlsError, check_files
    from turnkeeper_service.settings.layers import SettingsError
    from turnkeeper_service.settings.settings import unknown_variables
    from turnkeeper_service.tools.loading import ToolLoadError, load

    from .provider_wiring import provider_options

    outer: tuple[Path | None, list[str] | None] = context.obj or (None, None)
    settings = _load(config or outer[0], {}, [*(outer[1] or []), *(set_ or [])])
    problems = unknown_variables(os.environ) + settings.missing_programs(os.environ.get("PATH", os.defpath))
    try:
        asyncio.run(provider_options(settings, SystemClock()))
    except SettingsError as error:
        problems += error.problems
    try:
        load(settings.tools.functions)
    except ToolLoadError as error:
        problems.append(str(error))
    try:
        if settings.auth.mode == "token" and settings.auth.token_file is not None:
            read_token_file(settings.auth.token_file)
        if settings.tls.cert_file is not None and settings.tls.key_file is not None:
            check_files(settings.tls.cert_file, settings.tls.key_file, settings.tls.client_ca_file)
    except (TokenFileError, TlsError) as error:
        problems.append(str(error))
    if problems:
        _fail(USAGE, *problems)
    typer.echo("ok")


def token(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose data it opens.")] = "default",
    name: Annotated[str, typer.Option("--name", help="What logs call its owner.")] = "client",
    role: Annotated[
        list[str] | None, typer.Option("--role", help="user, read, worker or admin; may be repeated.")
    ] = None,
    append: Annotated[
        Path | None, typer.Option("--append", metavar="FILE", help="Add the entry to this token file.")
    ] = None,
) -> None:
    """Mint a token: print it once, then the entry for the token file, which holds only its hash.

    Examples:
        turnkeeper token --tenant acme --name billing
        turnkeeper token --tenant acme --name ops --role user --role admin --append tokens.toml
    """
    from turnkeeper_service.principal import TokenFileError, hash_token, mint_token, parse_tokens
    from turnkeeper_service.settings.text import written

    minted = mint_token()
    entry = {"sha256": hash_token(minted), "tenant": tenant, "name": name, "roles": sorted(set(role or ["user"]))}
    stanza = "[[tokens]]\n" + "".join(f"{key} = {written(value)}\n" for key, value in entry.items())
    try:
        parse_tokens(stanza, "the new token")
    except TokenFileError as error:
        _fail(USAGE, str(error))
    typer.echo(minted)
    if append is None:
        typer.echo("\n" + stanza, nl=False)
        return
    try:
        with append.open("a", encoding="utf-8") as file:
            file.write("\n" + stanza)
    except OSError as error:
        _fail(FAILURE, f"{append}: cannot write it: {error.strerror}")


class Servable(Protocol):
    """What `run_server` needs of the application's server."""

    grpc_address: str
    http_address: str
    failure: asyncio.Future[BaseException]
    drained: asyncio.Event

    async def start(self) -> None:
        """Come to serve."""
        ...

    def reload(self) -> None:
        """Read again what may change while it serves."""
        ...

    async def drain(self, timeout: float | None = None) -> None:
        """Go away in order."""
        ...

    async def close(self) -> None:
        """Release everything. Idempotent, also after a start that failed."""
        ...


def run_server(settings: Settings, build: Callable[[Settings], Servable] | None = None) -> int:
    """Serve until told to stop, on uvloop; returns the exit code. ``build`` is called on the event loop."""
    # Set before gRPC is imported: its core writes lines of its own about each failed handshake, and about each child
    # process. Nothing here forks without an exec.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import uvloop

    from turnkeeper_service.process import log
    from turnkeeper_service.process.standard_error import is_terminal, lines_only

    server = settings.server
    with lines_only(server.log_format) as stream:
        log.configure(level=server.log_level, format=server.log_format, stream=stream)
        if build is None:
            from turnkeeper_service.app import Server

            build = Server
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            error = runner.run(_serve(settings, build))
    if error is None:
        return 0
    if is_terminal(server.log_format):
        # The log has said it too, among much else.
        typer.echo(f"turnkeeper: {str(error) or type(error).__name__}", err=True)
    return exit_code(error)


def _settle_memory() -> None:
    """What the start made lives as long as the process, and what a turn makes seldom has cycles: look less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)


async def _serve(settings: Settings, build: Callable[[Settings], Servable]) -> BaseException | None:
    """Serve; what it ended by, None where it was told to."""
    import structlog

    logger = structlog.get_logger("turnkeeper.serve")
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            # What is durable stays so; the next start recovers the rest.
            os._exit(FAILURE)
        logger.info("draining", seconds=settings.server.drain_timeout_seconds)
        stopping.set()

    server: Servable | None = None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: server.reload() if server else None)
    try:
        server = build(settings)
        await server.start()
        _settle_memory()
        typer.echo(f"listening grpc={server.grpc_address} http={server.http_address}")
        sys.stdout.flush()
        error = await _until_over(server, stopping, settings.server.drain_timeout_seconds)
    except Exception as raised:
        error = raised
    if error is not None and is_expected(error):
        logger.error("cannot serve", error=type(error).__name__, detail=str(error))
    elif error is not None:
        logger.error("stopped by a fault", detail=str(error), exc_info=error)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_SECONDS):
            if server is not None:
                await server.close()
    if error is None:
        logger.info("stopped")
    return error


async def _until_over(server: Servable, stopping: asyncio.Event, drain_timeout: float) -> BaseException | None:
    """Wait for a signal and drain, or for a drain by RPC; returns the fault that came before, if one did."""

    async def leave() -> None:
        await stopping.wait()
        await server.drain(drain_timeout)

    async def fail() -> None:
        # Shielded, because the future is the server's and is not cancelled with this wait.
        raise await asyncio.shield(server.failure)

    waits = {asyncio.ensure_future(wait) for wait in (leave(), fail(), server.drained.wait())}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return next((error for wait in done if (error := wait.exception()) is not None), None)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def is_expected(error: BaseException) -> bool:
    """Whether an error is about what is outside this program, so that its words say all and a trace says nothing."""
    from turnkeeper_service.store.errors import StoreError

    return exit_code(error) != FAILURE or isinstance(error, StoreError | OSError)


def exit_code(error: BaseException) -> int:
    """The exit code that a fault at the start or later stands for."""
    from turnkeeper_service.principal import TokenFileError
    from turnkeeper_service.process.tls import TlsError
    from turnkeeper_service.settings.layers import SettingsError
    from turnkeeper_service.store.errors import StoreCorruptError, StoreLockedError, StoreUnreadableError
    from turnkeeper_service.tools.loading import ToolLoadError

    if isinstance(error, StoreLockedError):
        return LOCKED
    wrong = StoreCorruptError | StoreUnreadableError | SettingsError | TokenFileError | TlsError | ToolLoadError
    return USAGE if isinstance(error, wrong) else FAILURE


def _load(config: Path | None, flags: Mapping[str, object], sets: list[str] | None) -> Settings:
    from turnkeeper_service.settings.layers import SettingsError
    from turnkeeper_service.settings.settings import Settings

    overrides = {key: str(value) for key, value in flags.items() if value is not None}
    for text in sets or []:
        key, equals, value = text.partition("=")
        if not equals:
            _fail(USAGE, f"--set {text}: must be KEY=VALUE")
        overrides[key.strip()] = value
    try:
        return Settings.load(os.environ, overrides, config=config)
    except SettingsError as error:
        _fail(USAGE, *error.problems)


def _fail(code: int, *problems: str) -> NoReturn:
    for problem in problems:
        typer.echo(f"turnkeeper: {problem}", err=True)
    raise typer.Exit(code)
