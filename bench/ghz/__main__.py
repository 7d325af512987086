"""Loads a server of its own with ghz and prints a table: ``python -m bench.ghz``. Exits 1 if a call was not OK."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from bench import load
from bench.processes import Process, address_of, baseline, service
from bench.report import Report
from bench.slices import Effort, Measure, Slice, compared
from bench.usage import Usage
from turnkeeper.v1 import run_service_pb2

HERE = Path(__file__).resolve().parent
SESSIONS = 1000


@dataclass(frozen=True)
class Result:
    """What ghz found out about one kind of call."""

    name: str
    count: int
    rate: float
    p50_ms: float
    p99_ms: float
    used: Usage
    statuses: dict[str, int]
    errors: dict[str, int]

    @property
    def is_ok(self) -> bool:
        """Whether every call was."""
        return not self.errors and self.count > 0 and self.statuses == {"OK": self.count}


def ghz(name: str, config: str, server: Process, protoset: Path | None = None) -> Result:
    """Run ghz with one of the configurations; methods are found by reflection, or in a file where there is none."""
    program = shutil.which("ghz")
    if program is None:
        sys.exit("bench.ghz: ghz is not on the PATH; `make load` installs it")
    command = [program, "--config", str(HERE / f"{config}.json"), "--format", "json"]
    if protoset is not None:
        command += ["--protoset", str(protoset)]
    before = server.used()
    done = subprocess.run([*command, address_of(server)], capture_output=True, text=True, check=False, timeout=110)
    used = server.used() - before
    if done.returncode:
        sys.exit(f"bench.ghz: {name}: {done.stderr.strip() or done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    latencies = {one["percentage"]: one["latency"] / 1e6 for one in found.get("latencyDistribution") or ()}
    return Result(
        name=name,
        count=found["count"],
        rate=found["rps"],
        p50_ms=latencies.get(50, 0.0),
        p99_ms=latencies.get(99, 0.0),
        used=used,
        statuses=found.get("statusCodeDistribution") or {},
        errors=found.get("errorDistribution") or {},
    )


async def sessions(server: Process, *, held: bool) -> None:
    """Make the sessions that the configurations name; with ``held`` a run that never ends takes each floor."""
    async with load.connect(server) as client:
        names = await client.sessions("ghz", SESSIONS)
        if held:
            await load.hold_floors(client, names)


def write_protoset(path: Path) -> None:
    """Write what reflection would answer: the service's file and all that it imports."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for imported in file.dependencies:
            add(imported)
        files.setdefault(file.name, file)

    add(run_service_pb2.DESCRIPTOR)
    found = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    path.write_bytes(found.SerializeToString())


ROUNDS = 5
BARE, FLOOR, OURS = "a bare server", "the same plus one commit", "SubmitRun into a line"


def submits(directory: Path, report: Report) -> list[Result]:
    """Durable accepts beside a bare unary and beside one with a commit, in rounds, all of them alive."""
    protoset = directory / "bare.protoset"
    write_protoset(protoset)
    results: list[Result] = []
    with (
        baseline("bare") as bare,
        baseline("floor_unary", str(directory)) as floor,
        service(directory / "held") as held,
    ):
        asyncio.run(sessions(held, held=True))

        async def one(name: str, server: Process) -> Measure:
            result = ghz(f"unary: {name}", "unary", server, None if server is held else protoset)
            if not result.is_ok:
                sys.exit(f"bench.ghz: {name}: {result.statuses or ''} {result.errors or ''}")
            results.append(result)
            return Measure(result.count, result.rate, result.used)

        slices: dict[str, Slice] = {
            name: partial(one, name, server) for name, server in ((BARE, bare), (FLOOR, floor), (OURS, held))
        }
        rounds = asyncio.run(compared(slices, Effort(rounds=ROUNDS)))
    report.variants("by ghz", rounds, "calls")
    for other, goal in ((FLOOR, 0.8), (BARE, 0.55)):
        report.pair("by ghz", rounds, OURS, other, goal)
    # The last of each, for its waits.
    return list({result.name: result for result in results}.values())


def main() -> None:
    """Run everything."""
    report = Report()
    report.section(f"SubmitRun by ghz, {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        results = submits(directory, report)
        with service(directory / "free") as server:
            asyncio.run(sessions(server, held=False))
            results.append(ghz("unary: SubmitRun, and the runs run", "unary", server))
            results.append(ghz("server stream: Run to its terminal", "server-stream", server))
            results.append(ghz("bidi: Converse, two runs each", "bidi", server))
    print(f"\n{'':36} {'calls':>6} {'calls/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs/call':>12}  not OK")
    for one in results:
        failed = ", ".join(f"{key}: {count}" for key, count in {**one.statuses, **one.errors}.items() if key != "OK")
        print(
            f"{one.name:36} {one.count:6} {one.rate:8.0f} {one.p50_ms:8.1f} {one.p99_ms:8.1f} "
            f"{one.used.cpu_seconds / max(1, one.count) * 1e6:12.0f}  {failed or 'none'}"
        )
    if not all(one.is_ok for one in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
