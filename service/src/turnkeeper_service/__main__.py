"""``python -m turnkeeper_service serve`` is ``turnkeeper serve`` without the client's commands."""

from __future__ import annotations

import typer

from turnkeeper_service.commands import register


def main() -> None:
    """Run the server's commands."""
    app = typer.Typer(name="turnkeeper-server", no_args_is_help=True, help="The Turnkeeper server.")
    register(app)
    app()


if __name__ == "__main__":
    main()
