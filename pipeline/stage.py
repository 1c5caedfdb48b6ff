"""What a stage is: a typed function from tables to a table, with a version.

    @stage(version=1, scope="row", reads=["messages"], adds={"words": pl.Int32})
    def words(ctx: Context, rows: Records, *, minimum: Count = 1) -> pl.DataFrame: ...

It is found by its name: `family.method` is the marked function of
`stages/family/method.py`, or of `stages/family/method/__init__.py` where the stage is a
package: then each published method has a module of its own beside it. Helper modules may
have any name; what a stage imports from `stages` and `schemas`, directly or through
others, counts as its code, and so do data files that these modules name. The prompts of
`method.py` lie in `prompts/method/` beside it, those of a package in `prompts/` inside
it, those of a package's module `m` in `prompts/m/`; they enter the fingerprint.

Before the star stand the edges of the graph (`Records`, `Documents`, `Items`, `Pairs`,
`Files`; `list[Records]` for several, `dict[str, Records]` for several by the names of
their steps, which then enter the fingerprint; `Records | None = None` for an optional
one, `Records | Files` for either; `RecordParts` for rows that are read part by part). A
name that is a word of Python's has an underscore in the code alone: the parameter `except_`
is the edge `except`, and `select/except_.py` holds `select.except`. After the star stand the
options: they enter the fingerprint, so whatever may change a result is one of them. `ctx`
carries execution only.

An option's type says what it may be, ranges included (`pipeline/types.py`). Options that
belong to one of several methods form an `@option_group`, and the stage takes a union of
groups: `method: {name: kmeans, n_clusters: 50}` in a recipe, so that no option without
effect can be written. `check` is for what several options must be together; it raises an
`OptionError`, which is reported at the option's line. The docstring describes every edge
and option under `Args:`, a group's docstring its options; `stages NAME` prints them.

The return annotation says what the stage makes:

- `pl.DataFrame`: added columns, one row per row of the first edge, in its order;
- `Records`, `Documents`, `Items`: rows of its own (loaders, generators); a union of them:
  rows of the kind that comes on the first edge; `Iterator[Records]`: in parts, in any order;
- `None`: nothing but what it wrote into `ctx.files`.

Three columns are the verdict on a row and need no declaration: `drop_reason`
and `evidence` (a JSON object) when it is dropped, `error` when it failed.
Failed source positions may also carry `file` and `line`.

`@stage` marks and does not wrap: a test calls the plain function.
"""

from __future__ import annotations

import inspect
import keyword
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypeVar

import polars as pl

from pipeline import ROOT as ROOT
from pipeline.marks import DataSetNameMark, InPartsMark, InputFilesMark
from pipeline.models.base import Embedder, LanguageModel
from pipeline.parts import RowParts
from pipeline.prompts import Replacement, replaced
from schemas.pairs import PAIR_COLUMNS
from schemas.records import DOCUMENT_COLUMNS, ITEM_COLUMNS, RECORD_COLUMNS

Columns = Mapping[str, Any]
"""Column names with their polars types."""

Edges = Mapping[str, list[Columns]]
"""For each edge by parameter name, the columns of what is connected to it."""

ALL: typing.Final = "*"
"""`reads=ALL`: every column of the edge."""

VERDICT: typing.Final = ("drop_reason", "evidence", "error")
RESERVED: typing.Final = frozenset({"id", "file", "line", *VERDICT})
"""Names that no stage may give to a column that it adds."""


class DataKind(StrEnum):
    """What flows along an edge.

    Attributes:
        RECORDS: Conversations, with the columns `schemas.records.RECORD_COLUMNS`.
        DOCUMENTS: Raw texts, with `DOCUMENT_COLUMNS`.
        ITEMS: Benchmark items, with `ITEM_COLUMNS`.
        PAIRS: Preference pairs, with `schemas.pairs.PAIR_COLUMNS`.
        FILES: A folder that a stage filled.
    """

    RECORDS = "records"
    DOCUMENTS = "documents"
    ITEMS = "items"
    PAIRS = "pairs"
    FILES = "files"


class OptionalColumn(str):
    """A column in `reads` that need not be there: the stage does without it.

    It is in the table, and in the fingerprint, where it is there.
    """


Records = Annotated[pl.DataFrame, DataKind.RECORDS]
RecordParts = Annotated[RowParts, DataKind.RECORDS, InPartsMark]
PairParts = Annotated[RowParts, DataKind.PAIRS, InPartsMark]
Documents = Annotated[pl.DataFrame, DataKind.DOCUMENTS]
Items = Annotated[pl.DataFrame, DataKind.ITEMS]
Pairs = Annotated[pl.DataFrame, DataKind.PAIRS]
Files = Annotated[Path, DataKind.FILES]
InputFiles = Annotated[tuple[str, ...], InputFilesMark]
"""One path, a list, or glob patterns; resolved to existing files, in sorted order per pattern."""
DataSetName = Annotated[str, DataSetNameMark]
"""OWNER/NAME on the hub, or a folder; looked for as files are, beside the recipe first."""

