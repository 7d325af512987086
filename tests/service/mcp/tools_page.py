"""Writes the table of docs/tools.md: what tool servers may send, each row held by the cases that were played."""

from __future__ import annotations

from pathlib import Path

from tests.service.mcp import test_odd_answers as played

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tools.md"
HEAD = "| a server sends | what comes of it |\n|---|---|\n"
ROWS: list[tuple[str, str, str]] = [
    (
        "bytes that are no UTF-8, half of a character as a JSON escape, NUL",
        "U+FFFD in their place",
        "byte half halves nul error structured-half",
    ),
    (
        "a mark before a message, words on its line, its log between messages, notifications that nobody knows",
        "passed over; the first such line of a connection is logged",
        "mark test_what_a_child_writes_beside_its_messages_is_passed_over",
    ),
    (
        "an answer without `jsonrpc`, without its id or with it as a text or a decimal, in a list of one, with an "
        "`error` of any form",
        "read as what it is",
        "odd-error odd-code both no-version decimal text-id no-id batch "
        "test_an_error_that_a_result_names_in_a_word_is_one",
    ),
    (
        "an answer that is no JSON, nested deeper than 200 levels, or longer than four times "
        "`limits.max_tool_result_bytes` and 64 KiB",
        "an error result for its call, at once",
        "broken deep less-deep long rather-long",
    ),
    (
        "a result in `structuredContent` alone, in `toolResult`, a bare value, or none",
        "its JSON, as text; an empty result",
        "structured structured-list beside-empty null-content old bare bare-number empty null",
    ),
    (
        "media as a `data:` URL, in base64 with line ends or without padding, of no type but a known signature, or an "
        "image that is another kind than it is called",
        "the media, by its own kind",
        "url only-url vendors-image vendors-url no-type percent sound blob test_an_image_is_called_what_it_is",
    ),
    (
        "a part of another kind, or media that cannot be read, beside others; parts with odd annotations",
        "the others, and a note that names what was left out",
        "odd-block text-of-no-kind number bad-media bad-annotations link no-resource",
    ),
    (
        "over HTTP: a message labelled as plain text or not at all, events with one line end between them",
        "read as what it is",
        "untyped plain-events",
    ),
    (
        "a version of the protocol that was never released, capabilities or hints that are none, no list of tools",
        "the version before it; as if they were absent",
        "test_a_tool_that_cannot_be_offered_takes_none_of_the_others_with_it test_a_server_without_tools_is_connected",
    ),
    (
        "a tool without a schema, with one that is null, a list, or in a text, with `anyOf` at its root, with "
        "properties that are none",
        "offered, as a tool that takes an object",
        "plain any none null-schema php kinds text described",
    ),
    (
        "a schema in words of an older draft or of none: a type that nobody knows, a keyword with a value that it "
        "cannot have, a pattern of another language, infinite numbers",
        "offered without the keywords that cannot be used; the log names them",
        "capitals draft-04 draft-03 no-draft",
    ),
    (
        "a tool without a name, or whose schema is not that of an object or is nested too deeply",
        "left out, with a line in the log, and listed by `ListTools` with the reason; the others are offered",
        "test_a_tool_that_cannot_be_offered_takes_none_of_the_others_with_it",
    ),
    (
        "over HTTP: a page, an empty body, one that breaks off, an error, a redirect to another place",
        "an error result for its call, which says so",
        "test_a_response_that_is_none_costs_its_call_alone",
    ),
    (
        "no answer to a call",
        "an error result when its time is over; what comes later is passed over",
        "test_a_server_that_does_not_answer_a_call_answers_the_next",
    ),
    (
        "its end, when it is asked for a newer version of the protocol",
        "begun with the older handshake the next time",
        "test_a_server_that_ends_when_it_is_asked_for_a_newer_protocol_is_not_asked_again",
    ),
    (
        "a list of tools that does not end, or of more than 1000",
        "what it held until then",
        "test_a_list_that_never_ends_is_ended",
    ),
    (
        "that its tools have changed, again and again, while they have not",
        "asked now and then",
        "test_a_server_that_says_without_end_that_its_tools_have_changed_is_asked_now_and_then",
    ),
    (
        "the end of its output or of its input, with or without the end of its process",
        "lost: calls in flight end as errors, it is connected again",
        "test_a_child_that_ends_its_stream_is_lost_and_connected_again",
    ),
]


def cases() -> set[str]:
    """What was played, by name."""
    tests = {name for name in vars(played) if name.startswith("test_") and "what_can_be_used" not in name}
    ways = played.WAYS.keys() - {"child", "json", "events"}
    return {*tests, *ways, *played.TEXTS, *played.CONTENT, *played.LISTED}


def table() -> str:
    """The table."""
    return HEAD + "".join(f"| {sends} | {becomes} |\n" for sends, becomes, _ in ROWS)


def page() -> str:
    """The page with the table as it is now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(HEAD)
    return before + table() + "\n" + rest.partition("\n\n")[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
