"""One step, from its inputs to rows with a verdict.

The output of the stage is validated against its declaration: one row for each input
row, the declared columns in their types, ids that are unique. Every row then is kept,
dropped or failed, so in + created = kept + dropped + failed holds by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.backends import StageCall
from pipeline.execution.first_rows import first_ids
from pipeline.execution.group import call_stage
from pipeline.execution.plan import PlannedStep, StepOutputs, edge_argument, edge_columns
from pipeline.execution.workers import WorkerPool
from pipeline.stage import BASE_COLUMNS, VERDICT, DataKind, Edge
from pipeline.store.hashing import row_keys
from pipeline.store.row_cache import KEY, RowCache, cache_key
from pipeline.store.store import Store
from schemas.manifest import FAILED, Counts
from schemas.records import polars_schema


@dataclass(frozen=True)
class Outcome:
    """The rows of a step by verdict, sorted by id.

    Attributes:
        kept: Rows for the next steps.
        dropped: Rows with a `drop_reason`.
        failed: Rows with an `error`; see `schemas.manifest.FAILED`.
        counts: Their numbers.
        computed: How many rows were not cached.
    """

    kept: pl.DataFrame
    dropped: pl.DataFrame
    failed: pl.DataFrame
    counts: Counts
    computed: int


def execute(
    planned: PlannedStep, outputs: StepOutputs, store: Store, ctx: Context, pool: WorkerPool
) -> Outcome:
    """Run the stage of a planned step on its inputs.

    Args:
        planned: The step; its inputs exist.
        outputs: The artifacts of the steps before it.
        store: Where cached rows are.
        ctx: What the stage gets as its first argument.
        pool: Worker processes for row-scope stages.

    Raises:
        UserError: The stage broke its contract, or raised one itself.
    """
    stage, edges = planned.step.stage, step_inputs(planned, outputs)
    for maker in planned.step.makers:
        outputs.artifacts[maker].verified_files()
    if stage.gives_rows and stage.scope == "row":
        result, computed = _run_by_rows(planned, edges, store, ctx, pool)
    else:
        result = call_stage(stage, ctx, edges, planned.options)
        computed = len(result) if isinstance(result, pl.DataFrame) else 0
    if result is None and not stage.gives_rows:
        return _without_rows()
    rows = _validate(planned, result, edges)
    return _split_by_verdict(planned, rows, edges, computed)


def step_inputs(planned: PlannedStep, outputs: StepOutputs) -> dict[str, Any]:
    """The inputs by edge: frames sorted by id, folders, lists of them, or None.

    The steps that it needs must be among the outputs.
    """
    edges: dict[str, Any] = {}
    for edge in planned.step.stage.edges:
        values: list[Any] = []
        names = planned.step.needs.get(edge.name, [])
        for name in names:
            if edge.kind is DataKind.FILES:
                values.append(outputs.artifacts[name].verified_files())
            else:
                view = outputs.views[name]
                values.append(view.read(edge_columns(planned.step, edge.name, edge.kind, view)))
                if planned.step.limit and edge.name == planned.step.limited_edge:
                    ids = first_ids(view.read, view.columns, planned.step.limit)
                    values[-1] = values[-1].filter(pl.col("id").is_in(ids.implode()))
        if _joins_branches(planned, edge):
            values = _common_rows(values)
        edges[edge.name] = edge_argument(edge, names, values)
    return edges


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


def _first_input(planned: PlannedStep, edges: Mapping[str, Any]) -> pl.DataFrame:
    frame = _frames(edges[planned.step.stage.edges[0].name])[0]
    assert isinstance(frame, pl.DataFrame)
    return frame


def _frames(value: Any) -> list[Any]:
    """What came on an edge, of one step or of several."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def _run_by_rows(
    planned: PlannedStep, edges: Mapping[str, Any], store: Store, ctx: Context, pool: WorkerPool
) -> tuple[pl.DataFrame, int]:
    """The output for every row, and how many rows were computed.

    Rows with equal values are computed once; what is in the row cache is not computed, and
    every chunk is added to the cache as soon as it is done.
    """
    stage, rows = planned.step.stage, _first_input(planned, edges)
    _, *other_edges = [edge.name for edge in stage.edges]
    assert planned.parts is not None
    cache = RowCache(store.row_cache(cache_key(planned.parts)))
    # An id is a hash of the messages and the tools.
    id_is_key = set(rows.columns) <= {"id", "messages", "tools"}
    keyed = rows.with_columns((rows["id"] if id_is_key else row_keys(rows.drop("id"))).alias(KEY))
    cached = _cached_rows(planned, cache)
    new = keyed.unique(KEY, keep="first", maintain_order=True)
    new = new.join(cached.select(KEY), on=KEY, how="anti", maintain_order="left")
    call = StageCall(stage, planned.options, {name: edges[name] for name in other_edges}, ctx.work)
    results = [cached]
    done = 0
    for start, size, result in pool.run(call, new.drop(KEY), ctx):
        chunk = new.slice(start, size)
        output = _validate(planned, result, {stage.edges[0].name: chunk})
        output = output.with_columns(chunk[KEY]).drop("id")
        succeeded = output.filter(pl.col("error").is_null()).drop("error")
        # What followed from an answer that is missing is no result of its row.
        if not ctx.budget.not_sent:
            cache.add(succeeded)
        results += [succeeded, output.filter(pl.col("error").is_not_null())]
        done += size
        ctx.progress(done, len(new))
    cache.compact()
    by_key = pl.concat(results, how="diagonal")
    joined = keyed.select(KEY).join(by_key, on=KEY, how="left", maintain_order="left")
    return joined.drop(KEY), len(new)


