"""The values that samplers draw for one row.

A value is drawn with random numbers that are a function of the seed, the row and the column, so
that neither the order of the rows nor another column changes it.
"""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import OptionError, UserError
from stages._llm.templates import NullValue, Template, TemplateMistake, compile_template, condition
from stages.generate.sample.samplers import (
    Categorical,
    Constant,
    Expression,
    FromFile,
    Integer,
    Samplers,
    Uniform,
    several,
)


class SampledFile:
    """The lines of one of the files that are drawn from.

    Args:
        path: A text file, or JSON Lines (`.jsonl`, `.ndjson`); also with `.gz`.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    @cached_property
    def lines(self) -> list[tuple[int, str]]:
        """The lines that are not blank, each with its number.

        Raises:
            UserError: There are none, or the file is no text.
        """
        opened = gzip.open if self.path.suffix == ".gz" else open
        try:
            with opened(self.path, "rt", encoding="utf-8-sig") as file:
                lines = [(number, line.strip()) for number, line in enumerate(file, 1)]
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            what = "a file to draw from must be text in UTF-8"
            raise UserError(what, where=str(self.path), why=str(error)) from None
        lines = [(number, line) for number, line in lines if line]
        if not lines:
            what = "a file to draw from must have lines, got none"
            raise UserError(what, where=str(self.path))
        return lines

    def value(self, position: int, field: str | None) -> str | None:
        """A line, or a field of the object in it, as text.

        Args:
            position: Which of the lines.
            field: The field; None for the whole line.

        Raises:
            UserError: The line is no object, or does not have the field.
        """
        number, line = self.lines[position]
        if field is None:
            return line
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or field not in values:
            what = f"every line must be a JSON object with {field!r}, got {line[:60]!r}"
            raise UserError(what, where=f"{self.path}:{number}")
        value = values[field]
        return value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False)


def file_of(name: str | None, files: Sequence[str], column: str) -> str:
    """The path of a file by its name.

    Args:
        name: Its name, with or without its endings; None where there is one file alone.
        files: The paths.
        column: The column that is drawn from it.

    Raises:
        OptionError: There is no such file, or several.
    """
    matching = [
        path for path in files if name in (None, Path(path).name, Path(path).name.partition(".")[0])
    ]
    if len(matching) != 1:
        there = ", ".join(Path(path).name for path in files) or "none"
        what = f"must name one of the files ({there}), got {name or 'no name'!r}"
        raise OptionError(f"columns.{column}.file", what, hint="files: [personas.jsonl]")
    return matching[0]


class Sampler:
    """Draws the values of rows.

    Args:
        columns: The samplers of each column.
        files: The files that are drawn from.
        seed: The seed.
    """

    def __init__(self, columns: Mapping[str, Samplers], files: Sequence[str], seed: int) -> None:
        self.columns, self.seed = columns, seed
        self._files = {path: SampledFile(path) for path in files}

    def draw(self, row: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the columns.

        Args:
            row: What tells the row from others: its id, or its number.
            values: What the row has already.

        Raises:
            UserError: An expression cannot be read as what it should be, or a file.
        """
        drawn: dict[str, Any] = {}
        for column, samplers in self.columns.items():
            seen = {**values, **drawn}
            chosen = next((s for s in several(samplers) if self._holds(s.when, seen, row)), None)
            drawn[column] = None if chosen is None else self._value(chosen, column, seen, row)
        return drawn

    def _holds(self, when: str | None, values: Mapping[str, Any], row: str) -> bool:
        """Whether a condition holds; a comparison with a null does not."""
        if when is None:
            return True
        return _rendered(condition(when), values, f"when: {when}", row) == "true"

    def _value(self, sampler: Any, column: str, values: Mapping[str, Any], row: str) -> Any:
        generator = random.Random(f"{self.seed} {row} {column}")
        match sampler:
            case Categorical():
                return generator.choices(sampler.values, sampler.weights or None)[0]
            case Integer():
                return generator.randint(sampler.low, sampler.high)
            case Uniform(low=low, high=high):
                number = low + (high - low) * generator.random()
                return number if sampler.decimals is None else round(number, sampler.decimals)
            case Constant(value=value):
                return value
            case FromFile():
                return self._line(sampler, column, row)
        return _read(sampler, values, column, row)

    def _line(self, sampler: FromFile, column: str, row: str) -> str | None:
        path = file_of(sampler.file, [*self._files], column)
        # Not the column: what is drawn from one file for one row is of one line.
        generator = random.Random(f"{self.seed} {row} {Path(path).name} {sampler.number}")
        file = self._files[path]
        return file.value(generator.randrange(len(file.lines)), sampler.field)


def _rendered(template: Template, values: Mapping[str, Any], what: str, row: str) -> str | None:
    try:
        return template.render(values)
    except NullValue:
        return None
    except TemplateMistake as error:
        raise UserError(f"{what} {error}", where=f"row {row}") from None


def _read(sampler: Expression, values: Mapping[str, Any], column: str, row: str) -> Any:
    """The value of an expression; null where it would write a null."""
    text = _rendered(compile_template(sampler.template), values, column, row)
    if text is None or sampler.type == "text":
        return text
    try:
        return _PARSERS[sampler.type](text.strip())
    except (KeyError, ValueError):
        what = f"{column} must be of type {sampler.type}, got {text[:60]!r}"
        raise UserError(what, where=f"row {row}") from None


def _integer(text: str) -> int:
    value = int(text)
    if abs(value) >= 2**63:
        raise ValueError
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


_PARSERS: dict[str, Any] = {
    "integer": _integer,
    "number": _number,
    "boolean": lambda text: {"true": True, "false": False}[text.lower()],
}
