"""Logs: one JSON object per line, constant events, and never a prompt or a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from turnkeeper_service.process import log

Lines = Callable[[], list[dict[str, Any]]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def lines() -> Lines:
    stream = io.StringIO()
    log.configure(level="info", format="auto", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object_with_its_values_as_keys(lines: Lines) -> None:
    logger = structlog.get_logger("turnkeeper.x")
    logger.debug("not shown")
    logger.info("run finished", run_id="r-1", output_tokens=5, is_late=False)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "run finished",
        "level": "info",
        "logger": "turnkeeper.x",
        "run_id": "r-1",
        "output_tokens": 5,
        "is_late": False,
    }


def test_a_line_stays_one_line(lines: Lines) -> None:
    structlog.get_logger("x").info("stored", path="a\nb\u2028c")
    assert lines()[0]["path"] == "a\nb\u2028c"


def test_what_was_said_is_dropped_at_any_depth(lines: Lines) -> None:
    said = dict.fromkeys(log.CONTENT_KEYS, "WORDS")
    structlog.get_logger("x").info("step", **said, a={"b": [said, {"c": said}]}, prompt_bytes=5)
    (line,) = lines()
    assert "WORDS" not in json.dumps(line)
    assert line["prompt_bytes"] == 5


@pytest.mark.parametrize(
    "key", ["authorization", "Authorization", "api_key", "x-api-key", "turn_token", "token", "cookie", "client_secret"]
)
def test_secrets_are_masked_by_their_key(lines: Lines, key: str) -> None:
    structlog.get_logger("x").info("e", **{key: "hush"}, a={key: "hush"}, metadata=[(key, "hush"), ("k", "v")])
    (line,) = lines()
    assert "hush" not in json.dumps(line)
    assert line[key] == line["a"][key] == log.MASK
    assert line["metadata"] == [[key, log.MASK], ["k", "v"]]


@pytest.mark.parametrize("secret", ["tk_" + "a" * 43, "sk-proj-abcdefghijkl", "sk-ant-api03-abcdefghijkl"])
def test_secrets_are_masked_by_their_look(lines: Lines, secret: str) -> None:
    structlog.get_logger("x").info("e", note=f"it was {secret}!", other=ValueError(secret), deep=[[{"a": secret}]])
    logging.getLogger("library").warning("sent %s and Bearer abcdefghij", secret)
    text = json.dumps(lines())
    assert secret not in text
    assert "abcdefghij" not in text
    assert "it was ***!" in text


def test_exceptions_say_where_and_only_quote_what_is_ours(lines: Lines) -> None:
    def fail() -> None:
        try:
            raise ValueError("WORDS of a prompt")
        except ValueError as error:
            raise FileNotFoundError(2, "No such file", "/data/x") from error

    try:
        fail()
    except OSError:
        structlog.get_logger("x").exception("it broke")
        logging.getLogger("library").exception("it broke")
    for line in lines():
        assert "WORDS" not in json.dumps(line)
        assert "test_log.py:" in line["exception"]
        assert "builtins.ValueError" in line["exception"]
        assert "No such file or directory" in line["exception"] or "No such file: '/data/x'" in line["exception"]


def test_a_terminal_gets_text() -> None:
    stream = Terminal()
    log.configure(level="warning", format="auto", stream=stream)
    structlog.get_logger("x").info("not shown")
    structlog.get_logger("x").warning("shown", api_key="hush", a=1)
    assert "shown" in stream.getvalue()
    assert "hush" not in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_configuring_again_replaces_the_handler(lines: Lines) -> None:
    again = io.StringIO()
    log.configure(level="info", format="json", stream=again)
    structlog.get_logger("x").info("once")
    assert lines() == []
    assert len(again.getvalue().splitlines()) == 1
