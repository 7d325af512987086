"""HTTP for machines that look after the server: metrics, and whether it lives and serves."""

from __future__ import annotations

import os
from collections.abc import Callable

from aiohttp import web

from turnkeeper_service.process.metrics import CONTENT_TYPE, Metrics
from turnkeeper_service.settings.tables import split_address

# Probes hold connections open; closing does not wait for them.
SHUTDOWN_SECONDS = 1.0


class HttpStatus:
    """``/metrics``, ``/livez`` and ``/readyz``.

    ``/livez`` says that the event loop turns, and asks nothing else: a restart does not mend a store. ``/readyz`` is
    503 while the server does not serve: before the start, while it drains and after a fault.
    """

    def __init__(self, address: str, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
        self._host, self._port = split_address(address)
        self._metrics = metrics
        self._is_ready = is_ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> tuple[str, int]:
        """Listen; returns where. Raises OSError, whose text names the address, where that is not possible."""
        app = web.Application()
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/livez", self._get_livez)
        app.router.add_get("/readyz", self._get_readyz)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException as error:
            await runner.cleanup()
            if isinstance(error, OSError):
                why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
                raise OSError(f"cannot listen for HTTP on {self._host}:{self._port}: {why}") from error
            raise
        self._runner = runner
        host, port = runner.addresses[0][:2]
        return str(host), int(port)

    async def close(self) -> None:
        """Stop listening and close what is open. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_readyz(self, request: web.Request) -> web.Response:
        if self._is_ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="not serving\n")
