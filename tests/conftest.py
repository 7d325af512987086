"""Fixtures and hooks of all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.leaks import no_leaks, opened_once
from tests.support.recordings import Recordings
from tests.support.spec import SpecRows

__all__ = ["no_leaks", "opened_once"]

RECORDINGS = pytest.StashKey[Recordings]()
RECORDINGS_WANTED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--spec-results", type=Path, default=None, help="write the spec rows that passed to this file")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell that runs the tests in the background ignores Ctrl-C, and what they start would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[RECORDINGS] = Recordings.from_environment()
    config.pluginmanager.register(SpecRows(config.getoption("--spec-results")), "spec-rows")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    line = config.stash[RECORDINGS].line() if config.stash.get(RECORDINGS_WANTED, False) else None
    if line is not None:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def recordings(pytestconfig: pytest.Config) -> Recordings:
    """The recorded provider streams and the counters that the summary prints."""
    pytestconfig.stash[RECORDINGS_WANTED] = True
    return pytestconfig.stash[RECORDINGS]