BASE_COLUMNS: typing.Final[dict[DataKind, Columns]] = {
    DataKind.RECORDS: RECORD_COLUMNS,
    DataKind.DOCUMENTS: DOCUMENT_COLUMNS,
    DataKind.ITEMS: ITEM_COLUMNS,
    DataKind.PAIRS: PAIR_COLUMNS,
    DataKind.FILES: {},
}

DECLARED: typing.Final = (DataKind.RECORDS, DataKind.PAIRS)
"""The kinds of which stages declare the columns that they read; of others they read all."""

Reads = Sequence[str] | str | Mapping[str, Sequence[str]] | Callable[[Any], Any]
Adds = Columns | Callable[[Any, Edges], Columns]
Function = TypeVar("Function", bound=Callable[..., Any])


def python_name(name: str) -> str:
    """A name of a recipe as Python has it: `except` is `except_`."""
    return f"{name}_" if keyword.iskeyword(name) else name


def recipe_name(name: str) -> str:
    """A name of Python's as a recipe has it: the inverse of `python_name`."""
    bare = name.removesuffix("_")
    return bare if keyword.iskeyword(bare) else name


@dataclass(frozen=True)
class Edge:
    """One input of a stage.

    Args:
        name: Its name in a recipe.
        kinds: What it takes, the preferred first; `narrowed` to one once it is connected.
        many: Whether it takes several steps.
        optional: Whether it may be left unconnected.
        named: Whether the stage gets the names of the steps. Their order then says nothing.
        in_parts: Whether the stage gets `RowParts` in the place of frames.
    """

    name: str
    kinds: tuple[DataKind, ...]
    many: bool
    optional: bool
    named: bool = False
    in_parts: bool = False

    @property
    def parameter(self) -> str:
        """The name of its parameter."""
        return python_name(self.name)

    @property
    def kind(self) -> DataKind:
        """What flows along it."""
        return self.kinds[0]

    def narrowed(self, kind: DataKind) -> Edge:
        """The edge, for one of its kinds."""
        return replace(self, kinds=(kind,))


@dataclass(frozen=True)
class Option:
    """One keyword of a stage.

    Args:
        name: The keyword.
        annotation: Its full type, marks included.
        default: Its default; None where it is required.
        required: Whether a recipe must give it.
    """

    name: str
    annotation: Any
    default: Any
    required: bool

    @property
    def names_files(self) -> bool:
        """Whether its value names files."""
        return self._is_marked(InputFilesMark)

    @property
    def names_data_set(self) -> bool:
        """Whether its value names a data set, on the hub or in a folder."""
        return self._is_marked(DataSetNameMark)

    def _is_marked(self, mark: type) -> bool:
        members = (self.annotation, *typing.get_args(self.annotation))
        return any(mark in getattr(member, "__metadata__", ()) for member in members)

    @property
    def is_model(self) -> bool:
        """Whether it takes a language model, several of them, or an embedder."""
        return self.accepts(LanguageModel) or self.accepts(Embedder) or self.takes_models

    @property
    def takes_models(self) -> bool:
        """Whether it takes several language models, `tuple[LanguageModel, ...]`."""
        return self.accepts(tuple[LanguageModel, ...])

    def each(self, value: Any, function: Callable[[Any], Any]) -> Any:
        """Apply a function to the model or models of this option.

        Args:
            value: The option's value.
            function: From a model to anything.

        Returns:
            The result for a model, a tuple of results for several, None for None: a model of which
            something is wrong.
        """
        if isinstance(value, tuple):
            return tuple(self.each(one, function) for one in value)
        return None if value is None else function(value)

    def accepts(self, kind: type) -> bool:
        """Whether the annotation is this type, or a union that holds it."""
        return kind in (self.annotation, *typing.get_args(self.annotation))


