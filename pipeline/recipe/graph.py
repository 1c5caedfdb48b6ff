"""Order and types of a graph, checked before anything runs.

Columns are known statically: every stage declares what it reads and adds, so a
missing or doubled column is reported before the first stage runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from pipeline.errors import OptionError, UserError
from pipeline.hints import closest, suggest
from pipeline.models.base import LanguageModel
from pipeline.recipe.added_columns import stages_that_add
from pipeline.stage import (
    ALL,
    BASE_COLUMNS,
    DECLARED,
    RESERVED,
    Columns,
    DataKind,
    Edge,
    OptionalColumn,
    Stage,
)


@dataclass(frozen=True)
class Step:
    """One stage of a recipe, wired and checked.

    Args:
        name: Its name in the recipe.
        stage: The stage that it uses.
        options: The stage's options, complete.
        needs: For each edge, the names of the steps connected to it.
        rename: New names of added columns, from the recipe's `as`.
        where: The recipe's line of the step.
        locate: The recipe's line of a key of the step, such as ("with", "budget").
        columns: The columns of its output rows, with polars types.
        own: The columns that it adds itself, after renaming.
        limit: In a preview, how many rows a step gets or makes that asks a language model.
    """

    name: str
    stage: Stage
    options: SimpleNamespace
    needs: Mapping[str, list[str]]
    rename: Mapping[str, str]
    where: str
    locate: Callable[[Sequence[str]], str] = field(compare=False)
    columns: Columns = field(default_factory=dict)
    own: Columns = field(default_factory=dict)
    limit: int | None = None

    @property
    def label(self) -> str:
        """The step in messages: its name and its stage's."""
        return f"{self.name} ({self.stage.name})"

    @property
    def first(self) -> str:
        """The step connected to the first edge."""
        return self.needs[self.stage.edges[0].name][0]

    @property
    def asks_model(self) -> bool:
        """Whether it gives rows for which it asks a language model."""
        models: list[Any] = []
        for option in self.stage.options:
            if option.is_model:
                option.each(getattr(self.options, option.name), models.append)
        language = any(isinstance(model, LanguageModel) for model in models)
        return language and self.stage.gives_rows

    @property
    def limited_edge(self) -> str | None:
        """The edge of whose rows it gets `limit` in a preview; None where it gets all.

        A step that says itself how many rows it makes is shown all of its examples.
        """
        if self.limit is None or hasattr(self.options, "num_rows"):
            return None
        connected = (edge.name for edge in self.stage.edges if self.needs.get(edge.name))
        return next(connected, None)

    @property
    def upstream(self) -> list[str]:
        """The steps that this one depends on, models included."""
        edges = [name for names in self.needs.values() for name in names]
        return [*edges, *self.makers]

    @property
    def makers(self) -> list[str]:
        """The steps whose weights its models have."""
        makers: list[str | None] = []

        def add(model: Any) -> None:
            makers.append(model.made_by)
            if (second := getattr(model, "fallback", None)) is not None:
                add(second)

        for option in self.stage.options:
            if option.is_model:
                option.each(getattr(self.options, option.name), add)
        return [maker for maker in dict.fromkeys(makers) if maker is not None]


def topological_order(steps: Mapping[str, Step], problems: list[UserError]) -> list[Step]:
    """The steps such that each follows what it needs, else in the recipe's order.

    Args:
        steps: The steps by name.
        problems: A cycle is added to them, with its path.
    """
    ordered: dict[str, Step] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in path:
            cycle = " -> ".join([*path[path.index(name) :], name])
            problems.append(UserError(f"the stages form a cycle: {cycle}", where=steps[name].where))
        elif name in steps and name not in ordered:
            path.append(name)
            for needed in steps[name].upstream:
                visit(needed)
            path.pop()
            ordered[name] = steps[name]

    for name in steps:
        visit(name)
    return list(ordered.values())


def wire_columns(ordered: list[Step], problems: list[UserError]) -> dict[str, Step]:
    """Follow the columns along the edges, and check kinds and columns.

    Args:
        ordered: The steps in topological order.
        problems: Mistakes are added to them.

    Returns:
        The steps that are right, with their columns.
    """
    connected: dict[str, Step] = {}
    for step in ordered:
        before = len(problems)
        step = _narrowed(step, connected)
        try:
            for edge in step.stage.edges:
                for name in step.needs.get(edge.name, ()):
                    if name in connected:
                        _check_edge(step, edge, connected[name], problems)
        except UserError as error:  # the columns read may follow from an option that is wrong
            problems.append(_at_step(error, step))
        for maker in step.makers:
            if maker in connected and not connected[maker].stage.fills_files:
                what = f"{step.name}: its model is from {maker!r}, which makes no files"
                problems.append(UserError(what, where=step.where))
        if all(name in connected for name in step.upstream) and len(problems) == before:
            wired = _with_columns(step, connected, problems)
            if len(problems) == before:
                connected[step.name] = wired
    return connected


def wrong_options(step: Step, options: SimpleNamespace) -> UserError | None:
    """The mistake that the stage's own `check` finds in the options, at its line."""
    try:
        if step.stage.check:
            step.stage.check(options)
    except UserError as error:
        return _at_step(error, step)
    return None


