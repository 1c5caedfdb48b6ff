"""One stage, from its inputs to accounted rows.

Here a stage's answer is held to its word: one line per row, the declared columns,
no row without a verdict. in + created = kept + dropped + failed is not checked
afterwards; it cannot come out otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.plan import PlannedStep, StepOutputs, edge_columns
from pipeline.execution.workers import StageCall, WorkerPool
from pipeline.stage import BASE_COLUMNS, VERDICT, DataKind
from pipeline.store.hashing import digest, row_keys
from pipeline.store.row_cache import KEY, RowCache
from pipeline.store.store import Store
from schemas.manifest import FAILED, Counts
from schemas.records import polars_schema


@dataclass(frozen=True)
class Outcome:
    """A stage's rows by verdict, in id order. computed: lines that were not remembered."""

    kept: pl.DataFrame
    dropped: pl.DataFrame
    failed: pl.DataFrame
    counts: Counts
    computed: int


def execute(
    look: PlannedStep, made: StepOutputs, store: Store, ctx: Context, pool: WorkerPool
) -> Outcome:
    """Run a planned stage on its inputs. Raises UserError for what the user can mend."""
    stage, edges = look.step.stage, _inputs(look, made)
    if stage.gives_rows and stage.scope == "row":
        result, computed = _by_rows(look, edges, store, ctx, pool)
    else:
        result = stage.function(ctx, **edges, **vars(look.options))
        computed = len(result) if isinstance(result, pl.DataFrame) else 0
    if result is None and not stage.gives_rows:
        return _nothing()
    lines = _checked(look, result, edges)
    return _settled(look, lines, edges, computed)


def _inputs(look: PlannedStep, made: StepOutputs) -> dict[str, Any]:
    """What goes before the star: frames in id order, folders, lists of them, or None."""
    edges: dict[str, Any] = {}
    for edge in look.step.stage.edges:
        values: list[Any] = []
        for name in look.step.needs.get(edge.name, ()):
            if edge.kind is DataKind.FILES:
                values.append(made.artifacts[name].files)
            else:
                view = made.views[name]
                values.append(view.read(edge_columns(look.step, edge.name, edge.kind, view)))
        edges[edge.name] = values if edge.many else next(iter(values), None)
    return edges


def _first(look: PlannedStep, edges: Mapping[str, Any]) -> pl.DataFrame:
    value = edges[look.step.stage.edges[0].name]
    frame = value[0] if isinstance(value, list) else value
    assert isinstance(frame, pl.DataFrame)
    return frame


def _by_rows(
    look: PlannedStep, edges: Mapping[str, Any], store: Store, ctx: Context, pool: WorkerPool
) -> tuple[pl.DataFrame, int]:
    """Results for every row: remembered ones, and new ones chunk by chunk."""
    stage, rows = look.step.stage, _first(look, edges)
    _, *others = [edge.name for edge in stage.edges]
    memo = RowCache(store.memo(_memo_key(look)))
    # An id stands for the messages.
    named = set(rows.columns) <= {"id", "messages"}
    keyed = rows.with_columns((rows["id"] if named else row_keys(rows.drop("id"))).alias(KEY))
    known = memo.read()
    new = keyed.unique(KEY, keep="first", maintain_order=True)
    if len(known):
        new = new.join(known.select(KEY), on=KEY, how="anti", maintain_order="left")
    call = StageCall(stage, look.options, {name: edges[name] for name in others}, ctx.work)
    verdict = {name: pl.String() for name in VERDICT}
    results = [pl.DataFrame(schema={KEY: pl.String(), **_declared(look), **verdict})]
    results += [known] if len(known) else []
    done = 0
    for start, size, result in pool.run(call, new.drop(KEY), ctx):
        chunk = new.slice(start, size)
        lines = _checked(look, result, {stage.edges[0].name: chunk})
        lines = lines.with_columns(chunk[KEY]).drop("id")
        fine = lines.filter(pl.col("error").is_null()).drop("error")
        memo.add(fine)
        results.append(fine)
        results.append(lines.filter(pl.col("error").is_not_null()))
        done += size
        ctx.progress(done, len(new))
    memo.compact()
    answers = pl.concat(results, how="diagonal")
    joined = keyed.select(KEY).join(answers, on=KEY, how="left", maintain_order="left")
    return joined.drop(KEY), len(new)


def remembered(look: PlannedStep, store: Store) -> bool:
    """Whether results of the stage are remembered row by row."""
    row_wise = look.step.stage.gives_rows and look.step.stage.scope == "row"
    return row_wise and any(store.memo(_memo_key(look)).glob("*.parquet"))


def _memo_key(look: PlannedStep) -> str:
    """All parts of the fingerprint but the rows themselves and the names in the recipe."""
    assert look.parts is not None
    parts = {name: part for name, part in look.parts.items() if name != "as"}
    others = [edge.name for edge in look.step.stage.edges[1:]]
    parts["inputs"] = {name: parts["inputs"][name] for name in others}
    return digest(parts)


