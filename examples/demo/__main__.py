"""The director: starts everything, tells what happens, kills the server in mid-stream, and checks the promises."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from turnkeeper import Client, Event, TurnkeeperError

from . import desk
from .promises import BrokenPromiseError, Truth, check_all
from .record import Record
from .screen import Screen
from .server import ServerError, ServerProcess
from .talk import outcome_name
from .vendor import RealProvider, Vendor, clean_environment

LIMIT_SECONDS, PATIENT_LIMIT_SECONDS = 100.0, 900.0
"""A demo that takes longer has found a hang: on the loopback, and with a real provider."""


class CallerError(Exception):
    """The caller did not come to its end."""


class Demo:
    """One performance in a folder of its own."""

    def __init__(self, folder: Path, screen: Screen, real: RealProvider | None) -> None:
        self._folder = folder
        self._screen = screen
        self._real = real
        self.server: ServerProcess | None = None

    async def perform(self) -> str:
        """Run it; returns what it counted. Raises what went wrong."""
        async with AsyncExitStack() as stack:
            vendor = None
            if self._real is None:
                vendor = Vendor(os.environ)
                await stack.enter_async_context(vendor.upstream)
                self._screen.line("vendor", "", "plays", vendor.title)
                config, models = vendor.config, ("openai/demo", "anthropic/demo", desk.MODEL)
            else:
                config, models = self._real.config, (f"real/{self._real.model}",) * 3
                self._screen.line("vendor", "", "is", f"{self._real.model} at {self._real.base_url}")
            server = self.server = ServerProcess(self._folder, config + desk.config(self._folder))
            stack.push_async_callback(server.stop)
            await self._start(server, "serves")
            record = await self._call(server, models)
            truth = await self._read(server, record, vendor)
            self._show(record, truth)
            code = await server.stop()
            if code != 0:
                raise ServerError(f"the server drained and ended with exit code {code}")
            return f"{len(record.submitted)} runs, {truth.num_terminals} terminals"

    async def _start(self, server: ServerProcess, what: str) -> None:
        seconds = await server.start()
        self._screen.line("server", "", what, f"gRPC {server.address}, process {server.pid}, SQLite, {seconds:.1f} s")

    async def _call(self, server: ServerProcess, models: tuple[str, str, str]) -> Record:
        """Let the caller talk, and do to the server what it gives the cue for."""
        path = self._folder / "record.json"
        words = [server.address, "--record", str(path)]
        words += ["--model", models[0], "--second-model", models[1], "--desk-model", models[2]]
        caller = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.demo.caller", *words, *(["--patient"] if self._real else [])),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=clean_environment() | {"GRPC_VERBOSITY": "NONE"},
        )
        assert caller.stdout is not None
        librarian = desk.Librarian(server.address, lambda *words: self._screen.line("librarian", *words))
        working: asyncio.Task[None] | None = None
        try:
            async for line in caller.stdout:
                told = json.loads(line)
                if told.get("cue") == "librarian":
                    working = asyncio.create_task(librarian.work(), name="librarian")
                    # Without the librarian the caller would wait for ever.
                    working.add_done_callback(lambda _: _end(caller))
                elif told.get("cue") == "kill":
                    await server.kill()
                    self._screen.line("server", "", "killed", f"kill -9 {server.pid}")
                    await self._start(server, "is back")
                    librarian.is_back.set()
                elif told["what"] == "act":
                    self._screen.title(told["text"])
                else:
                    self._screen.line(**told)
            code = await caller.wait()
        finally:
            _end(caller)
            await caller.wait()
            if working is not None:
                working.cancel()
                await asyncio.wait([working])
        if working is not None and not working.cancelled():
            working.result()
        if code != 0:
            raise CallerError(f"the caller ended with exit code {code}")
        record = Record.load(path)
        record.answered = librarian.answered
        return record

    async def _read(self, server: ServerProcess, record: Record, vendor: Vendor | None) -> Truth:
        """Read over gRPC, as anybody could, what there is when all is over."""
        async with Client(server.address) as client:

            async def log(session_id: str) -> list[Event]:
                items = client.watch(session_id, 0, deltas=False, history_only=True)
                return [item async for item in items if isinstance(item, Event)]

            return Truth(
                events={name: await log(name) for name in record.events},
                runs={name: [run async for run in client.list_runs(name)] for name in record.events},
                messages={name: [message async for message in client.list_messages(name)] for name in record.events},
                waiting=[found.approval_id for name in record.events async for found in client.list_approvals(name)],
                asked=vendor.asked if vendor is not None else None,
            )

    def _show(self, record: Record, truth: Truth) -> None:
        self._screen.title("every run, and its one terminal")
        outcomes = truth.outcomes()
        order = sorted(record.submitted, key=lambda sent: sent.accept_sequence)
        rows = []
        for number, sent in enumerate(order, 1):
            found = outcomes.get(sent.run_id)
            ended = outcome_name(found) if found is not None else "NONE"
            about = f"into {found.fold.into_run_id}" if found is not None and found.fold.into_run_id else sent.prompt
            tokens = str(found.usage.own.output_tokens) if found is not None else ""
            rows.append((str(number), sent.session_id, sent.run_id, ended, tokens, about))
        self._screen.table(("#", "SESSION", "RUN", "TERMINAL", "TOKENS", "PROMPT"), rows)
        self._screen.title("the promises, checked over gRPC")
        for name, facts in check_all(record, truth):
            self._screen.fact(name, facts)


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def demonstrate(screen: Screen, folder: Path, real: RealProvider | None) -> int:
    """The exit code: 0 if every promise held."""
    demo = Demo(folder, screen, real)
    limit = PATIENT_LIMIT_SECONDS if real is not None else LIMIT_SECONDS
    try:
        async with asyncio.timeout(limit):
            counted = await demo.perform()
    except BrokenPromiseError as error:
        wrong = f"BROKEN PROMISE: {error}"
    except TimeoutError:
        wrong = f"not over after {limit:.0f} s"
    except (CallerError, ServerError, TurnkeeperError, OSError) as error:
        wrong = str(error)
    else:
        screen.verdict(f"demo: {counted}, OK", is_good=True)
        return 0
    for line in demo.server.log if demo.server is not None else ():
        print(f"server.log | {line}")
    screen.verdict(f"demo: FAILED, {wrong} (its files are in {folder})", is_good=False)
    return 1


def main() -> int:
    """Perform; the folder is kept only where something went wrong."""
    try:
        real = RealProvider.from_environment(os.environ)
    except ValueError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="turnkeeper-demo-"))
    code = 1
    try:
        code = asyncio.run(demonstrate(Screen(), folder, real))
    except KeyboardInterrupt:
        code = 130
    finally:
        if code in (0, 130):
            shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
