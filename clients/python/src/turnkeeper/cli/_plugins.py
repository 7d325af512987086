"""Commands that other packages add: the server's, by the entry point group `turnkeeper.commands`.

They are loaded when they are called or listed, so that a client's command does not pay for a server.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from turnkeeper.cli._help import help_of

GROUP = "turnkeeper.commands"
# Commands of a package that may not be there; what is said then names it.
MISSING = {"serve": "turnkeeper-service", "config": "turnkeeper-service"}


class WholeHelpGroup(TyperGroup):
    """A group that lists its commands with all of their first paragraphs."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list; lines that are too long go on below."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, " ".join((command.short_help or command.help or "").split("\n\n")[0].split()))
            for name, command in found
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class PluginGroup(WholeHelpGroup):
    """A group of its own commands and of those that are installed beside it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Own commands first, then the others by name."""
        own = list(super().list_commands(ctx))
        return own + sorted((set(MISSING) | set(_installed())) - set(own))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One command, loaded now."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        found = _installed().get(cmd_name)
        if found is not None:
            return _command(found)
        return _stand_in(cmd_name) if cmd_name in MISSING else None


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _command(point: EntryPoint) -> Any:
    """A typer app becomes a group, a function becomes a command."""
    loaded = point.load()
    if isinstance(loaded, typer.Typer):
        for registered in loaded.registered_commands:
            if registered.help is None and registered.callback is not None:
                registered.help = help_of(registered.callback)
        loaded.info.cls = WholeHelpGroup
        group = loaded.registered_callback
        if group is not None and group.callback is not None:
            group.help = help_of(group.callback)
        command: Any = typer.main.get_command(loaded)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(point.name, help=help_of(loaded))(loaded)
        command = typer.main.get_command(alone)
    command.name = point.name
    return command


def _stand_in(name: str) -> Any:
    package = MISSING[name]
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command(name, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def missing() -> NoReturn:
        typer.echo(f"turnkeeper: `{name}` is part of the server: pip install {package}", err=True)
        raise typer.Exit(1)

    missing.__doc__ = f"Part of the server: pip install {package}."
    command = typer.main.get_command(app)
    command.help = f"(part of the server: pip install {package})"
    return command
