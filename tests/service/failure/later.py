"""The server, two days ahead: what stands in its data was written two days ago. Run as `turnkeeper_service` is."""

from __future__ import annotations

import functools

from turnkeeper_service import app
from turnkeeper_service.__main__ import main
from turnkeeper_service.process.clock import SystemClock

AHEAD = 2 * 86_400.0


class Ahead(SystemClock):
    """A clock that is ahead."""

    def time(self) -> float:
        """Wall-clock seconds since the epoch, and two days."""
        return super().time() + AHEAD


if __name__ == "__main__":
    app.Server = functools.partial(app.Server, clock=Ahead())  # type: ignore[misc,assignment]
    main()