def _at_step(error: UserError, step: Step) -> UserError:
    """A stage's error with the step's name, the recipe's line, and that of a file where it is."""
    place = f"{error.where}: " if error.where else ""
    what = f"{step.label}: {place}{error.what}"
    return UserError(what, where=where_of(error, step), why=error.why, hint=error.hint)


def where_of(error: UserError, step: Step) -> str:
    """The recipe's line of the option that an `OptionError` names, else of the step."""
    if isinstance(error, OptionError):
        return step.locate(("with", *error.option.split(".")))
    return step.where


def kind_of(step: Step) -> DataKind:
    """What a step's rows are (records follow their input's kind through annotating stages)."""
    if step.stage.makes:
        return step.stage.makes
    return step.stage.edges[0].kind if step.stage.annotates else DataKind.FILES


def _gives(source: Step, kind: DataKind) -> bool:
    return source.stage.fills_files if kind is DataKind.FILES else kind_of(source) is kind


def _narrowed(step: Step, connected: Mapping[str, Step]) -> Step:
    """The step with each edge that takes several kinds set to the one that comes.

    So are the rows that it makes, where they are of the kind that comes.
    """
    edges = []
    for edge in step.stage.edges:
        sources = [connected[name] for name in step.needs.get(edge.name, ()) if name in connected]
        kinds = [kind for kind in edge.kinds if all(_gives(source, kind) for source in sources)]
        edges.append(edge.narrowed(kinds[0]) if sources and kinds else edge)
    makes = edges[0].kind if step.stage.makes_input_kind else step.stage.makes
    return replace(step, stage=replace(step.stage, edges=tuple(edges), makes=makes))


def _check_edge(step: Step, edge: Edge, source: Step, problems: list[UserError]) -> None:
    if not _gives(source, edge.kind):
        what = f"{step.label} needs {' or '.join(edge.kinds)} for {edge.name!r}"
        gives = "files" if kind_of(source) is DataKind.FILES else str(kind_of(source))
        where = step.locate(("needs", edge.name))
        problems.append(UserError(f"{what}, but {source.name!r} gives {gives}", where=where))
        return
    if edge.kind not in DECLARED:
        return
    reads = step.stage.reads(edge.name, step.options)
    for column in () if reads == ALL else reads:
        if column not in source.columns and not isinstance(column, OptionalColumn):
            what = f"{step.label} reads the column {column!r}"
            added = [c for c in source.columns if c not in BASE_COLUMNS[edge.kind]]
            problems.append(
                UserError(
                    f"{what}, which {source.name!r} does not have",
                    where=step.where,
                    hint=_hint_for_missing(column, added),
                )
            )


def _hint_for_missing(column: str, added: Sequence[str]) -> str:
    """What to do about a column that is not there: a close name, or the stages that add it."""
    close = closest(column, added)
    makers = stages_that_add(column)
    if makers:
        several = " or ".join([", ".join(makers[:-1]), makers[-1]] if makers[1:] else makers)
        return f"{close or ''} {column}: add {several} before it".strip()
    return close or suggest(column, added) or "add a stage before it that makes the column"


def _with_columns(step: Step, connected: Mapping[str, Step], problems: list[UserError]) -> Step:
    edges = {
        edge.name: [connected[name].columns for name in step.needs.get(edge.name, ())]
        for edge in step.stage.edges
    }
    try:
        added = dict(step.stage.adds(step.options, edges))
    except UserError as error:
        problems.append(_at_step(error, step))
        return step
    base: Columns = {}
    if step.stage.makes:
        base = BASE_COLUMNS[step.stage.makes]
    elif step.stage.annotates:
        base = edges[step.stage.edges[0].name][0]
    own: Columns = {step.rename.get(name, name): dtype for name, dtype in added.items()}
    for what, key, hint in _wrong_names(step, added, own, base):
        where = step.locate(("as", key))
        problems.append(UserError(f"{step.name}{what}", where=where, hint=hint))
    return replace(step, columns={**base, **own}, own=own)


def _wrong_names(
    step: Step, added: Columns, own: Columns, base: Columns
) -> Iterator[tuple[str, str, str | None]]:
    """Mistakes in the names of the added columns, with their keys in `as`, and hints."""
    for name in step.rename:
        if name not in added:
            what = f": 'as' renames {name!r}, which {step.stage.name} does not add"
            yield what, name, suggest(name, added)
    for name in added:
        if name in RESERVED:  # verdicts go by these names before any is renamed
            what = f"makes a column {name!r}, which is a name of the engine's own"
            yield f" ({step.stage.name}) {what}", "", "give it another name in the stage's options"
    if len(own) < len(added):
        yield ": 'as' gives two columns one name", "", None
    original = {new: old for old, new in step.rename.items()}
    for name in own:
        if name in base or (name in RESERVED and original.get(name, name) != name):
            reason = "is there already" if name in base else "is a name of the engine's own"
            hint = f"as: {{{original.get(name, name)}: another_name}}"
            yield (
                f" ({step.stage.name}) adds {name!r}, which {reason}",
                original.get(name, ""),
                hint,
            )
