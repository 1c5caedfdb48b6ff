"""Rows behind steps that have not run: how many there may be, and stand-ins for them.

A plan follows the rows through the graph as if nothing were dropped on the way: a stage that
annotates keeps at most the rows that come in, one over several inputs at most their sum, and
what a generator makes is known from counting it. So a judge behind a generator is bounded
before the generator has run. What is *expected* is less where an earlier run of a step shows
which part of its rows it keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from pipeline.execution.first_rows import first_ids
from pipeline.execution.plan import PlannedStep, StepOutputs
from pipeline.recipe.graph import Step
from pipeline.stage import BASE_COLUMNS
from pipeline.store.artifact import Artifact
from pipeline.store.row_view import View


@dataclass(frozen=True)
class ExpectedRows:
    """The rows that a step gives, or will give.

    Attributes:
        columns: Their columns, `id` among them.
        read: Reads named columns, of a sample of the rows or of stand-ins.
        expected: How many there will be, as far as earlier runs say.
        at_most: How many there can be; infinite where nothing bounds them.
        exist: Whether they are there.
    """

    columns: list[str]
    read: Callable[[Sequence[str]], pl.DataFrame]
    expected: float
    at_most: float
    exist: bool = False

    def first(self, number: int) -> ExpectedRows:
        """The first of them, as a preview has them."""

        def read(columns: Sequence[str]) -> pl.DataFrame:
            ids = first_ids(self.read, self.columns, number)
            return self.read(columns).filter(pl.col("id").is_in(ids.implode()))

        expected, at_most = min(self.expected, number), min(self.at_most, number)
        return ExpectedRows(self.columns, read, expected, at_most, self.exist)


@dataclass
class ExpectedOutputs:
    """What steps have given, and what those that have not run will give.

    Attributes:
        outputs: What is there.
        coming: What is not, by step; nothing for a step of which nothing is known.
    """

    outputs: StepOutputs = field(default_factory=StepOutputs)
    coming: dict[str, ExpectedRows] = field(default_factory=dict)

    def rows(self, name: str) -> ExpectedRows | None:
        """The rows behind a step; None where they are not known."""
        view = self.outputs.views.get(name)
        return self.coming.get(name) if view is None else _existing(view)

    def on_edge(self, step: Step, edge: str, name: str) -> ExpectedRows | None:
        """The rows that come to an edge of a step from another step; None where not known.

        Args:
            step: The step.
            edge: The edge.
            name: The step that it is connected to.
        """
        rows = self.rows(name)
        if rows is None or step.limit is None or edge != step.limited_edge:
            return rows
        return rows.first(step.limit)

    def first_edge(self, step: Step) -> list[ExpectedRows] | None:
        """The rows that come in on a step's first edge; None where some are not known."""
        edges = step.stage.edges
        names = step.needs.get(edges[0].name, ()) if edges else ()
        on_edge = [self.on_edge(step, edges[0].name, name) for name in names]
        sources = [rows for rows in on_edge if rows is not None]
        return sources if sources and len(sources) == len(names) else None

    def add(self, planned: PlannedStep, last: Artifact | None, generated: pl.DataFrame | None,
            number: float) -> None:  # fmt: skip
        """Follow the rows through a step that has not run.

        Args:
            planned: The step.
            last: The artifact of an earlier run of it.
            generated: What it made while it was counted, where it makes rows with a model.
            number: How many rows that stands for.
        """
        rows = self._behind(planned.step, last, generated, number)
        if rows is not None:
            self.coming[planned.step.name] = rows

    def _behind(
        self, step: Step, last: Artifact | None, generated: pl.DataFrame | None, number: float
    ) -> ExpectedRows | None:
        stage, columns = step.stage, list(dict.fromkeys(["id", *step.columns]))
        fraction = _kept_fraction(last)
        if generated is not None:
            frame = _complete(generated, step)
            return ExpectedRows(columns, partial(_select, frame), number * fraction, number)
        sources = self.first_edge(step)
        if stage.annotates and sources:
            (source,) = sources[:1]
            # Whether a budget counts rows or tokens, no more rows than that are kept.
            budget = getattr(step.options, "budget", None)
            budget = getattr(budget, "rows", budget)  # one in rows and tokens at once
            limit = float(budget) if isinstance(budget, int) else math.inf
            return ExpectedRows(
                columns,
                partial(_annotated, source, step),
                min(source.expected * fraction, limit),
                min(source.at_most, limit),
            )
        if stage.creates and sources and stage.edges[0].many:
            return ExpectedRows(
                columns, partial(_joined, sources, step),
                sum(source.expected for source in sources) * fraction,
                sum(source.at_most for source in sources),
            )  # fmt: skip
        if stage.creates and not stage.edges and last is not None:
            # A source that changed: about as many rows as it had.
            return ExpectedRows(columns, partial(_of_artifact, last, step), last.kept, math.inf)
        return None