def _cached_rows(planned: PlannedStep, cache: RowCache) -> pl.DataFrame:
    """The cached rows, with all columns that the stage gives; no rows where there are none.

    Raises:
        UserError: They have other columns than the stage gives now.
    """
    verdict = {name: pl.String() for name in VERDICT}
    empty = pl.DataFrame(schema={KEY: pl.String(), **_declared(planned), **verdict})
    cached = cache.read()
    if not len(cached):
        return empty
    if set(cached.columns) != {*empty.columns} - {"error"}:
        stage = planned.step.stage
        raise UserError(
            f"the cached rows of {stage.name} have other columns than it gives now",
            where=planned.step.where,
            why="they were computed by other code under the same version",
            hint="raise version= in @stage: then they are computed again",
        )
    return pl.concat([empty, cached], how="diagonal")


def has_cached_rows(planned: PlannedStep, store: Store) -> bool:
    """Whether the row cache holds results of the step."""
    by_rows = planned.step.stage.gives_rows and planned.step.stage.scope == "row"
    assert planned.parts is not None
    return by_rows and any(store.row_cache(cache_key(planned.parts)).glob("*.parquet"))


def _validate(planned: PlannedStep, result: Any, edges: Mapping[str, Any]) -> pl.DataFrame:
    """The output with ids and exactly the declared columns, in their types.

    Args:
        planned: The step.
        result: What its stage returned.
        edges: The inputs; of a row-scope stage, the chunk that it was called with.

    Raises:
        UserError: It is not what the stage declares.
    """
    stage = planned.step.stage
    if not isinstance(result, pl.DataFrame):
        raise _contract_error(
            planned, f"must return a polars DataFrame, got {type(result).__name__}"
        )
    if stage.makes:
        columns = {**BASE_COLUMNS[stage.makes], **_declared(planned)}
        source = {"file": pl.String(), "line": pl.Int64()}
        return _select_columns(planned, result, {**columns, **source}, optional=("file", "line"))
    ids = _first_input(planned, edges)["id"]
    if len(result) != len(ids):
        raise _contract_error(
            planned, f"must return one row for each of the {len(ids)} input rows, got {len(result)}"
        )
    return _select_columns(planned, result, _declared(planned)).select(ids, pl.all())


def _declared(planned: PlannedStep) -> dict[str, Any]:
    """The added columns under the names that the stage itself uses."""
    original = {new: old for old, new in planned.step.rename.items()}
    return {original.get(name, name): dtype for name, dtype in planned.step.own.items()}