def _checked(look: PlannedStep, result: Any, edges: Mapping[str, Any]) -> pl.DataFrame:
    """The lines with ids and exactly the declared columns, in their types."""
    stage = look.step.stage
    if not isinstance(result, pl.DataFrame):
        raise _broken(look, f"returned {type(result).__name__} instead of a polars DataFrame")
    if stage.creates:
        expected = {**BASE_COLUMNS[stage.makes], **_declared(look)} if stage.makes else {}
        places = {"file": pl.String(), "line": pl.Int64()}
        return _typed(look, result, {**expected, **places}, optional=("file", "line"))
    rows = _first(look, edges)
    return _conform(look, result, rows["id"])


def _conform(look: PlannedStep, result: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """An annotating stage's answer for the rows with these ids."""
    if len(result) != len(ids):
        raise _broken(look, f"returned {len(result)} lines for {len(ids)} rows")
    lines = _typed(look, result, _declared(look), optional=())
    return lines.select(ids, pl.all())


def _declared(look: PlannedStep) -> dict[str, Any]:
    """The added columns under the names that the stage itself uses."""
    original = {new: old for old, new in look.step.rename.items()}
    return {original.get(name, name): dtype for name, dtype in look.step.own.items()}


def _typed(
    look: PlannedStep, result: pl.DataFrame, expected: Mapping[str, Any], optional: tuple[str, ...]
) -> pl.DataFrame:
    verdict = {name: pl.String() for name in VERDICT}
    missing = [name for name in expected if name not in result.columns and name not in optional]
    unknown = [name for name in result.columns if name not in {*expected, *verdict, "id"}]
    if missing or unknown:
        told = f"lacks {missing}" if missing else f"has undeclared {unknown}"
        raise _broken(look, f"returned a frame that {told}")
    wanted = {**expected, **verdict}
    try:
        return result.select(
            pl.col(name).cast(dtype)
            if name in result.columns
            else pl.repeat(None, len(result), dtype=dtype).alias(name)
            for name, dtype in wanted.items()
        )
    except pl.exceptions.PolarsError as error:
        raise _broken(look, f"returned a column of another type: {error}") from None


def _broken(look: PlannedStep, what: str) -> UserError:
    return UserError(
        f"the stage {look.step.stage.name} {what}",
        where=look.step.where,
        hint=f"mend {look.step.stage.function.__name__}; the contract heads pipeline/stage.py",
    )


def _settled(
    look: PlannedStep, lines: pl.DataFrame, edges: Mapping[str, Any], computed: int
) -> Outcome:
    """Split lines by verdict and count them."""
    failed = pl.col("error").is_not_null()
    dropped = ~failed & pl.col("drop_reason").is_not_null()
    kept = lines.filter(~failed & ~dropped).drop(*VERDICT, "file", "line", strict=False)
    kept = kept.rename(dict(look.step.rename), strict=False).sort("id")
    if kept["id"].null_count() or kept["id"].n_unique() != len(kept):
        raise _broken(look, "keeps two rows of one id, or a row without an id")
    gone = lines.filter(dropped).drop("error", "file", "line", strict=False)
    gone = gone.rename(dict(look.step.rename), strict=False).sort("id", maintain_order=True)
    lost = lines.filter(failed)
    schema = polars_schema(FAILED)
    lost = lost.select(
        pl.col(name).cast(dtype) if name in lost.columns else pl.lit(None, dtype).alias(name)
        for name, dtype in schema.items()
    ).sort("id", "file", "line")
    read = _read_positions(look, lines, edges)
    counts: Counts = {
        "in": read,
        "created": len(lines) - read,
        "kept": len(kept),
        "dropped": dict(sorted(gone["drop_reason"].value_counts().iter_rows())),
        "failed": len(lost),
    }
    return Outcome(kept, gone, lost, counts, computed)


def _read_positions(look: PlannedStep, lines: pl.DataFrame, edges: Mapping[str, Any]) -> int:
    """How many of the lines came in; the others were created here.

    A stage without edges reads positions of a source, one over a list of inputs
    gives a line for each of their rows, any other that makes rows invents them.
    """
    stage = look.step.stage
    if not stage.creates or not stage.edges:
        return len(lines)
    if not stage.edges[0].many:
        return 0
    came = sum(len(frame) for frame in edges[stage.edges[0].name])
    if came != len(lines):
        raise _broken(look, f"returned {len(lines)} lines for {came} rows of its inputs")
    return came


def _nothing() -> Outcome:
    empty = pl.DataFrame()
    counts: Counts = {"in": 0, "created": 0, "kept": 0, "dropped": {}, "failed": 0}
    return Outcome(empty, empty, empty, counts, 0)
