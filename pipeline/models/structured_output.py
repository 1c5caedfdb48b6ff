"""Answers of a stated form: pure functions from what a model wrote to a value.

Whoever holds the raw responses can read them again; nothing here sends anything,
and nothing that a model wrote is evaluated. An answer that does not have the form
raises `Unreadable`, whose text says what was expected and is shown to the model
when it is asked for a repair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final, NoReturn

from pipeline.errors import UserError
from pipeline.models.base import Decoding

Read = Callable[[str], Any]
"""From the text of an answer to a value; raises Unreadable."""

OPENINGS: Final = 64
"""Places in a text where JSON may begin that are tried: it may be long and full of braces."""
_FENCED: Final = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)
_AROUND: Final = " \t\r\n\"'`*.:"


class Unreadable(ValueError):
    """The answer has not the form that was asked for; the text says which that is."""


def reader(decoding: Decoding) -> Read:
    """The reader for what a request asked for: one of its choices, JSON, or just a text."""
    if decoding.choice:
        return one_of(decoding.choice)
    return fitting(decoding.json_schema) if decoding.json_schema is not None else str


def one_of(choices: Sequence[str]) -> Read:
    """Reads one of these texts; case, quotes and a full stop around it do not matter."""
    by_form = {_form(choice): choice for choice in choices}

    def read(text: str) -> str:
        if text in choices:
            return text
        found = by_form.get(_form(text))
        if found is None:
            raise Unreadable("the answer must be one of: " + ", ".join(choices))
        return found

    return read


def _form(text: str) -> str:
    return text.strip(_AROUND).casefold()


def json_value(text: str) -> Any:
    """The JSON value of an answer: the whole text, a fenced block, or the first object or list."""
    for candidate in (text, *_FENCED.findall(text)):
        try:
            return _decoder().decode(candidate)
        except (ValueError, RecursionError):
            continue
    for start in _openings(text):
        try:
            value, _ = _decoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        return value
    raise Unreadable("the answer must be valid JSON and nothing else")


def _openings(text: str) -> Iterator[int]:
    found = re.finditer(r"[{\[]", text)
    return (opening.start() for opening, _ in zip(found, range(OPENINGS), strict=False))


@cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def fitting(schema: str) -> Read:
    """Reads JSON that fits a JSON schema (itself a JSON text).

    Raises UserError at once when the schema is none.
    """
    validator = _validator(schema)

    def read(text: str) -> Any:
        value = json_value(text)
        error = next(iter(validator.iter_errors(value)), None)
        if error is not None:
            place = "".join(f"[{part!r}]" for part in error.absolute_path)
            rule = f"{error.validator}: {json.dumps(error.validator_value)}"
            raise Unreadable(f"the JSON does not fit the schema{place and f' at {place}'} ({rule})")
        return value

    return read


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        parsed = json.loads(schema)
        Draft202012Validator.check_schema(parsed)
    except (ValueError, SchemaError) as error:
        raise UserError("this is no JSON schema", where=schema[:80], why=str(error)) from None
    return Draft202012Validator(parsed)
