"""Answers of a required form: pure functions from the text of an answer to a value.

Whoever has the raw responses can parse them again; nothing here sends anything, and no
text of a model is evaluated. An answer without the form raises `Unreadable`, whose text
says what was expected. It is shown to the model when it is asked for a repair, so these
texts enter the keys of requests: a change would send all repairs again.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final, NoReturn

from pipeline.errors import UserError
from pipeline.models.base import Decoding

Parser = Callable[[str], Any]
"""From the text of an answer to a value; raises Unreadable."""

MAX_JSON_STARTS: Final = 64
"""Braces and brackets of a text at which JSON is tried: a text may be long and full of them."""
_FENCED: Final = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)
_DECORATION: Final = " \t\r\n\"'`*.:_#>[](){}"
_CLOSING_TAG: Final = re.compile(r"</\w+>")
_LABEL: Final = (
    r"(?:^|[.!?][ \t]|<)[^\w\n]*(?:(?:my|the)[ \t]+)?(?:(?:final|overall)[ \t]+)?"
    r"(?:answer|verdict|choice|judge?ment|decision|label|score|rating|grade|评分|答案|boxed)"
    r"(?:[ \t]+is\b)?\W*?"
)


class Unreadable(ValueError):
    """The answer does not have the required form; the text says which that is."""


def parser_for(decoding: Decoding) -> Parser:
    """The parser for a request's decoding: one of its choices, JSON, or the text as it is."""
    if decoding.choice:
        return choice_parser(decoding.choice)
    return json_parser(decoding.json_schema) if decoding.json_schema is not None else str


def choice_parser(choices: Sequence[str]) -> Parser:
    """A parser for one of these texts; case, quotes and marks around it do not matter.

    Beside the bare text it is read behind a label ("**Answer:** yes", the last one counts),
    on a line of its own at the end, or at the beginning with a reason after a comma, a full
    stop, a colon or a dash. Of numbers the highest may follow ("Score: 4/5").

    Args:
        choices: What may be answered.

    Example:
        >>> parse = choice_parser(["Yes", "No"])
        >>> parse(' "yes".'), parse("No, it is another."), parse("Both agree.\\n\\n**Answer:** Yes")
        ('Yes', 'No', 'Yes')
    """
    by_form = {_bare(choice): choice for choice in choices}

    def parse(text: str) -> str:
        if text in choices:
            return text
        choice = by_form.get(_bare(text))
        if choice is None:
            forms = _chosen(text, tuple(by_form))
            if len(forms) != 1:
                raise Unreadable("the answer must be one of: " + ", ".join(choices))
            choice = by_form[forms.pop()]
        return choice

    return parse


def _chosen(text: str, forms: tuple[str, ...]) -> set[str]:
    """The choices that a longer answer makes: one, unless it is unclear."""
    labelled, opening = _choice_patterns(forms)
    plain = _CLOSING_TAG.sub("", unicodedata.normalize("NFKC", text).strip()).casefold()
    labels = labelled.findall(plain)
    if labels:
        return {labels[-1]}
    first, last = opening.match(plain), _bare(plain.rpartition("\n")[2])
    return {*([first[1]] if first else ()), *({last} & {*forms})}


@cache
def _choice_patterns(forms: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A choice behind a label, and one at the beginning of a text."""
    named = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    numbers = [int(form) for form in forms if form.isdecimal()]
    are_numbers = len(numbers) == len(forms)
    scale = rf"(?:[ \t]*(?:/|out of)[ \t]*{max(numbers)}(?![\w/]|[.,]\d))?" if are_numbers else ""
    chosen = rf"(?<![\w.,/+-])({named}){scale}(?!\w|[ \t]*%)"

    def before(marks: str) -> str:
        # The end of the line, or a reason that begins with neither a number nor a choice.
        other = rf"\W*(?:(?:or|and)\b\W*)?(?:{named})\b"
        return rf"(?=\W*$|(?:{marks}|[ \t]+[-–—(])[ \t]*(?!{other})\D)"

    # "1. It is good." may be the first of several.
    opening = rf"[^\w\n+-]*{chosen}{before('[,;]' if are_numbers else '[,.;:!]')}"
    labelled = rf"{_LABEL}{chosen}{before('[,.;:!]')}"
    return re.compile(labelled, re.MULTILINE), re.compile(opening, re.MULTILINE)


def _bare(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip(_DECORATION).casefold()


def json_value(text: str, fits: Callable[[Any], bool] | None = None) -> Any:
    """The JSON value of an answer: the complete text, or the last object or list that fits.

    Models repeat and correct themselves: the last fenced block counts before what stands
    outside of blocks. Without any that fits, it is the first.

    Args:
        text: The answer.
        fits: Whether a value is what was asked for; by default each is.

    Raises:
        Unreadable: There is no JSON in it.

    Example:
        >>> json_value('Sure! {"score": 4}')
        {'score': 4}
        >>> json_value('{"score": 4} No: {"score": 3} [end]')
        {'score': 3}
    """
    text = text.lstrip("\ufeff")
    fits = fits or (lambda _: True)
    values: list[Any] = []
    with suppress(ValueError, RecursionError):
        values = [_decoder().decode(text)]
    if not values or not fits(values[0]):
        fenced = [value for block in _FENCED.findall(text) for value in _json_values(block, fits)]
        values += fenced if any(map(fits, fenced)) else _json_values(text, fits)
    if not values:
        raise Unreadable("the answer must be valid JSON and nothing else")
    return next((value for value in reversed(values) if fits(value)), values[0])


def _json_values(text: str, fits: Callable[[Any], bool]) -> Iterator[Any]:
    """The objects and lists of a text; what stands within one only where that does not fit."""
    end = 0
    for start in _json_starts(text):
        if start < end:
            continue
        try:
            value, stop = _decoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        yield value
        end = stop if fits(value) else end


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
        value = json_value(text, validator.is_valid)
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
