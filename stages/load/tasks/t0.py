"""promptsource's templates as T0 uses them.

T0: Multitask Prompted Training Enables Zero-Shot Task Generalization (Sanh et al. 2021,
arXiv:2110.08207; bigscience-workshop/promptsource).

As in the paper: all templates of a data set take part; whole groups of tasks are held out.

As in the authors' code: Jinja with one `|||` between prompt and target, both stripped; the same
marks in a row's values are no separator; a template that gives fewer than two halves does not
apply to the row; `answer_choices` is a template of its own; filters `choice`, `most_frequent` and
`highlight`, `zip`.

Ours: a row is rendered under one template, so that each of n templates has min(rows, max_rows) / n
rows: the authors' weights jump at 500,000 rows, where a data set suddenly counts a tenth. `choice`
draws by seed, row and template. Values are never cut. A field that a row does not have, and that
the template shows, is a drop and no empty text; `answer_choices[-1]` is no choice. Templates are
rendered in a sandbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, SupportsIndex

import jinja2
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.types import Count, option_group
from stages.load._chat.turns import is_missing
from stages.load.tasks.drawing import Draws
from stages.load.tasks.lint import SEPARATOR
from stages.load.tasks.rendering import (
    Budget,
    Drop,
    InvalidRow,
    Rendered,
    Row,
    RowContext,
    Template,
    checked,
)
from stages.load.tasks.task_list import TaskEntry
from stages.load.tasks.template_files import JinjaSource

_CHOICES: Final = "answer_choices"
_ESCAPED: Final = "\ue000\ue001\ue000"
"""What stands for the separator within a row's values: characters that no text has."""


@option_group
class T0:
    """promptsource's templates.

    Attributes:
        max_rows: The most training rows of a data set; each of its n templates has one n-th.
        original_only: Whether templates that ask for something else than what the data set was
            made for are left out, as in T0's evaluation.
    """

    name: Literal["t0"] = "t0"
    max_rows: Count = 500_000
    original_only: bool = False


class RowChoices:
    """The random choices of the template that is being rendered."""

    def __init__(self) -> None:
        self._draws: Draws | None = None
        self._template, self._count = "", 0

    def of(self, draws: Draws, template: str) -> None:
        """Begin with a row under a template."""
        self._draws, self._template, self._count = draws, template, 0

    def choice(self, values: Iterable[Any]) -> Any:
        """One of the values, by seed, row and template."""
        members = list(values)
        if not members or self._draws is None:
            raise jinja2.UndefinedError("choice of nothing")
        self._count += 1
        return members[self._draws.below(len(members), f"choice {self._template} {self._count}")]


class _Missing(jinja2.Undefined):
    """A value that is not there: it may be tested for, and not shown."""

    __str__ = jinja2.Undefined._fail_with_undefined_error


class _Choices(list[str]):
    """The answers; a number below 0 is none of them."""

    missed: int | None = None

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, SupportsIndex) and not 0 <= int(index) < len(self):
            self.missed = int(index)
            raise IndexError(index)
        return super().__getitem__(index)


def _most_frequent(values: Sequence[Any]) -> list[Any] | None:
    counts = Counter(values).most_common()
    return [value for value, count in counts if count == counts[0][1]] if counts else None


def _shown(value: Any) -> Any:
    """A value of an expression as it is; nothing is no text."""
    if is_missing(value):
        raise jinja2.UndefinedError("a value that a template shows is null")
    return value


def environment(draws: RowChoices | None = None) -> jinja2.Environment:
    """Jinja as promptsource sets it up, in a sandbox and without chance.

    Args:
        draws: What `choice` asks; None where nothing is rendered.
    """
    result = ImmutableSandboxedEnvironment(undefined=_Missing, finalize=_shown, autoescape=False)
    del result.globals["lipsum"], result.filters["random"]
    result.globals["zip"] = zip
    result.filters |= {
        "choice": (draws or RowChoices()).choice,
        "most_frequent": _most_frequent,
        "highlight": lambda text: text,
    }
    return result


