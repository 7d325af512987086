"""The command `turnkeeper`: talk to a server from a terminal. It needs the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command."""
    try:
        from turnkeeper.cli._app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"turnkeeper: the command needs {error.name}: pip install 'turnkeeper[cli]'")
    app(prog_name="turnkeeper")
