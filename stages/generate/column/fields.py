"""Fields of an answer: from what a recipe writes to a JSON schema, a column and words.

    {difficulty: int 1..5, reason: str, tags: "list[str]", level: [easy, hard], year: int | null}

A type is `str`, `int`, `float` or `bool`, a range of numbers (`int 1..5`, `float 0..1`), a list
of one of these, or the texts that may be chosen from. `| null` lets a model say that there is
none. A field may also say what it is about: `{type: int 1..5, description: how hard it is}`.

Example:
    >>> field = parse_field("year", "int 1900..2100 | null")
    >>> field.schema["anyOf"][0], field.dtype
    ({'type': 'integer', 'minimum': 1900, 'maximum': 2100}, Int64)
    >>> parse_field("level", ["easy", "hard"]).words
    'one of "easy", "hard"'
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

_NUMBER: Final = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_TYPE: Final = re.compile(
    rf"(?P<kind>str|int|float|bool)(?:\s+(?P<low>{_NUMBER})\s*\.\.\s*(?P<high>{_NUMBER}))?"
)
_LIST: Final = re.compile(r"list\[(.*)\]")
_NULLABLE: Final = re.compile(r"\s*\|\s*(?:null|None)$")

_SCHEMAS: Final = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_DTYPES: Final = {"str": pl.String, "int": pl.Int64, "float": pl.Float64, "bool": pl.Boolean}
_WORDS: Final = {
    "str": ("a text", "texts"),
    "int": ("an integer", "integers"),
    "float": ("a number", "numbers"),
    "bool": ("true or false", "true or false"),
}
_LARGEST: Final = 2**63 - 1
_EXPECTED: Final = (
    "a type such as str, int 1..5, float, bool, list[str] or str | null, "
    "a list of texts to choose from, or {type: ..., description: ...}"
)


@dataclass(frozen=True)
class Field:
    """One field of an answer.

    Attributes:
        name: Its name.
        schema: Its JSON schema.
        dtype: The polars type of its column.
        words: What it is, for the model.
    """

    name: str
    schema: Mapping[str, Any]
    dtype: Any
    words: str


def parse_field(name: str, raw: Any) -> Field:
    """A field from what a recipe says of it.

    Args:
        name: Its name.
        raw: Its type as text, a list of texts, or a mapping of `type` and `description`.

    Raises:
        ValueError: It is neither, with what it must be.
    """
    if isinstance(raw, Mapping):
        description = raw.get("description")
        if {*raw} != {"type", "description"} or not isinstance(description, str):
            raise _mistake(name, raw)
        field = parse_field(name, raw["type"])
        words = f"{description.strip()}: {field.words}"
        return Field(name, {**field.schema, "description": description}, field.dtype, words)
    if isinstance(raw, str):
        schema, dtype, words = _parsed(name, raw.strip())
        return Field(name, schema, dtype, words)
    texts = raw if isinstance(raw, list | tuple) else ()
    if not texts or len({*texts}) < len(texts) or not all(isinstance(t, str) for t in texts):
        raise _mistake(name, raw)
    quoted = ", ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return Field(name, {"type": "string", "enum": [*texts]}, pl.String, f"one of {quoted}")


def _parsed(name: str, text: str) -> tuple[dict[str, Any], Any, str]:
    """Schema, column type and words of a type."""
    if nullable := _NULLABLE.search(text):
        schema, dtype, words = _parsed(name, text[: nullable.start()])
        return {"anyOf": [schema, {"type": "null"}]}, dtype, f"{words}, or null where there is none"
    if inner := _LIST.fullmatch(text):
        schema, dtype, words = _scalar(name, inner[1].strip(), 1)
        return {"type": "array", "items": schema}, pl.List(dtype), f"a list of {words}"
    return _scalar(name, text, 0)


def _scalar(name: str, text: str, number: int) -> tuple[dict[str, Any], Any, str]:
    match = _TYPE.fullmatch(text)
    if match is None:
        raise _mistake(name, text)
    kind, words = match["kind"], _WORDS[match["kind"]][number]
    schema: dict[str, Any] = {"type": _SCHEMAS[kind]}
    if match["low"] is not None:
        low, high = (_bound(name, text, kind, match[side]) for side in ("low", "high"))
        if low > high:
            raise ValueError(f"{name} must have a range from low to high, got {text!r}")
        schema |= {"minimum": low, "maximum": high}
        words = f"{words} from {match['low']} to {match['high']}"
    return schema, _DTYPES[kind], words


def _bound(name: str, text: str, kind: str, number: str) -> int | float:
    if kind not in ("int", "float") or (kind == "int" and not re.fullmatch(r"[+-]?\d+", number)):
        raise _mistake(name, text)
    return int(number) if kind == "int" else float(number)


def _mistake(name: str, raw: Any) -> ValueError:
    return ValueError(f"{name} must be {_EXPECTED}, got {raw!r}")


def object_schema(fields: Mapping[str, Field], *, only: bool) -> str:
    """The JSON schema of an object with all fields, as JSON text.

    Args:
        fields: The fields by name.
        only: Whether there may be no others.
    """
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: field.schema for name, field in fields.items()},
        "required": [*fields],
    }
    return json.dumps(schema | ({"additionalProperties": False} if only else {}))


def storable(value: Any) -> bool:
    """Whether a JSON value can stand in a column: no endless number, no half of a character.

    Args:
        value: What JSON text said.

    Example:
        >>> storable({"n": 3, "t": "é"}), storable(1e999), storable([10**30]), storable("\\ud800")
        (True, False, False, False)
    """
    if isinstance(value, dict):
        return all(storable(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return all(map(storable, value))
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return not isinstance(value, int | float) or (math.isfinite(value) and abs(value) <= _LARGEST)
