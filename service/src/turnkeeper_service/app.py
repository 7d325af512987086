"""The server: builds the graph of its parts, starts it in order, and takes it down in order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from turnkeeper_service.errors import draining, store_unavailable
from turnkeeper_service.principal import Authenticator
from turnkeeper_service.process.clock import Clock, SystemClock
from turnkeeper_service.process.metrics import Metrics, RereadType
from turnkeeper_service.process.tasks import TaskOwner
from turnkeeper_service.process.tls import Certificates
from turnkeeper_service.providers.facts.public_list import PublicList
from turnkeeper_service.providers.gates import Gates
from turnkeeper_service.providers.policy.fallback import CoolDowns
from turnkeeper_service.providers.registry import ProviderRegistry
from turnkeeper_service.runs.parts import Checkpoints
from turnkeeper_service.runs.runs import Runs
from turnkeeper_service.settings.settings import Settings
from turnkeeper_service.store.base import Store
from turnkeeper_service.store.errors import StoreError
from turnkeeper_service.store.sqlite import SqliteStore
from turnkeeper_service.store.watch import OwnershipWatch
from turnkeeper_service.tools.base import OfferedTool
from turnkeeper_service.tools.loading import load
from turnkeeper_service.wire.call import Gatekeeper
from turnkeeper_service.wire.server import WireServer
from turnkeeper_service.wire.streams import Streams
from turnkeeper_service.wire.validate import Bounds, Validator

from .http_status import HttpStatus
from .provider_wiring import model_catalog, price_list, provider_options
from .wiring import (
    core_limits,
    mcp_options,
    run_options,
    server_options,
)

if TYPE_CHECKING:
    import grpc

    from turnkeeper_service.tools.mcp.servers import McpServers

log = structlog.get_logger(__name__)

STOP_GRACE = 1.0
"""Seconds that streams have to hear why they end."""
SWEEP_SECONDS = 3600.0
DAY_SECONDS = 86_400.0


class Server:
    """One Turnkeeper server in this process.

    ``tools`` are offered beside those of the settings, for programs that embed the server. ``clock``, ``gates``,
    ``checkpoints`` and ``store`` are for tests; production takes their defaults.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        gates: Gates | None = None,
        checkpoints: Checkpoints | None = None,
        store: Store | None = None,
        tools: Mapping[str, OfferedTool] | None = None,
    ) -> None:
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._checkpoints = checkpoints
        self._tools = dict(tools or {})
        self._gates = gates
        self._store: Store = store or SqliteStore(settings.server.data_dir)
        self._owner = TaskOwner(self._fault)
        self._providers: ProviderRegistry | None = None
        self._public_list = PublicList()
        self._prices = price_list(settings, self._public_list)
        self._catalog = model_catalog(settings, self._public_list)
        self._runs: Runs | None = None
        self._tool_servers: McpServers | None = None
        self._wire: WireServer | None = None
        self._authenticator: Authenticator | None = None
        self._certificates: Certificates | None = None
        self._http: HttpStatus | None = None
        self._streams: Streams | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._draining: asyncio.Task[None] | None = None
        self._is_serving = False
        self._closing: asyncio.Task[None] | None = None
        self.grpc_address = ""
        self.http_address = ""
        self.started_at = self._clock.time()
        self.drained = asyncio.Event()
        """Set when a drain has ended: the server may be closed."""
        self.failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Resolves on a fail-stop (U-14): the process has to exit."""
        try:
            self.version = version("turnkeeper-service")
        except PackageNotFoundError:
            self.version = "unknown"
        self._metrics = Metrics(CollectorRegistry(), self._catalog.label, self.version)

    @property
    def runs(self) -> Runs:
        """Sessions and runs, for programs that embed the server."""
        assert self._runs is not None
        return self._runs

    async def start(self) -> None:
        """Open the store, recover, serve. Raises StoreError, OSError, TlsError, TokenFileError, SettingsError."""
        settings, clock = self._settings, self._clock
        authenticator = self._authenticator = Authenticator(
            settings.auth.token_file if settings.auth.mode == "token" else None,
            monotonic=clock.monotonic,
            on_bad_file=lambda message: self._bad_file("tokens", message),
        )
        self._providers = ProviderRegistry(await provider_options(settings, clock), clock, self._gates)
        try:
            boot = await self._store.open()
            limits = settings.limits
            self._tool_servers = self._start_tool_servers()
            runs = self._runs = Runs(
                self._store,
                boot,
                self._providers,
                self._prices,
                self._catalog,
                CoolDowns(clock),
                clock,
                core_limits(settings, self._providers.bounds),
                run_options(settings),
                self._owner,
                checkpoints=self._checkpoints,
                observer=self._metrics,
                tools={**load(settings.tools.functions), **self._tools},
                tool_servers=self._tool_servers,
            )
            self._streams = Streams(clock, settings.server.heartbeat_interval_seconds, self._metrics.reader_lag)
            bounds = Bounds(
                limits.max_prompt_bytes,
                limits.max_prompt_parts,
                limits.max_system_prompt_bytes,
                limits.max_output_schema_bytes,
            )
            validator = Validator(bounds, runs.why_no_model)
            gatekeeper = Gatekeeper(authenticator, self._metrics, settings.server.max_message_bytes)
            authenticator.on_change = gatekeeper.recheck
            self._wire = WireServer(
                server_options(settings),
                gatekeeper,
                runs,
                validator,
                self._streams,
                self,
                clock,
            )
            await runs.sweep()
            recovered = await runs.recover()
            self._http = HttpStatus(settings.server.http_address, self._metrics, self._is_ready)
            host, port = await self._http.start()
            self.http_address = f"{host}:{port}"
            credentials = self._read_certificates()
            self.grpc_address = await self._wire.start(settings.server.grpc_address, credentials)
        except BaseException:
            await self.close()
            raise
        self._is_serving = True
        self._tasks = [
            asyncio.create_task(self._streams.run(), name="heartbeats"),
            asyncio.create_task(self._watch_store(), name="store watch"),
            asyncio.create_task(OwnershipWatch(self._store, self._clock).run(), name="ownership"),
            asyncio.create_task(self._sweep(), name="sweep"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)
        log.info("serving", grpc=self.grpc_address, http=self.http_address, epoch=boot.epoch, recovered=recovered)

    def _read_certificates(self) -> grpc.ServerCredentials | None:
        tls = self._settings.tls
        if tls.cert_file is None or tls.key_file is None:
            return None
        self._certificates = Certificates(
            cert_file=tls.cert_file,
            key_file=tls.key_file,
            client_ca_file=tls.client_ca_file,
            require_client_cert=tls.require_client_cert,
            on_bad_file=lambda message: self._bad_file("certificates", message),
        )
        return self._certificates.credentials

    def _bad_file(self, what: RereadType, message: str) -> None:
        """Something could not be read again: the last good one stays in force. Called on any thread."""
        self._metrics.reread_failed(what)
        log.error("cannot be read again; the old stays in force", what=what, detail=message)

    def reload(self) -> None:
        """Read tokens, keys and certificates again, whether or not they seem to have changed.

        What is bad is logged, and the old stays in force. Streams whose caller is no longer known end.
        """
        if not self._is_serving or self._authenticator is None or self._providers is None:
            return
        log.info("reading tokens, keys and certificates again")
        self._authenticator.reload()
        if self._certificates is not None:
            self._certificates.reload()
        self._owner.spawn("keys", self._reload_keys(self._providers))

    async def _reload_keys(self, providers: ProviderRegistry) -> None:
        for name in await providers.reload_keys():
            self._bad_file("keys", f"the key of provider {name}")

    def _start_tool_servers(self) -> McpServers | None:
        """Begin to connect to tool servers. Nothing waits for them but the runs that are to."""
        if not self._settings.mcp:
            return None
        # The SDK is large: only who uses it pays for it.
        from turnkeeper_service.tools.mcp.servers import McpServers

        limit = self._settings.limits.max_tool_result_bytes
        servers = McpServers([mcp_options(name, one, limit) for name, one in self._settings.mcp.items()], self._clock)
        servers.start()
        return servers

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault(task.get_name(), error)

    def _fault(self, name: str, error: BaseException) -> None:
        """A task that nobody awaits has failed. What it left undone is found by the recovery of the next start."""
        if not isinstance(error, StoreError):
            log.error("a task failed by a fault", task=name, exc_info=error)
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._is_serving = False
        if not self.failure.done():
            log.error("the server stops", error=type(error).__name__, detail=str(error))
            self.failure.set_result(error)
            if self._runs is not None:
                self._runs.fail(store_unavailable())

    def _is_ready(self) -> bool:
        return self._is_serving and not self._store.is_stalled

    async def _watch_store(self) -> None:
        error = await asyncio.shield(self._store.failure)
        self._fail(error)
        if self._wire is not None:
            await self._wire.set_serving(False)

    async def _sweep(self) -> None:
        days = self._settings.retention.idle_session_days
        while True:
            if days is not None:
                await self.runs.delete_idle(days * DAY_SECONDS)
            await self._clock.sleep(SWEEP_SECONDS)
            await self.runs.sweep()

    def commits(self) -> tuple[int, int]:
        """Commits made, and those not durable yet."""
        stats = self._store.stats()
        return stats.commits, stats.queue_depth

    def begin_drain(self, timeout: float | None) -> None:
        """Begin to go away; `drained` is set when it may be closed."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(timeout), name="drain")

    async def drain(self, timeout: float | None = None) -> None:
        """Go away in order (U-17): returns when running turns have ended or the deadline has passed."""
        self.begin_drain(timeout)
        assert self._draining is not None
        await asyncio.shield(self._draining)

    async def _drain(self, timeout: float | None) -> None:
        self._is_serving = False
        if self._wire is not None:
            await self._wire.set_serving(False)
        if self._runs is not None:
            limit = self._settings.server.drain_timeout_seconds if timeout is None else timeout
            await self._runs.drain(limit)
        self.drained.set()

    async def close(self) -> None:
        """Take everything down; what still runs is left to recovery. Idempotent and safe to await from many tasks."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._is_serving = False
        tasks = [*self._tasks, *([self._draining] if self._draining is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        reason = store_unavailable() if self.failure.done() else draining()
        is_busy = self.failure.done() or self._draining is not None
        if self._wire is not None:
            self._wire.part()
        if self._runs is not None:
            await self._runs.close(reason)
        if self._tool_servers is not None:
            await self._tool_servers.close()
        if self._wire is not None:
            await self._wire.stop(reason, STOP_GRACE, is_busy=is_busy)
        if self._http is not None:
            await self._http.close()
        if self._providers is not None:
            await self._providers.close()
        await self._public_list.close()
        await self._store.close()
        if not self.failure.done():
            self.failure.cancel()
