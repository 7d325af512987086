"""The command `turnkeeper`: talk to a server from a terminal. It needs the extra `cli`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer

_EXTRA = ("typer", "prompt_toolkit")


def application() -> Typer:
    """The command with all its commands, in the order in which help lists them."""
    from turnkeeper.cli import _sessions, _tools  # noqa: F401
    from turnkeeper.cli._runner import app

    return app


def main() -> None:
    """Run the command."""
    # A stream that was closed by who called is none at all, and everything here may use it.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        application()(prog_name="turnkeeper")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.exit(f"turnkeeper: the command needs {error.name}: pip install 'turnkeeper[cli]'")
