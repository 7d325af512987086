"""The three wheels as users get them: what is in them, and a conversation in an environment that holds nothing else.

`make test-dist` builds them and installs them; where that is, two variables say.
"""

from __future__ import annotations

import email
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import pytest

WHEELS = Path(os.environ["TURNKEEPER_DIST"])
BIN = Path(os.environ["TURNKEEPER_DIST_VENV"]) / "bin"
PACKAGES = {
    "turnkeeper": "turnkeeper",
    "turnkeeper_service": "turnkeeper-service",
    "turnkeeper_core": "turnkeeper-core",
}


def wheel(module: str) -> zipfile.ZipFile:
    [path] = WHEELS.glob(f"{module}-*.whl")
    return zipfile.ZipFile(path)


def metadata(module: str) -> Message:
    with wheel(module) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def environment(**more: str) -> dict[str, str]:
    """Nothing of this checkout's."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "COLUMNS": "100", **more}


def run(folder: Path, arguments: Sequence[str], given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / arguments[0], *arguments[1:]],
        cwd=folder,
        env=environment(**more),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server of the installed command; its address."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "turnkeeper", "serve", "--port", "0", "--http-address", "127.0.0.1:0", "--data-dir", "data"],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening grpc="), (folder / "log").read_text()
            yield line.split()[1].removeprefix("grpc=")
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("module", PACKAGES)
def test_a_wheel_says_what_it_is(module: str) -> None:
    about = metadata(module)
    assert about["Name"] == PACKAGES[module]
    assert about["Version"] == metadata("turnkeeper")["Version"]
    assert about["Summary"]
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Description-Content-Type"].startswith("text/markdown")
    assert len(str(about.get_payload())) > 500
    classifiers = about.get_all("Classifier") or []
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= set(classifiers)
    assert {url.split(",")[0] for url in about.get_all("Project-URL") or []} >= {"Homepage", "Changelog"}
    with wheel(module) as archive:
        names = archive.namelist()
        [licence] = [name for name in names if name.endswith("LICENSE")]
        assert b"Apache License" in archive.read(licence)
    assert f"{module}/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {module, f"{module}-{about['Version']}.dist-info"}


@pytest.mark.parametrize("module", PACKAGES)
def test_links_in_its_description_lead_somewhere_outside_this_repository(module: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", str(metadata(module).get_payload()))
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_server_wants_the_siblings_that_it_was_tested_with() -> None:
    about = metadata("turnkeeper_service")
    wanted = {need for need in about.get_all("Requires-Dist") or [] if need.startswith("turnkeeper")}
    assert wanted == {f"turnkeeper-core=={about['Version']}", f"turnkeeper[cli]=={about['Version']}"}


def test_the_server_alone_gives_the_command_too() -> None:
    with wheel("turnkeeper_service") as archive:
        [name] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "turnkeeper = turnkeeper.cli:main" in archive.read(name).decode().splitlines()


def test_the_installed_version_is_said(tmp_path: Path) -> None:
    version = metadata("turnkeeper")["Version"]
    done = run(tmp_path, ["turnkeeper", "--version"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"turnkeeper {version}\n", "")
    done = run(tmp_path, ["python", "-c", "import turnkeeper; print(turnkeeper.__version__)"])
    assert done.stdout == f"{version}\n"


def test_a_conversation(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        chat = ["turnkeeper", "chat", "--session", "s", "--model", "scripted/echo"]
        done = run(tmp_path, chat, "hello there\nand again\n", TURNKEEPER_ADDRESS=address)
        assert (done.returncode, done.stdout, done.stderr) == (0, "hello there\nand again\n", "")
        listed = run(tmp_path, ["turnkeeper", "sessions"], TURNKEEPER_ADDRESS=address)
        assert "scripted/echo" in listed.stdout
        program = (
            "import asyncio, turnkeeper\n"
            "async def main():\n"
            "    async with turnkeeper.Client() as client:\n"
            "        print(await client.run('s', 'from a program').text())\n"
            "asyncio.run(main())\n"
        )
        done = run(tmp_path, ["python", "-W", "error", "-c", program], TURNKEEPER_ADDRESS=address)
        assert (done.returncode, done.stdout, done.stderr) == (0, "from a program\n", "")


def test_the_core_alone(tmp_path: Path) -> None:
    done = run(tmp_path, ["python", "-W", "error", "-c", "import turnkeeper_core; print(turnkeeper_core.Scheduler)"])
    assert (done.returncode, done.stderr) == (0, "")