@dataclass(frozen=True)
class Stage:
    """A stage function with everything that its signature and declaration say.

    Args:
        name: Its name, as a recipe has it in `uses`.
        function: The marked function.
        version: Part of the fingerprint.
        scope: "row" where a row's result depends on that row alone, else "set".
        makes: The kind of its own rows; None where it annotates rows or only fills files.
        makes_input_kind: Whether these are of the kind that comes on its first edge.
        gives_rows: Whether it returns a table.
        edges: Its inputs, in the order of the parameters.
        options: Its keywords.
        fills_files: Whether it fills `ctx.files`.
        check: Raises a UserError for options that do not go together.
        later: Edges and options that it got after it had results.
        prompts: What a recipe puts in the place of its prompts.
    """

    name: str
    function: Callable[..., Any]
    version: int
    scope: Literal["row", "set"]
    makes: DataKind | None
    makes_input_kind: bool
    gives_rows: bool
    edges: tuple[Edge, ...]
    options: tuple[Option, ...]
    fills_files: bool
    check: Callable[[Any], None] | None
    later: frozenset[str]
    _reads: Reads = field(repr=False)
    _adds: Adds = field(repr=False)
    prompts: tuple[Replacement, ...] = ()

    @property
    def creates(self) -> bool:
        """Whether it makes rows of its own instead of judging or annotating its input's."""
        return self.makes is not None

    @property
    def annotates(self) -> bool:
        """Whether it returns one row per row of its first edge."""
        return self.gives_rows and not self.creates

    @property
    def retries(self) -> bool:
        """Failed rows may succeed the next time only where something outside answers: a model."""
        return any(option.is_model for option in self.options)

    @property
    def file(self) -> Path:
        """The file of its function."""
        return Path(inspect.getfile(self.function))

    def call(self, ctx: Any, edges: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        """Call the function.

        Args:
            ctx: The context.
            edges: The inputs by edge.
            options: The options by name.
        """
        inputs = {python_name(name): value for name, value in edges.items()}
        with replaced(self.prompts):
            return self.function(ctx, **inputs, **options)

    def input_files(self, options: SimpleNamespace) -> list[Path]:
        """Files that it reads beside its InputFiles options: `input_files` of its module.

        They enter the fingerprint by content, as those of the options do.
        """
        named = self._of_module("input_files")
        return list(named(options)) if named else []

    @property
    def reads_release(self) -> bool:
        """Whether it reads a release that its options name: `READS_RELEASE` of its module."""
        return bool(self._of_module("READS_RELEASE"))

    def preview(self, options: SimpleNamespace) -> list[str]:
        """What it will read, in lines that `plan` prints: `preview` of its module, if any.

        Args:
            options: The step's options.
        """
        function = self._of_module("preview")
        return list(function(options)) if function else []

    def _of_module(self, name: str) -> Any:
        return getattr(sys.modules[self.function.__module__], name, None)

    def reads(self, edge: str, options: SimpleNamespace) -> Sequence[str] | str:
        """The columns that the stage reads on an edge beside `id`, or ALL.

        Of pairs, prompt and both sides are read where a stage reads the messages of records.

        Args:
            edge: The edge's name.
            options: The step's options.
        """
        reads = self._reads(options) if callable(self._reads) else self._reads
        if isinstance(reads, Mapping):
            reads = list(reads.get(edge, ()))
        elif edge in self.later:
            reads = []
        kind = next((e.kind for e in self.edges if e.name == edge), None)
        return _of_pairs(reads) if kind is DataKind.PAIRS and reads != ALL else reads

    def adds(self, options: SimpleNamespace, edges: Edges) -> Columns:
        """The columns that the stage adds, with polars types.

        Args:
            options: The step's options.
            edges: The columns of what is connected to each edge.
        """
        return self._adds(options, edges) if callable(self._adds) else self._adds


def _of_pairs(reads: Sequence[str]) -> list[str]:
    """The columns of pairs that stand for those of records."""
    columns = {"messages": ["prompt", "chosen", "rejected"], "input_start": []}
    return list(dict.fromkeys(c for name in reads for c in columns.get(name, [name])))


def stage(
    *,
    version: int,
    scope: Literal["row", "set"],
    reads: Reads = (),
    adds: Adds | None = None,
    files: bool = False,
    check: Callable[[Any], None] | None = None,
    later: Sequence[str] = (),
) -> Callable[[Function], Function]:
    """Mark a function as a stage.

    Args:
        version: Raised by whoever changes what it computes; part of the fingerprint.
        scope: "row" if a row's result depends on that row alone (the runner then maps it
            over chunks and remembers results per row), else "set".
        reads: The columns it reads on every Records edge but those of `later`, or per edge by
            name, or a function of the options that returns either; `ALL` for every column.
        adds: The columns it adds, with polars types, or a function of (options, edges).
        files: Whether it fills `ctx.files` beside its rows; a stage that returns None
            always does.
        check: Called with the options before any stage runs, to raise an `OptionError` for
            options that do not go together.
        later: Edges and options that the stage got after it had results. Unconnected, and with
            their defaults, they are no part of the fingerprint: these results stay valid.
    """

    def mark(function: Function) -> Function:
        function.__stage__ = SimpleNamespace(  # type: ignore[attr-defined]
            version=version, scope=scope, reads=reads, adds=adds or {}, files=files, check=check,
            later=frozenset(later),
        )  # fmt: skip
        return function

    return mark
