"""One step, from its inputs to rows with a verdict.

A row-scope stage sees its rows in parts, and so does another where its edge is declared so; a
stage that makes rows may give them in parts, in any order. What it gives is validated
(`contract.py`) and written by verdict (`verdicts.py`) part by part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import polars as pl

from pipeline.context import Context
from pipeline.execution.contract import validated
from pipeline.execution.first_rows import first_ids
from pipeline.execution.group import call_stage
from pipeline.execution.plan import PlannedStep, StepOutputs, edge_argument, edge_columns
from pipeline.execution.row_stage import RowStage
from pipeline.execution.verdicts import Outcome, rows_writer, without_rows
from pipeline.execution.workers import WorkerPool
from pipeline.stage import DataKind, Edge
from pipeline.store.row_cache import RowCache, cache_key
from pipeline.store.row_view import Rows
from pipeline.store.store import Store


def execute(
    planned: PlannedStep, outputs: StepOutputs, store: Store, ctx: Context, pool: WorkerPool
) -> Outcome:
    """Run the stage of a planned step on its inputs.

    Args:
        planned: The step; its inputs exist.
        outputs: The artifacts of the steps before it.
        store: Where cached rows are.
        ctx: What the stage gets as its first argument; beside `ctx.files` its rows are written.
        pool: Worker processes for row-scope stages.

    Raises:
        UserError: The stage broke its contract, or raised one itself.
    """
    for maker in planned.step.makers:
        outputs.artifacts[maker].verified_files()
    stage = planned.step.stage
    with rows_writer(planned, ctx.files.parent) as writer:
        if stage.gives_rows and stage.scope == "row":
            edges = step_inputs(planned, outputs, stage.edges[1:])
            (rows,) = _edge_rows(planned, outputs, stage.edges[0])
            assert planned.parts is not None
            cache = RowCache(store.row_cache(cache_key(planned.parts)))
            computed = RowStage(planned, rows, cache, writer.add).run(edges, ctx, pool)
            return writer.finish(None, computed)
        edges = step_inputs(planned, outputs, stage.edges)
        read, ids = _count_read(planned, edges), _ids(planned, edges)
        result = call_stage(stage, ctx, edges, planned.options)
        del edges  # they may be large, and what follows needs memory of its own
        if result is None and not stage.gives_rows:
            return without_rows()
        is_parts = stage.creates and isinstance(result, Iterator)
        for frame in result if is_parts else [result]:
            writer.add(validated(planned, frame, ids))
        return writer.finish(read)


def step_inputs(
    planned: PlannedStep, outputs: StepOutputs, edges: Sequence[Edge]
) -> dict[str, Any]:
    """The inputs by edge: rows sorted by id, folders, lists of them, or None.

    The steps that it needs must be among the outputs.

    Args:
        planned: The step.
        outputs: The artifacts of the steps before it.
        edges: The edges to read.
    """
    inputs: dict[str, Any] = {}
    for edge in edges:
        names = planned.step.needs.get(edge.name, [])
        if edge.kind is DataKind.FILES:
            values: list[Any] = [outputs.artifacts[name].verified_files() for name in names]
        elif edge.in_parts:
            values = _edge_rows(planned, outputs, edge)
        else:
            values = [rows.read() for rows in _edge_rows(planned, outputs, edge)]
        if _joins_branches(planned, edge):
            values = _common_rows(values)
        inputs[edge.name] = edge_argument(edge, names, values)
    return inputs


def _edge_rows(planned: PlannedStep, outputs: StepOutputs, edge: Edge) -> list[Rows]:
    """What comes on an edge of rows, from each of its steps."""
    rows = []
    for name in planned.step.needs.get(edge.name, []):
        view, only = outputs.views[name], None
        if planned.step.limit and edge.name == planned.step.limited_edge:
            only = first_ids(view.read, view.columns, planned.step.limit)
        columns = edge_columns(planned.step, edge.name, edge.kind, view)
        rows.append(Rows(view, tuple(columns), only))
    return rows


def _joins_branches(planned: PlannedStep, edge: Edge) -> bool:
    """Whether a step of a preview joins branches over the same rows, of which some are limited."""
    is_limited = "limit" in (planned.parts or {})
    stage = planned.step.stage
    return is_limited and stage.annotates and edge.many and edge is stage.edges[0]


def _common_rows(branches: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """The rows that all branches have."""
    ids = [frame["id"] for frame in branches]
    common = reduce(lambda a, b: a.filter(a.is_in(b.implode())), ids)
    return [frame.filter(pl.col("id").is_in(common.implode())) for frame in branches]


def _ids(planned: PlannedStep, edges: Mapping[str, Any]) -> pl.Series | None:
    """The ids of the rows that a stage annotates; None where it makes its own, or files."""
    stage = planned.step.stage
    if not stage.annotates:
        return None
    first = _frames(edges[stage.edges[0].name])[0]
    ids: pl.Series = first["id"]
    return ids


def _frames(value: Any) -> list[Any]:
    """What came on an edge, of one step or of several."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def has_cached_rows(planned: PlannedStep, store: Store) -> bool:
    """Whether the row cache holds results of the step."""
    by_rows = planned.step.stage.gives_rows and planned.step.stage.scope == "row"
    assert planned.parts is not None
    return by_rows and any(store.row_cache(cache_key(planned.parts)).glob("*.parquet"))


def _count_read(planned: PlannedStep, edges: Mapping[str, Any]) -> int | None:
    """How many rows came in; None where they are all that the stage gives.

    A stage without edges reads all of its rows from a source, one over a list of inputs
    returns a row for each of theirs, any other that makes rows creates them.
    """
    stage = planned.step.stage
    if not stage.creates or not stage.edges:
        return None
    if not stage.edges[0].many:
        return 0
    return sum(len(frame) for frame in _frames(edges[stage.edges[0].name]))