def _select_columns(
    planned: PlannedStep,
    result: pl.DataFrame,
    declared: Mapping[str, Any],
    optional: Sequence[str] = (),
) -> pl.DataFrame:
    """The declared columns and the verdict, in this order and in their types.

    Args:
        planned: The step.
        result: What its stage returned.
        declared: Columns with their types.
        optional: Those of them that may be missing; they are then null.
    """
    verdict = {name: pl.String() for name in VERDICT}
    missing = [name for name in declared if name not in {*result.columns, *optional}]
    undeclared = [name for name in result.columns if name not in {*declared, *verdict, "id"}]
    if missing:
        raise _contract_error(planned, f"declares the columns {missing}, but did not return them")
    if undeclared:
        raise _contract_error(planned, f"returned the columns {undeclared}, but declares no such")
    try:
        return result.select(
            pl.col(name).cast(dtype)
            if name in result.columns
            else pl.repeat(None, len(result), dtype=dtype).alias(name)
            for name, dtype in {**declared, **verdict}.items()
        )
    except pl.exceptions.PolarsError as error:
        raise _contract_error(
            planned, f"returned a column of another type than declared: {error}"
        ) from None


def _contract_error(planned: PlannedStep, what: str) -> UserError:
    return UserError(
        f"the stage {planned.step.stage.name} {what}",
        where=planned.step.where,
        hint=f"fix {planned.step.stage.function.__name__}(); the stage contract is documented "
        "in pipeline/stage.py",
    )


def _split_by_verdict(
    planned: PlannedStep, rows: pl.DataFrame, edges: Mapping[str, Any], computed: int
) -> Outcome:
    """Split rows into kept, dropped and failed ones, and count them."""
    is_failed = pl.col("error").is_not_null()
    is_dropped = ~is_failed & pl.col("drop_reason").is_not_null()
    rename = dict(planned.step.rename)
    kept = rows.filter(~is_failed & ~is_dropped).drop(*VERDICT, "file", "line", strict=False)
    kept = kept.rename(rename, strict=False).sort("id")
    if kept["id"].null_count() or kept["id"].n_unique() != len(kept):
        raise _contract_error(planned, "must keep unique ids, got a null or a repeated id")
    dropped = rows.filter(is_dropped).drop("error", "file", "line", strict=False)
    dropped = dropped.rename(rename, strict=False).sort("id", maintain_order=True)
    failed = rows.filter(is_failed)
    failed = failed.select(
        pl.col(name).cast(dtype) if name in failed.columns else pl.lit(None, dtype).alias(name)
        for name, dtype in polars_schema(FAILED).items()
    ).sort("id", "file", "line")
    read = _count_read(planned, rows, edges)
    counts: Counts = {
        "in": read,
        "created": len(rows) - read,
        "kept": len(kept),
        "dropped": dict(sorted(dropped["drop_reason"].value_counts().iter_rows())),
        "failed": len(failed),
    }
    return Outcome(kept, dropped, failed, counts, computed)


def _count_read(planned: PlannedStep, rows: pl.DataFrame, edges: Mapping[str, Any]) -> int:
    """How many of the rows came in; the others were created by the stage.

    A stage without edges reads all of its rows from a source, one over a list of inputs
    returns a row for each of theirs, any other that makes rows creates them.
    """
    stage = planned.step.stage
    if not stage.creates or not stage.edges:
        return len(rows)
    if not stage.edges[0].many:
        return 0
    came = sum(len(frame) for frame in _frames(edges[stage.edges[0].name]))
    if came != len(rows):
        raise _contract_error(
            planned,
            f"must return one row for each of the {came} input rows, got {len(rows)}",
        )
    return came


def _without_rows() -> Outcome:
    empty = pl.DataFrame()
    counts: Counts = {"in": 0, "created": 0, "kept": 0, "dropped": {}, "failed": 0}
    return Outcome(empty, empty, empty, counts, 0)
