"""Loads a server of its own with ghz and prints a table: ``python -m bench.ghz``. Exits 1 if a call was not OK."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from bench import load
from bench.processes import Process, address_of, baseline, service
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
    cpu_us: float
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
    cpu = (server.used() - before).cpu_seconds
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
        cpu_us=cpu / max(1, found["count"]) * 1e6,
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


def main() -> None:
    """Run everything."""
    results: list[Result] = []
    with baseline("bare") as server, tempfile.TemporaryDirectory() as directory:
        protoset = Path(directory) / "bare.protoset"
        write_protoset(protoset)
        results.append(ghz("unary: a bare server", "unary", server, protoset))
    with tempfile.TemporaryDirectory() as directory:
        with service(Path(directory) / "held") as server:
            asyncio.run(sessions(server, held=True))
            results.append(ghz("unary: SubmitRun into a line", "unary", server))
        with service(Path(directory) / "free") as server:
            asyncio.run(sessions(server, held=False))
            results.append(ghz("unary: SubmitRun, and the runs run", "unary", server))
            results.append(ghz("server stream: Run to its terminal", "server-stream", server))
            results.append(ghz("bidi: Converse, two runs each", "bidi", server))
    print(f"{'':36} {'calls':>6} {'calls/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs/call':>12}  not OK")
    for one in results:
        failed = ", ".join(f"{key}: {count}" for key, count in {**one.statuses, **one.errors}.items() if key != "OK")
        print(
            f"{one.name:36} {one.count:6} {one.rate:8.0f} {one.p50_ms:8.1f} {one.p99_ms:8.1f} {one.cpu_us:12.0f}  "
            f"{failed or 'none'}"
        )
    print(f"SubmitRun by ghz, service / bare: {results[1].rate / results[0].rate:.2f} (goal: at least 0.50)")
    print(f"the same by CPU for each, which the machine's load moves less: {results[0].cpu_us / results[1].cpu_us:.2f}")
    if not all(one.is_ok for one in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
