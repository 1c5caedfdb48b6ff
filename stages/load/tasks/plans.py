"""From the options to tasks that can be rendered, and all that the linter has to say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from stages.load._files.container import container
from stages.load._files.json_lines import Position
from stages.load._rows.output import peek, read_files
from stages.load.tasks.flan import Feedback, FeedbackRenderer, Flan, FlanCollection
from stages.load.tasks.lint import Finding, brace_fault, lint_jinja, lint_pattern, lint_rows
from stages.load.tasks.meta_tuning import MetaTuning, QuestionRenderer
from stages.load.tasks.natural_instructions import (
    NaturalInstructions,
    NaturalRenderer,
    NaturalTask,
    instances,
    read_natural,
)
from stages.load.tasks.patterns import PatternRenderer, compiled
from stages.load.tasks.rendering import Budget, Renderer, Row, byte_tokens
from stages.load.tasks.t0 import T0, JinjaRenderer
from stages.load.tasks.task_list import Task, read_lists
from stages.load.tasks.template_files import read_jinja, read_patterns

Method = Annotated[
    Flan | FlanCollection | T0 | NaturalInstructions | MetaTuning | Feedback,
    Field(discriminator="name"),
]

_SAMPLE = 32
"""How many rows of a task the linter renders."""

_UNREADABLE = frozenset({"brace", "syntax"})
"""Faults with which a template cannot be rendered."""


class Plan(NamedTuple):
    """A task that can be rendered.

    Attributes:
        task: The task.
        renderer: What makes instructions of its rows; it has the templates without faults that
            make this impossible.
        findings: What the linter says of its templates.
    """

    task: Task | NaturalTask
    renderer: Renderer
    findings: tuple[Finding, ...]

    def inputs(self, row: Row) -> Mapping[str, Any]:
        """The fields that stand for a row in all random choices.

        Those that the list names as its text; else those that templates show, without the answer:
        rows that differ in a number of their own are equal.

        Args:
            row: The row.
        """
        task, renderer = self.task, self.renderer
        if isinstance(task, Task) and not task.entry.text_fields:
            shown = renderer.shown if isinstance(renderer, PatternRenderer | JinjaRenderer) else ()
            if shown:
                return {name: row.get(name) for name in shown}
        return task.inputs(row)


def read_tasks(options: SimpleNamespace) -> tuple[Task, ...] | tuple[NaturalTask, ...]:
    """The tasks that the options name.

    Args:
        options: The stage's.

    Raises:
        UserError: A list or task file cannot be read, or lacks what the method needs.
    """
    if not options.path:
        raise OptionError("path", "must be at least one file, got none")
    if isinstance(options.method, NaturalInstructions):
        natural = tuple(read_natural(Path(path)) for path in options.path)
        names = [task.name for task in natural]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise OptionError("path", f"must name each task once, got {twice!r} twice")
        return natural
    tasks = read_lists(options.path)
    for task in tasks:
        _check_entry(task, options.method)
    return tasks


def _check_entry(task: Task, method: Method) -> None:
    """Refuse a task that lacks what the method needs."""
    entry, needed, hint = task.entry, "", ""
    if isinstance(method, MetaTuning):
        if not entry.labels or not entry.text:
            needed, hint = "labels and text", "labels: {LABEL: QUESTION}, text: FIELD"
        elif isinstance(entry.options, tuple) and {*entry.options} != {*entry.labels}:
            needed, hint = "labels for exactly its options", f"options: {[*entry.labels]}"
    elif task.templates is None:
        needed, hint = "templates", "templates: FILE"
    elif isinstance(method, Feedback) and not entry.feedback:
        needed, hint = "feedback", "feedback: {FIELD: [WORST, BEST]}"
    elif isinstance(method, T0) != (task.templates.suffix in (".yaml", ".yml")):
        needed = "templates of promptsource (.yaml)" if isinstance(method, T0) else "patterns"
        hint = "method: t0 reads promptsource's templates.yaml, all others patterns in braces"
    for name, scale in (entry.feedback or {}).items():
        if len({*scale}) < len(scale):
            needed, hint = f"different values on the scale of {name}", ""
    if isinstance(entry.options, dict) and [*entry.options] != ["fields"]:
        needed, hint = "options as a list, a field, or {fields: [A, B]}", ""
    if needed:
        what = f"task {task.name!r} must have {needed} with method: {method.name}"
        raise UserError(what, where=task.where, hint=hint or None)


def positions_of(ctx: Context, task: Task | NaturalTask) -> Iterable[tuple[str, Position]]:
    """The rows of a task, with the names of their files.

    Args:
        ctx: Reports the progress.
        task: The task.

    Raises:
        UserError: A file cannot be read at all.
    """
    if isinstance(task, NaturalTask):
        return ((task.file.name, position) for position in instances(task.file))
    return read_files(ctx, task.files, container, _nested(task))


def _nested(task: Task) -> frozenset[str]:
    """The columns of tables that hold lists."""
    return frozenset({task.entry.options} if isinstance(task.entry.options, str) else ())


def plans(options: SimpleNamespace) -> tuple[Plan, ...]:
    """The tasks that the options name, ready to be rendered.

    Args:
        options: The stage's.

    Raises:
        UserError: Something cannot be read, or a task has no template that can be rendered.
    """
    count = counter(options.tokenizer)
    return tuple(_plan(task, options.method, count) for task in read_tasks(options))


def _plan(task: Task | NaturalTask, method: Method, count: Callable[[str], float]) -> Plan:
    max_input, max_target = (getattr(method, name, None) for name in ("max_input", "max_target"))
    budget = Budget(max_input, max_target, count)
    if isinstance(task, NaturalTask):
        return Plan(task, NaturalRenderer(task, budget), ())
    if isinstance(method, MetaTuning):
        renderer: Renderer = QuestionRenderer(task, budget)
        return Plan(task, renderer, tuple(lint_rows(renderer, _first_rows(task))))
    assert task.templates is not None, "checked with the entry"
    findings: list[Finding] = []
    if isinstance(method, T0):
        jinja = _usable(task, read_jinja(task.templates), lint_jinja, findings)
        if method.original_only:
            jinja = [source for source in jinja if source.is_original] or jinja
        renderer = JinjaRenderer(task.entry, tuple(jinja), budget)
    else:
        assert not isinstance(method, NaturalInstructions), "it has tasks of its own"
        name = task.entry.template_set or task.name
        every = read_patterns(task.templates, name)
        sources = _usable(task, every, lint_pattern, findings)
        kind = FeedbackRenderer if isinstance(method, Feedback) else PatternRenderer
        first = next(source.target for source in every if brace_fault(source.target) is None)
        patterns = compiled(sources, task.entry, first)
        if method.formats.inverted == 0:
            patterns = tuple(p for p in patterns if not p.is_inverted)
        if not patterns:
            what = f"task {task.name!r} has no template that can be rendered but inverted ones"
            raise UserError(what, where=task.where, why="; ".join(map(str, findings[:3])) or None)
        renderer = kind(task.entry, patterns, method.formats, budget)
    findings += lint_rows(renderer, _first_rows(task))
    return Plan(task, renderer, tuple(findings))


def _usable(
    task: Task,
    sources: Sequence[Any],
    lint: Callable[[Any], Iterator[Finding]],
    findings: list[Finding],
) -> list[Any]:
    """The templates that can be rendered; what is wrong with any is added to the findings."""
    usable = []
    for source in sources:
        faults = list(lint(source))
        findings += faults
        if not _UNREADABLE & {fault.kind for fault in faults}:
            usable.append(source)
    if not usable:
        what = f"task {task.name!r} has no template that can be rendered"
        raise UserError(what, where=task.where, why="; ".join(map(str, findings[:3])) or None)
    return usable


def _first_rows(task: Task) -> list[Row]:
    """The first rows of a task.

    Raises:
        UserError: A file cannot be read at all.
    """
    rows: list[Row] = []
    for path in task.files:
        first, _ = peek(path, container, _nested(task))
        rows += [row for _, row, _ in first if isinstance(row, dict)]
        if len(rows) >= _SAMPLE:
            break
    if not rows:
        names = ", ".join(path.name for path in task.files)
        raise UserError(f"task {task.name!r} has no row in {names}", where=task.where)
    return rows[:_SAMPLE]


def counter(tokenizer: Sequence[str]) -> Callable[[str], float]:
    """How the tokens of a text are counted.

    Args:
        tokenizer: The file of a tokenizer; none for a quarter of the bytes.

    Raises:
        OptionError: It is no such file.
    """
    if not tokenizer:
        return byte_tokens
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_file(tokenizer[0])
    except Exception as error:  # the library raises no narrower kind
        what = f"must be a tokenizer.json, got {Path(tokenizer[0]).name!r}"
        raise OptionError("tokenizer", what, why=str(error)) from None
    loaded.no_truncation()
    loaded.no_padding()
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)
