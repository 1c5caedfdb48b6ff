"""Instructions from pairs of patterns, zero-shot and few-shot, with and without the options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple

from stages.load.tasks.drawing import Draws
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
from stages.load.tasks.template_files import PatternSource
from stages.load.tasks.values import (
    LETTERS,
    OPTION_FIELDS,
    MissingField,
    UnknownLabel,
    Values,
    answer_of,
    fields_of,
    fill,
    options_of,
    text_of,
    without_options,
)

BETWEEN: Final = "\n\n\n"
"""Between two solved examples."""

BEFORE_ANSWER: Final = "\n\n"

_TRIES: Final = 4
"""How many examples are tried for each that is asked for: others may be too long."""


class OptionStyle(NamedTuple):
    """How options are listed.

    Attributes:
        header: The line above them.
        name: The name of each, with `{}` for its letter; None for a dash.
        between: Between name and option.
    """

    header: str
    name: str | None
    between: str

    def names(self, count: int) -> list[str] | None:
        """The names of so many options; None where they have none."""
        if self.name is None or count > len(LETTERS):
            return None
        return [self.name.format(letter) for letter in LETTERS[:count]]

    def block(self, options: Sequence[str]) -> str:
        """The options as a prompt shows them.

        >>> print(OptionStyle("Options:", "({})", " ").block(["no", "yes"]))
        Options:
        (A) no
        (B) yes
        """
        names = self.names(len(options))
        heads = [f"{name}{self.between}" for name in names] if names else ["- "] * len(options)
        return "\n".join([self.header, *map("".join, zip(heads, options, strict=True))])


PLAIN_STYLE: Final = OptionStyle("Options:", None, "")
STYLES: Final = (
    PLAIN_STYLE,
    OptionStyle("Choose from:", None, ""),
    OptionStyle("Options:", "({})", " "),
    OptionStyle("Possible answers:", "{}", ". "),
    OptionStyle("Pick one:", "{}", ") "),
    OptionStyle("Which of these is it?", "[{}]", " "),
)


class CompiledPattern(NamedTuple):
    """A pair of patterns, ready to be filled.

    Attributes:
        template: Where it stands.
        prompt: The pattern of the prompt.
        bare: The same without the options.
        target: The pattern of the target.
        shows_options: Whether the prompt has a place for them.
        is_inverted: Whether the target is no answer but what the answer belongs to.
        is_rationale: Whether the target shows the reasoning.
    """

    template: Template
    prompt: str
    bare: str
    target: str
    shows_options: bool
    is_inverted: bool
    is_rationale: bool

    @property
    def kind(self) -> tuple[bool, bool]:
        """What solved examples of a row have in common with it: what is asked for."""
        return self.is_inverted, self.is_rationale


def compiled(
    sources: Sequence[PatternSource], entry: TaskEntry, first: str
) -> tuple[CompiledPattern, ...]:
    """The patterns of a task.

    One is inverted where its target has no field of the first one's target: the first pattern
    of a task asks for what the task is about.

    Args:
        sources: The patterns that can be filled.
        entry: What the list says of the task.
        first: The target of the task's first pattern, also where its prompt cannot be filled.
    """
    asked = fields_of(first) - {entry.rationale or ""}
    return tuple(
        CompiledPattern(
            source.template,
            source.prompt,
            without_options(source.prompt),
            source.target,
            bool(fields_of(source.prompt) & {*OPTION_FIELDS}),
            bool(asked) and not fields_of(source.target) & asked,
            bool(entry.rationale) and entry.rationale in fields_of(source.target),
        )
        for source in sources
    )


@dataclass(frozen=True)
class Formats:
    """How the patterns of a method are used.

    Attributes:
        shots: The least and the most solved examples of a few-shot prompt.
        few_shot: The fraction of rows with solved examples.
        with_options: The fraction of rows that show the options, where there are any.
        styles: How options are listed; one is drawn for a row.
        inverted: The fraction of rows with an inverted pattern; None: each pattern, inverted
            or not, is as likely.
        same_template: Whether solved examples have the template of their row.
        answer_by_name: Whether the target is the option's name where options have names.
    """

    shots: tuple[int, int] = (0, 0)
    few_shot: float = 0.0
    with_options: float = 1.0
    styles: tuple[OptionStyle, ...] = (PLAIN_STYLE,)
    inverted: float | None = None
    same_template: bool = False
    answer_by_name: bool = False


class _Case(NamedTuple):
    """What is decided for a row before its examples are."""

    pattern: CompiledPattern
    style: OptionStyle | None


@dataclass(frozen=True)
class PatternRenderer:
    """Makes instructions of the rows of one task.

    Attributes:
        entry: What the list says of the task.
        patterns: Its patterns.
        formats: How they are used.
        budget: How long prompts and targets may be.
    """

    entry: TaskEntry
    patterns: tuple[CompiledPattern, ...]
    formats: Formats
    budget: Budget

    @cached_property
    def templates(self) -> Sequence[Template]:
        """The templates of the task."""
        return [pattern.template for pattern in self.patterns]

    @cached_property
    def _by_direction(self) -> dict[bool, list[CompiledPattern]]:
        return {
            inverted: [p for p in self.patterns if p.is_inverted is inverted]
            for inverted in (False, True)
        }

    @cached_property
    def _by_kind(self) -> dict[tuple[bool, bool], list[CompiledPattern]]:
        kinds: dict[tuple[bool, bool], list[CompiledPattern]] = {}
        for pattern in self.patterns:
            kinds.setdefault(pattern.kind, []).append(pattern)
        return kinds

    @cached_property
    def shown(self) -> list[str]:
        """The rows' fields that prompts show, without what is asked for and the options."""
        fields = frozenset().union(*(fields_of(pattern.prompt) for pattern in self.patterns))
        targets = (fields_of(p.target) for p in self.patterns if not p.is_inverted)
        asked: frozenset[str] = next(targets, frozenset())
        names = self.entry.fields or {}
        return sorted(names.get(f, f) for f in fields - asked - {"answer", *OPTION_FIELDS})

    def render(self, row: Row, context: RowContext, /) -> Iterator[Rendered | Drop]:
        """One instruction; see `Renderer`.

        Args:
            row: The row.
            context: What is drawn for it.

        Raises:
            InvalidRow: The row cannot be read as the task says.
        """
        case = self._case(context.draws)
        result = self._solved(row, case)
        if isinstance(result, Rendered):
            result = self._with_examples(result, row, case, context)
        yield result if isinstance(result, Drop) else self.budget.check(result)

    def every(self, row: Row) -> Iterator[Rendered | Drop]:
        """The row under each pattern; see `Renderer`."""
        for pattern in self.patterns:
            yield self._solved(row, _Case(pattern, self.formats.styles[0]))

    def _case(self, draws: Draws) -> _Case:
        formats = self.formats
        pool: Sequence[CompiledPattern] = self.patterns
        if formats.inverted is not None:
            is_inverted = draws.fraction("inverted") < formats.inverted
            pool = self._by_direction[is_inverted] or self._by_direction[not is_inverted]
        pattern = pool[draws.below(len(pool), "template")]
        style = None
        if formats.with_options == 1 or draws.fraction("options") < formats.with_options:
            styles = formats.styles
            style = styles[draws.below(len(styles), "style") if len(styles) > 1 else 0]
        return _Case(pattern, style)

    def _solved(self, row: Row, case: _Case) -> Rendered | Drop:
        """The row alone: zero-shot."""
        entry, pattern = self.entry, case.pattern
        name = pattern.template.name
        options = options_of(row, entry)
        known: dict[str, str] = {}
        try:
            answer = answer_of(row, entry, options)
        except UnknownLabel as unknown:
            return Drop("answer_not_in_options", name, {"answer": str(unknown)})
        if not answer and (options is not None or entry.answer):
            return Drop("empty_target", name, {"field": entry.answer_field})
        shows = bool(options) and pattern.shows_options and case.style is not None
        if shows and options and case.style:
            known = dict.fromkeys(OPTION_FIELDS, case.style.block(options))
        if answer:
            known["answer"] = answer
        values = Values(row, entry.fields or {}, known)
        try:
            prompt = fill(pattern.prompt if shows else pattern.bare, values)
        except MissingField as missing:
            return Drop("unresolved_field", name, {"field": missing.field})
        try:
            target = fill(pattern.target, values)
        except MissingField as missing:
            return Drop("empty_target", name, {"field": missing.field})
        is_answer = options is not None and not pattern.is_inverted
        result = Rendered(
            prompt, target, name, self._format(pattern, shows),
            options if is_answer else None, answer if is_answer else target,
        )  # fmt: skip
        if shows and is_answer and options and case.style and self.formats.answer_by_name:
            result = _by_name(result, options, case.style)
        return checked(result)

    def _format(self, pattern: CompiledPattern, shows_options: bool) -> str:
        parts = ["zero_shot", "options"][: 1 + shows_options]
        parts += ["cot"] * pattern.is_rationale + ["inverted"] * pattern.is_inverted
        return "_".join(parts)

    def _with_examples(
        self, result: Rendered, row: Row, case: _Case, context: RowContext
    ) -> Rendered:
        """The row behind solved examples, as many as are drawn and fit."""
        formats = self.formats
        draws, (least, most) = context.draws, formats.shots
        if not most or (formats.few_shot < 1 and draws.fraction("few_shot") >= formats.few_shot):
            return result
        number = least + draws.below(most - least + 1, "shots")
        shots: list[str] = []
        for shot in islice(self._shots(row, case, context), _TRIES * number):
            if len(shots) == number:
                break
            if self.budget.fits_input(BETWEEN.join([*shots, shot, result.prompt])):
                shots.append(shot)
        if not shots:
            return result
        prompt = BETWEEN.join([*shots, result.prompt])
        name = result.format.replace("zero_shot", "few_shot", 1)
        return result._replace(prompt=prompt, format=name, num_shots=len(shots))

    def _said(self, row: Row) -> tuple[str | None, ...]:
        """What the templates show of a row beside its answer: a number of its own is not."""
        return tuple(text_of(row.get(field)) for field in self.shown)

    def _shots(self, row: Row, case: _Case, context: RowContext) -> Iterator[str]:
        """Solved examples in a random order, never the row itself or its equal."""
        pool, said = self._by_kind[case.pattern.kind], self._said(row)
        draws = context.draws
        for place, i in enumerate(draws.sample(len(context.examples), "example")):
            example = context.examples[i]
            if example.key == draws.row or (said and self._said(example.row) == said):
                continue
            pattern = case.pattern
            if not self.formats.same_template:
                pattern = pool[draws.below(len(pool), f"example template {place}")]
            try:
                solved = self._solved(example.row, case._replace(pattern=pattern))
            except InvalidRow:  # the example has failed, and this row has not
                continue
            if isinstance(solved, Rendered):
                yield solved.prompt + BEFORE_ANSWER + solved.target


def _by_name(result: Rendered, options: Sequence[str], style: OptionStyle) -> Rendered:
    """The row, whose target is the name of the option where it was the option."""
    names = style.names(len(options))
    if names is None or result.target != result.answer or len(set(options)) < len(options):
        return result
    return result._replace(target=names[options.index(result.answer)])