@dataclass(frozen=True)
class JinjaRenderer:
    """Makes instructions of the rows of one data set.

    Attributes:
        entry: What the list says of the data set.
        sources: Its templates.
        budget: How long prompts and targets may be.
    """

    entry: TaskEntry
    sources: tuple[JinjaSource, ...]
    budget: Budget

    @cached_property
    def templates(self) -> Sequence[Template]:
        """The templates of the data set."""
        return [source.template for source in self.sources]

    @cached_property
    def shown(self) -> list[str]:
        """The rows' fields that templates name, without the answer."""
        parse, names = environment().parse, self.entry.fields or {}
        texts = [text for s in self.sources for text in (s.jinja, s.answer_choices) if text]
        fields = {names.get(f, f) for text in texts for f in find_undeclared_variables(parse(text))}
        return sorted(fields - {_CHOICES, self.entry.answer_field})

    @cached_property
    def _choices(self) -> RowChoices:
        return RowChoices()

    @cached_property
    def _compiled(self) -> list[tuple[jinja2.Template, jinja2.Template | None]]:
        compile_ = environment(self._choices).from_string
        return [
            (compile_(s.jinja), compile_(s.answer_choices) if s.answer_choices else None)
            for s in self.sources
        ]

    def render(self, row: Row, context: RowContext, /) -> Iterator[Rendered | Drop]:
        """One instruction; see `Renderer`.

        Args:
            row: The row.
            context: What is drawn for it; its rank says under which template it is.

        Raises:
            InvalidRow: The row cannot be read as the templates need it.
        """
        result = self._rendered(row, context.draws, context.rank % len(self.sources))
        yield result if isinstance(result, Drop) else self.budget.check(result)

    def every(self, row: Row) -> Iterator[Rendered | Drop]:
        """The row under each template; see `Renderer`."""
        for i in range(len(self.sources)):
            yield self._rendered(row, Draws(0, b""), i)

    def _rendered(self, row: Row, draws: Draws, i: int) -> Rendered | Drop:
        source, (template, choices) = self.sources[i], self._compiled[i]
        name = source.template.name
        values = self._values(row)
        self._choices.of(draws, name)
        answers: _Choices | None = None
        try:
            if choices:
                answers = _Choices(map(_restored, choices.render(values).split(SEPARATOR)))
            halves = template.render(values, **{_CHOICES: answers}).split(SEPARATOR)
        except jinja2.UndefinedError as error:
            if answers is not None and answers.missed is not None:
                return Drop("answer_not_in_options", name, {"answer": str(answers.missed)})
            return Drop("unresolved_field", name, {"field": str(error)})
        except Exception as error:  # whatever an expression of a template raises
            raise InvalidRow(
                f"template {name!r} cannot be rendered: {type(error).__name__}: {error}"
            ) from None
        if len(halves) != 2:
            return Drop("not_applicable", name, {"halves": len(halves)})
        prompt, target = map(_restored, halves)
        inverted = "" if source.is_original else "_inverted"
        options = None if answers is None else tuple(answers)
        return checked(Rendered(prompt, target, name, f"zero_shot{inverted}", options, target))

    def _values(self, row: Row) -> Row:
        if _CHOICES in row:
            raise InvalidRow(f"a row must not have a field {_CHOICES!r}, which templates use")
        for name, own in (self.entry.fields or {}).items():
            row = {**row, name: row.get(own)}
        return {name: _escaped(value) for name, value in row.items()}


def _escaped(value: Any) -> Any:
    """A value without separators."""
    if isinstance(value, str):
        return value.replace(SEPARATOR, _ESCAPED) if SEPARATOR in value else value
    if isinstance(value, list):
        return [_escaped(member) for member in value]
    if isinstance(value, dict):
        return {key: _escaped(member) for key, member in value.items()}
    return value


def _restored(text: str) -> str:
    text = text.strip()
    return text.replace(_ESCAPED, SEPARATOR) if _ESCAPED in text else text