def _existing(view: View) -> ExpectedRows:
    return ExpectedRows(view.columns, view.read, len(view), len(view), exist=True)


def _select(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    return frame.select("id", *[c for c in columns if c != "id"])


def _kept_fraction(last: Artifact | None) -> float:
    """The part of the rows that are kept; failed rows that are tried again say nothing of it."""
    if last is None:
        return 1.0
    counts = last.manifest["counts"]
    decided = counts["in"] + counts["created"]
    if last.manifest["incomplete"]:
        decided -= counts["failed"]
        if not decided:
            return 1.0
    return counts["kept"] / (decided or 1)


def _annotated(source: ExpectedRows, step: Step, columns: Sequence[str]) -> pl.DataFrame:
    """The input's rows with made-up values of the columns that the step will add."""
    frame = source.read([c for c in columns if c not in step.own])
    samples = getattr(step.options, "num_samples", 1)  # of an answer, which a list then holds
    added = [_column(c, step.own[c], len(frame), samples) for c in columns if c in step.own]
    return frame.with_columns(added)


def _joined(sources: Sequence[ExpectedRows], step: Step, columns: Sequence[str]) -> pl.DataFrame:
    frames = [source.read([c for c in columns if c in source.columns]) for source in sources]
    return _select(_complete(pl.concat(frames, how="diagonal_relaxed"), step), columns)


def _of_artifact(artifact: Artifact, step: Step, columns: Sequence[str]) -> pl.DataFrame:
    return _select(_complete(artifact.read("kept"), step), columns)


def _complete(frame: pl.DataFrame, step: Step) -> pl.DataFrame:
    """The rows with all columns behind the step."""
    frame = frame.rename(dict(step.rename), strict=False)
    base = BASE_COLUMNS[step.stage.makes] if step.stage.makes else {}
    missing = [
        _column(name, dtype, len(frame))
        for name, dtype in {**base, **step.own}.items()
        if name not in frame.columns
    ]
    return frame.with_columns(missing)


def _column(name: str, dtype: Any, number: int, length: int = 1) -> pl.Series:
    """A column of placeholders; length: of its lists, where it has any."""
    value = placeholder(dtype)
    value = value * length if isinstance(dtype, pl.List) else value
    return pl.Series(name, [value] * number, dtype=dtype)


def placeholder(dtype: Any) -> Any:
    """A value of a type: 1, true, a word, or a list of one."""
    if isinstance(dtype, pl.Array):
        return [placeholder(dtype.inner)] * dtype.size
    if isinstance(dtype, pl.List):
        return [placeholder(dtype.inner)]
    if isinstance(dtype, pl.Struct):
        return {entry.name: placeholder(entry.dtype) for entry in dtype.fields}
    if dtype == pl.String:
        return "word"
    return True if dtype == pl.Boolean else 1 if dtype.is_numeric() else None


def sample(frame: pl.DataFrame, rows: int) -> pl.DataFrame:
    """At most so many rows, from all over the frame.

    The first ones would not do: a run that was stopped has asked about those.
    """
    if len(frame) <= rows:
        return frame
    picked = np.linspace(0, len(frame) - 1, rows).astype(int)
    return frame.select(pl.all().gather(picked))
