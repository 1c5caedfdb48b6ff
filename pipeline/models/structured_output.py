"""Answers of a required form: pure functions from the text of an answer to a value.

Whoever has the raw responses can parse them again; nothing here sends anything, and no
text of a model is evaluated. An answer without the form raises `Unreadable`, whose text
says what was expected. It is shown to the model when it is asked for a repair, so these
texts enter the keys of requests: a change would send all repairs again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final, NoReturn

from pipeline.errors import UserError
from pipeline.models.base import Decoding

Parser = Callable[[str], Any]
"""From the text of an answer to a value; raises Unreadable."""

MAX_JSON_STARTS: Final = 64
"""Braces and brackets of a text at which JSON is tried: a text may be long and full of them."""
_FENCED: Final = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)
_DECORATION: Final = " \t\r\n\"'`*.:"


class Unreadable(ValueError):
    """The answer does not have the required form; the text says which that is."""


def parser_for(decoding: Decoding) -> Parser:
    """The parser for a request's decoding: one of its choices, JSON, or the text as it is."""
    if decoding.choice:
        return choice_parser(decoding.choice)
    return json_parser(decoding.json_schema) if decoding.json_schema is not None else str


def choice_parser(choices: Sequence[str]) -> Parser:
    """A parser for one of these texts; case, quotes and a full stop do not matter.

    Example:
        >>> choice_parser(["Yes", "No"])(' "yes".')
        'Yes'
    """
    by_form = {_bare(choice): choice for choice in choices}

    def parse(text: str) -> str:
        if text in choices:
            return text
        choice = by_form.get(_bare(text))
        if choice is None:
            raise Unreadable("the answer must be one of: " + ", ".join(choices))
        return choice

    return parse


def _bare(text: str) -> str:
    return text.strip(_DECORATION).casefold()


def json_value(text: str) -> Any:
    """The JSON value of an answer: the complete text, a fenced block, or the first object or list.

    Raises:
        Unreadable: There is no JSON in it.

    Example:
        >>> json_value('Sure! {"score": 4}')
        {'score': 4}
    """
    for candidate in (text, *_FENCED.findall(text)):
        try:
            return _decoder().decode(candidate)
        except (ValueError, RecursionError):
            continue
    for start in _json_starts(text):
        try:
            value, _ = _decoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        return value
    raise Unreadable("the answer must be valid JSON and nothing else")


def _json_starts(text: str) -> Iterator[int]:
    matches = re.finditer(r"[{\[]", text)
    return (match.start() for match, _ in zip(matches, range(MAX_JSON_STARTS), strict=False))


@cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON must hold finite numbers, got {name}")


def json_parser(schema: str) -> Parser:
    """A parser for JSON that matches a JSON schema (itself a JSON text).

    Raises:
        UserError: The schema is not a JSON schema. It is raised at once, not by the parser.

    Example:
        >>> json_parser('{"required": ["score"]}')('{"score": 4}')
        {'score': 4}
    """
    validator = _validator(schema)

    def parse(text: str) -> Any:
        value = json_value(text)
        error = next(iter(validator.iter_errors(value)), None)
        if error is not None:
            path = "".join(f"[{part!r}]" for part in error.absolute_path)
            rule = f"{error.validator}: {json.dumps(error.validator_value)}"
            raise Unreadable(f"the JSON does not fit the schema{path and f' at {path}'} ({rule})")
        return value

    return parse


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        parsed = json.loads(schema)
        Draft202012Validator.check_schema(parsed)
    except (ValueError, SchemaError) as error:
        raise UserError(
            f"json_schema must be a JSON schema, got {schema[:80]}", why=str(error)
        ) from None
    return Draft202012Validator(parsed)
