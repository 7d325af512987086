"""What is made of a model's words, or of a prompt, to be a title (C-98)."""

from __future__ import annotations

import pytest

from turnkeeper.v1 import content_pb2
from turnkeeper_service.engine.titles import prompt_text, title_of_answer, title_of_prompt

FIFTY = "a" * 50


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Fixing the parser", "Fixing the parser"),
        ("  two\nlines\r\n and\ttabs ", "two lines and tabs"),
        ("<think>The user\nwants a title.</think>\nFixing it", "Fixing it"),
        ("<THINK>a</THINK>One <think>b</think>title", "One title"),
        ("<thinking>hm</thinking>One title", "One title"),
        ("</think>One title", "One title"),
        ("<think>One title", "One title"),
        ("<think>nothing but thoughts</think> \n", ""),
        ("", ""),
        (FIFTY, FIFTY),
        (FIFTY + "a", "a" * 49 + "…"),
        ("word " * 20, "word word word word word word word word word word…"),
        ("語" * 25, "語" * 25),
        ("語" * 26, "語" * 24 + "…"),
        ("e\u0301" * 50, "e\u0301" * 50),
        ("e\u0301" * 51, "e\u0301" * 49 + "…"),
    ],
)
def test_an_answer_becomes_one_line_of_fifty_columns(answer: str, title: str) -> None:
    assert title_of_answer(answer) == title


def test_a_prompt_is_a_title_as_far_as_it_fits_and_keeps_its_tags() -> None:
    assert title_of_prompt("what does\n<think> mean?") == "what does <think> mean?"
    assert title_of_prompt("tell me " * 100_000) == "tell me tell me tell me tell me tell me tell me t…"


def test_the_text_of_a_prompt_is_that_of_its_text_parts() -> None:
    media = content_pb2.Part(media=content_pb2.Media(mime_type="image/png", data=b"x"))
    text = [content_pb2.Part(text=content_pb2.Text(text=words)) for words in (" one", "two ")]
    assert prompt_text([media, *text]) == "one\ntwo"
    assert prompt_text([media, content_pb2.Part(text=content_pb2.Text(text=" \n"))]) == ""
