"""Structured output: whether an answer is the JSON that was asked for, and what to tell the model if not (U-8)."""

from __future__ import annotations

import asyncio
import json
import re
from itertools import islice
from typing import NoReturn

from jsonschema.exceptions import ValidationError, best_match

from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.providers.formats.output_schema import ASK
from turnkeeper_service.tools.json_schema import BadSchemaError, validator, words_for

MAX_OUTPUT_BYTES = 4 << 20
"""Longest output: a terminal carries it beside the text that it was found in."""
MAX_CHARACTERS_AT_ONCE = 16 << 10
"""A longer answer is checked beside the event loop."""
MAX_ERRORS_LOOKED_AT = 100
MAX_BRACKETS_TRIED = 200
BLANK = " \t\r\n\f\v\x85\xa0\u2028\u2029\u200b\ufeff"
"""What stands around an answer and is none of it: white space and the mark of a byte order."""
_THOUGHTS = re.compile(r"\A.*</(?:think|thinking|thought|thoughts|reasoning)>", re.DOTALL | re.IGNORECASE)
"""What a model thinks aloud before it answers, where nobody told it from the answer; its beginning may be missing."""
_BRACKET = re.compile(r"[{\[]")
WORDS = "The answer does not have the form that was asked for."


class OutputMismatchError(Exception):
    """An answer is not what was asked for: the message is for the model.

    ``detail`` is for the run's outcome and repeats nothing of the answer. ``is_final``: to ask again is of no use.
    """

    def __init__(self, message: str, detail: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.detail = detail
        self.is_final = is_final


class NotJsonError(OutputMismatchError):
    """An answer is no JSON as it stands."""


class TypedOutput:
    """The output of one turn; without a schema every answer will do."""

    def __init__(self, plan: TurnPlan) -> None:
        self._plan = plan
        self._num_left = plan.max_output_reprompts - (plan.resume.num_reprompts if plan.resume is not None else 0)
        self._text = self._json = ""
        self.mismatch: OutputMismatchError | None = None
        """What is wrong with the answer that was checked last."""

    async def check(self, text: str) -> None:
        """Look at an answer."""
        schema_json = self._plan.output_schema_json
        if not schema_json:
            return
        self._text, self._json, self.mismatch = text, "", None
        try:
            if len(text) <= MAX_CHARACTERS_AT_ONCE:
                self._json = output_of(text, schema_json)
            else:
                self._json = await asyncio.to_thread(output_of, text, schema_json)
        except OutputMismatchError as error:
            self.mismatch = error

    def json_of(self, text: str) -> str:
        """The JSON in the answer that was checked last, if this is its text and it will do."""
        return self._json if text == self._text else ""

    @property
    def may_ask_again(self) -> bool:
        """Whether the model is asked again for what it did not give."""
        return self._num_left > 0 and self.mismatch is not None and not self.mismatch.is_final

    def ask_again(self) -> str:
        """What to tell the model; counts."""
        self._num_left -= 1
        words = self._plan.output_reprompt or WORDS
        return f"{words}\n\nWhat is wrong: {self.mismatch}\n\n{ASK}\n{self._plan.output_schema_json}"


def output_of(text: str, schema_json: str) -> str:
    """The one JSON value of an answer: all of it, or what its one fenced block is, or what stands in its prose.

    Raises OutputMismatchError.
    """
    answer = text.strip(BLANK)
    if answer[:1] not in ("{", "["):
        answer = _THOUGHTS.sub("", answer).strip(BLANK)
    if len(answer.encode()) > MAX_OUTPUT_BYTES:
        problem = f"the answer is longer than {MAX_OUTPUT_BYTES} bytes"
        raise OutputMismatchError(problem, problem)
    blocks = [] if answer[:1] in ("{", "[") else _fenced(answer)
    output = blocks[0].strip(BLANK) if len(blocks) == 1 else answer
    try:
        _check(output, schema_json)
    except NotJsonError:
        found = _in_prose(answer)
        if len(found) > 1:
            # An example beside the answer, or a number in brackets: what fits is the answer, if nothing else does.
            found = [one for one in found if _fits(one, schema_json)]
        if len(found) != 1:
            raise
        output = found[0]
        _check(output, schema_json)
    return output


def _check(output: str, schema_json: str) -> None:
    try:
        value = json.loads(output, parse_constant=_refuse)
    except ValueError as error:
        place = f" ({error.msg}, line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise NotJsonError(f"the answer is not JSON{place}", f"the answer is not JSON{place}") from None
    except RecursionError:
        raise _too_deep() from None
    try:
        # The best of the first ones: a long answer may have as many errors as it has items.
        found = best_match(islice(validator(schema_json).iter_errors(value), MAX_ERRORS_LOOKED_AT))
    except RecursionError:
        raise _too_deep() from None
    except Exception as error:
        why = str(error) if isinstance(error, BadSchemaError) else "it refers to what is not in it"
        problem = f"the schema cannot be used: {why}"
        raise OutputMismatchError(problem, problem, is_final=True) from None
    if found is not None:
        raise _mismatch(found)


def _fits(output: str, schema_json: str) -> bool:
    try:
        _check(output, schema_json)
    except OutputMismatchError as error:
        if error.is_final:
            raise
        return False
    return True


def _in_prose(text: str) -> list[str]:
    """The objects and arrays between other words, the outermost ones. So many brackets are tried, and no more."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    found: list[str] = []
    place = 0
    for _ in range(MAX_BRACKETS_TRIED):
        bracket = _BRACKET.search(text, place)
        if bracket is None:
            break
        start, place = bracket.start(), bracket.end()
        try:
            _, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        found.append(text[start:place])
    return found


def _mismatch(error: ValidationError) -> OutputMismatchError:
    rule = "/".join(str(part) for part in error.absolute_schema_path)
    return OutputMismatchError(words_for(error, "the answer"), f"the answer does not match the schema at {rule}")


def _too_deep() -> OutputMismatchError:
    problem = "the answer is nested too deeply"
    return OutputMismatchError(problem, problem)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _fenced(text: str) -> list[str]:
    """The blocks between lines of three backticks that say that they are JSON, or nothing."""
    blocks: list[str] = []
    block: list[str] | None = None
    is_json = False
    for line in text.split("\n"):
        fence = line.strip().lower()
        if block is None:
            if fence.startswith("```"):
                block, is_json = [], fence in ("```", "```json")
        elif fence == "```":
            if is_json:
                blocks.append("\n".join(block))
            block = None
        else:
            block.append(line)
    return blocks
