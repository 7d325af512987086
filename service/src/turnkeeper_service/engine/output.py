"""Structured output: whether an answer is the JSON that was asked for, and what to tell the model if not (U-8)."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from typing import NoReturn

from jsonschema.exceptions import ValidationError, best_match

from turnkeeper_service.tools.json_schema import BadSchemaError, validator, words_for

from .plan import TurnPlan

MAX_OUTPUT_BYTES = 4 << 20
"""Longest output: a terminal carries it beside the text that it was found in."""
MAX_CHARACTERS_AT_ONCE = 16 << 10
"""A longer answer is checked beside the event loop."""
MAX_ERRORS_LOOKED_AT = 100
WORDS = "The answer does not have the form that was asked for."


class OutputMismatchError(Exception):
    """An answer is not what was asked for: the message is for the model.

    ``detail`` is for the run's outcome and repeats nothing of the answer. ``is_final``: to ask again is of no use.
    """

    def __init__(self, message: str, detail: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.detail = detail
        self.is_final = is_final


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
        form = "Answer again with JSON alone that matches this JSON Schema, without any other text:"
        return f"{words}\n\nWhat is wrong: {self.mismatch}\n\n{form}\n{self._plan.output_schema_json}"


def output_of(text: str, schema_json: str) -> str:
    """The JSON that an answer is, or that stands in its one fenced block. Raises OutputMismatchError."""
    output = text.strip()
    blocks = [] if output[:1] in ("{", "[") else _fenced(output)
    if len(blocks) == 1:
        output = blocks[0].strip()
    if len(output.encode()) > MAX_OUTPUT_BYTES:
        problem = f"the answer is longer than {MAX_OUTPUT_BYTES} bytes"
        raise OutputMismatchError(problem, problem)
    try:
        value = json.loads(output, parse_constant=_refuse)
    except ValueError as error:
        place = f" ({error.msg}, line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise OutputMismatchError(f"the answer is not JSON{place}", f"the answer is not JSON{place}") from None
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
    return output


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
