"""The list of tasks: a small YAML file that says of each task where its rows and templates are.

    tasks:
      reviews:
        data: reviews.jsonl
        templates: templates.jsonl
        cluster: sentiment
        options: [negative, positive]

Paths are beside the list. `<<: *name` shares settings between tasks, as everywhere in YAML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from pipeline.errors import UserError
from pipeline.hints import suggest
from pipeline.recipe.options import checked_dataclass, resolve
from pipeline.recipe.yaml_document import RecipeDocument, parse
from pipeline.types import NonEmpty, option_group
from stages.load.tasks.rendering import Row

Names = str | Annotated[tuple[str, ...], NonEmpty]
"""A name, or several."""

Scale = (
    Annotated[tuple[float, float], NonEmpty]
    | Annotated[tuple[str, ...], Field(min_length=2)]
)  # fmt: skip
"""The least and the largest value of a rating, or its values by name, the worst first."""


@option_group
class TaskEntry:
    """What the list says of a task.

    Attributes:
        data: Its rows: JSON lines, JSON, CSV, TSV, Parquet or Arrow files, or patterns.
        templates: The file of its templates: promptsource's `templates.yaml`, FLAN's
            `templates.py`, or JSON lines with `task`, `index`, `input_pattern` and
            `target_pattern`.
        template_set: Whose templates of a file with those of several tasks; the task's name by
            default.
        cluster: The cluster, category or similarity group; the task's name by default.
        dataset: The data set that it was made from, if the files do not say so: tasks of one
            data set are never on both sides of a hold-out.
        license: On what terms its rows come; the stage's `license` by default.
        options: The names of the labels in the order of their numbers; or the field that has
            the row's own options as a list; or, as {fields: [A, B]}, the fields that have one
            each.
        answer: The field with the answer: a label's number or name, or a text. By default
            `label` where there are options, else `answer`.
        rationale: The field with the reasoning: a template whose target shows it asks for a
            chain of thought.
        fields: The rows' names for what templates name otherwise, as {template's: row's}.
        text: The fields that are a row's text (meta-tuning): rows of equal texts are never on
            both sides of a hold-out.
        labels: For meta-tuning, each label's name with its question or questions, in the order
            of the labels' numbers.
        feedback: The ratings of a row and their scales, as {field: [1, 5]} or
            {field: [bad, good]}.
    """

    data: Names
    templates: str | None = None
    template_set: str | None = None
    cluster: str | None = None
    dataset: str | None = None
    license: str | None = None
    options: Annotated[tuple[str, ...], NonEmpty] | str | dict[str, tuple[str, ...]] | None = None
    answer: str | None = None
    rationale: str | None = None
    fields: dict[str, str] | None = None
    text: Names | None = None
    labels: dict[str, Names] | None = None
    feedback: dict[str, Scale] | None = None

    @property
    def answer_field(self) -> str:
        """The field with the answer."""
        has_labels = self.options is not None or self.labels is not None
        return self.answer or ("label" if has_labels else "answer")

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The fields that are a row's text."""
        return (self.text,) if isinstance(self.text, str) else self.text or ()


@dataclass(frozen=True)
class Task:
    """A task of a list.

    Attributes:
        name: Its name.
        entry: What the list says of it.
        files: The files of its rows.
        templates: The file of its templates; None without one.
        where: The list's line.
    """

    name: str
    entry: TaskEntry
    files: tuple[Path, ...]
    templates: Path | None
    where: str

    @property
    def cluster(self) -> str:
        """Its cluster."""
        return self.entry.cluster or self.name

    @property
    def datasets(self) -> frozenset[str]:
        """What it was made from."""
        named = {self.entry.dataset} if self.entry.dataset else set()
        return frozenset(named | {str(path) for path in self.files})

    @property
    def license(self) -> str | None:
        """Its own license."""
        return self.entry.license

    def inputs(self, row: Row) -> Mapping[str, Any]:
        """The fields that stand for the row in all random choices: not the answer's."""
        names = self.entry.text_fields or [n for n in row if n != self.entry.answer_field]
        return {name: row.get(name) for name in names}


def read_lists(paths: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of the lists.

    Args:
        paths: The lists.

    Raises:
        UserError: A list has mistakes, all of which are in the message.
    """
    tasks: dict[str, Task] = {}
    problems: list[UserError] = []
    for path in map(Path, paths):
        document = _document(path)
        problems += document.problems
        for name, raw in _entries(document):
            task, wrong = _task(str(name), raw, document, path)
            problems += wrong
            if task and name in tasks:
                what = f"tasks must have different names, got {name!r} twice"
                problems.append(UserError(what, where=task.where))
            elif task:
                tasks[task.name] = task
    if problems:
        raise _together(problems)
    return tuple(tasks.values())


def _document(path: Path) -> RecipeDocument:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UserError(f"{path.name} cannot be read as a list of tasks", why=why) from None
    try:
        return parse(text, path.name)
    except UserError as error:
        if "a recipe must be" in error.what:
            raise UserError(_NO_LIST, where=path.name, hint=_HINT) from None
        raise


_NO_LIST: Final = "a list of tasks must be a mapping with the key `tasks`"
_HINT: Final = "tasks: {NAME: {data: FILE, templates: FILE, options: [no, yes]}}"


def _entries(document: RecipeDocument) -> Iterator[tuple[Any, Any]]:
    tasks = document.content.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        raise UserError(_NO_LIST, where=document.file, hint=_HINT)
    for key in document.content:
        if key != "tasks" and not str(key).startswith("x-"):
            what = f"unknown key {key!r}"
            raise UserError(what, where=document.where((str(key),)), hint=suggest(key, ["tasks"]))
    yield from tasks.items()


def _task(
    name: str, raw: Any, document: RecipeDocument, path: Path
) -> tuple[Task | None, list[UserError]]:
    where = document.where(("tasks", name))
    if not isinstance(raw, dict):
        return None, [UserError(f"task {name!r} must be a mapping, got {raw!r}", where=where)]
    entry, wrong = checked_dataclass(raw, TaskEntry)
    problems = [
        UserError(
            f"task {name!r}: {problem.what}",
            where=document.where(("tasks", name, *problem.path)),
            hint=problem.hint or suggest(problem.path[-1] if problem.path else "", raw),
        )
        for problem in wrong
    ]
    if entry is None:
        return None, problems
    data = [entry.data] if isinstance(entry.data, str) else list(entry.data)
    files, mistake = resolve(data, path.parent)
    templates, second = resolve(entry.templates or [], path.parent)
    for key, what in (("data", mistake), ("templates", second)):
        if what:
            line = document.where(("tasks", name, key))
            problems.append(UserError(f"task {name!r}: {key} {what}", where=line))
    if len(templates) > 1:
        what = f"task {name!r}: templates must be one file, got {len(templates)}"
        problems.append(UserError(what, where=document.where(("tasks", name, "templates"))))
    file = Path(templates[0]) if templates else None
    return Task(name, entry, tuple(map(Path, files)), file, where), problems


def _together(problems: Sequence[UserError]) -> UserError:
    """All mistakes as one."""
    first, *others = problems
    why = "\n    ".join([*([first.why] if first.why else []), *map(_line, others)])
    return UserError(first.what, where=first.where, why=why or None, hint=first.hint)


def _line(problem: UserError) -> str:
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"and {problem.where}: {problem.what}{hint}"
