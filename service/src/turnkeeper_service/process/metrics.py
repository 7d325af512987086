"""What the server counts, in a registry that is handed in. No session or run id is ever a label."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
TokenType = Literal["input", "output", "reasoning", "cache_read", "cache_write"]
RereadType = Literal["tokens", "keys", "certificates"]
GrpcType = Literal["unary", "client_stream", "server_stream", "bidi_stream"]

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
DURATION = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
LAG = (0, 1, 4, 16, 64, 256, 1024, 4096, 16384)
# Codes whose spelling does not follow from their name.
_SPELT = {"OK": "OK", "CANCELLED": "Canceled"}
# Models are chosen by callers: more names than this are counted together, so that nobody can fill the registry.
MAX_MODELS = 200


class Metrics:
    """All metrics. Each method costs a lookup and an addition; times are in seconds.

    ``model_label`` gives the name under which a model is counted.
    """

    def __init__(
        self, registry: CollectorRegistry, model_label: Callable[[str], str] = str, version: str = "unknown"
    ) -> None:
        self.registry = registry
        self._model_label = model_label
        ProcessCollector(registry=registry)
        build = Info("turnkeeper_build", "What runs: the version of the server and of Python.", registry=registry)
        build.info({"version": version, "python": platform.python_version()})
        self._runs = Counter("turnkeeper_runs", "Runs that ended, by outcome.", ["outcome"], registry=registry)
        self._run_duration = Histogram(
            "turnkeeper_run_duration_seconds", "From accept to terminal.", buckets=DURATION, registry=registry
        )
        self._dispatch_wait = Histogram(
            "turnkeeper_dispatch_wait_seconds",
            "From accept to the start of the run.",
            buckets=LATENCY,
            registry=registry,
        )
        self._failed_runs = Counter(
            "turnkeeper_failed_runs", "Runs that failed, by reason.", ["reason"], registry=registry
        )
        self._failed_attempts = Counter(
            "turnkeeper_failed_attempts", "Model calls that were made again, by reason.", ["reason"], registry=registry
        )
        self._first_event = Histogram(
            "turnkeeper_time_to_first_event_seconds",
            "From the start of a model call that was answered to its first text.",
            buckets=LATENCY,
            registry=registry,
        )
        self._cancel = Histogram(
            "turnkeeper_cancel_to_terminal_seconds",
            "From a cancel to the terminal of the run that it covers.",
            buckets=LATENCY,
            registry=registry,
        )
        self._active_turns = Gauge("turnkeeper_active_turns", "Turns that run.", registry=registry)
        self._queue_depth = Gauge(
            "turnkeeper_queue_depth", "Runs in line or without a permit that they want.", registry=registry
        )
        self._lag = Histogram(
            "turnkeeper_subscriber_lag_events",
            "Durable events that a reader was behind, looked at three times per heartbeat.",
            buckets=LAG,
            registry=registry,
        )
        self._commits = Counter("turnkeeper_store_commits", "Commits that are durable.", registry=registry)
        self._tokens = Counter(
            "turnkeeper_tokens", "Tokens of model calls, by type and model.", ["type", "model"], registry=registry
        )
        self._failed_rereads = Counter(
            "turnkeeper_failed_rereads",
            "Tokens, keys or certificates that could not be read again, so that the old ones stayed in force.",
            ["what"],
            registry=registry,
        )
        for what in get_args(RereadType):
            self._failed_rereads.labels(what)
        method = ["grpc_type", "grpc_service", "grpc_method"]
        self._rpc_started = Counter("grpc_server_started", "RPCs that began.", method, registry=registry)
        self._rpc_handled = Counter(
            "grpc_server_handled", "RPCs that ended, by code.", [*method, "grpc_code"], registry=registry
        )
        self._rpc_duration = Histogram(
            "grpc_server_handling_seconds", "How long RPCs took.", method, buckets=DURATION, registry=registry
        )
        self._models: set[str] = set()
        self._methods: dict[tuple[str, str, str], RpcMethod] = {}
        """Looked up once: finding a metric by its labels costs more than counting."""

    def run_finished(self, outcome: str, seconds: float) -> None:
        """A run has its terminal: ``outcome`` is the status in lower case, such as ``completed``."""
        self._runs.labels(outcome).inc()
        self._run_duration.observe(seconds)

    def run_started(self, waited_seconds: float) -> None:
        """A run was dispatched so long after its accept."""
        self._dispatch_wait.observe(waited_seconds)

    def run_failed(self, reason: str) -> None:
        """A run ended FAILED: ``reason`` is the outcome's in lower case."""
        self._failed_runs.labels(reason).inc()

    def attempt_failed(self, reason: str) -> None:
        """A model call failed and is made again."""
        self._failed_attempts.labels(reason).inc()

    def first_event(self, seconds: float) -> None:
        """A model call gave its first text so long after it was made."""
        self._first_event.observe(seconds)

    def cancelled(self, seconds: float) -> None:
        """A covered run ended so long after its cancel was accepted."""
        self._cancel.observe(seconds)

    def watch_turns(self, running: Callable[[], float]) -> None:
        """Ask for the number of running turns whenever the metrics are read."""
        self._active_turns.set_function(running)

    def watch_queue(self, depth: Callable[[], float]) -> None:
        """Ask for the number of waiting runs whenever the metrics are read."""
        self._queue_depth.set_function(depth)

    def reader_lag(self, events: int) -> None:
        """A reader was so many durable events behind."""
        self._lag.observe(events)

    def commits(self, count: int = 1) -> None:
        """So many more commits are durable."""
        self._commits.inc(count)

    def tokens(self, kind: TokenType, model: str, count: int) -> None:
        """A model call used tokens. ``model`` is ``provider/model``. A count that is none is not counted."""
        if count < 0:
            return
        model = self._model_label(model)
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                model = "other"
            self._models.add(model)
        self._tokens.labels(kind, model).inc(count)

    def reread_failed(self, what: RereadType) -> None:
        """Something could not be read again. Called on any thread."""
        self._failed_rereads.labels(what).inc()

    def rpc(self, kind: GrpcType, service: str, method: str) -> Rpc:
        """An RPC has begun; call `Rpc.ended` once."""
        labels = (kind, service, method)
        known = self._methods.get(labels)
        if known is None:
            duration = self._rpc_duration.labels(*labels)
            known = self._methods[labels] = RpcMethod(labels, self._rpc_started.labels(*labels), duration)
        known.started.inc()
        return Rpc(known, self._rpc_handled)

    def render(self) -> bytes:
        """The text that Prometheus reads, of type `CONTENT_TYPE`."""
        return generate_latest(self.registry)


@dataclass(slots=True)
class RpcMethod:
    """What is counted of one method; ``handled`` is by code, as the codes turn up."""

    labels: tuple[str, str, str]
    started: Counter
    duration: Histogram
    handled: dict[str, Counter] = field(default_factory=dict)


class Rpc:
    """One RPC under way."""

    __slots__ = ("_handled", "_method", "_started")

    def __init__(self, method: RpcMethod, handled: Counter) -> None:
        self._method = method
        self._handled = handled
        self._started = time.perf_counter()

    def ended(self, code: str) -> None:
        """It ended with this code, in the spelling of the dashboards: ``OK``, ``InvalidArgument``."""
        method = self._method
        handled = method.handled.get(code)
        if handled is None:
            handled = method.handled[code] = self._handled.labels(*method.labels, code)
        handled.inc()
        method.duration.observe(time.perf_counter() - self._started)


def code_name(name: str) -> str:
    """The dashboards' spelling of a code: ``INVALID_ARGUMENT`` is ``InvalidArgument``; OK stays."""
    if name in _SPELT:
        return _SPELT[name]
    return "".join(part.capitalize() for part in name.split("_"))
