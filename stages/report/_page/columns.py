"""What rows are, before and after: sources, licences, lengths, and the columns of stages.

*Before* a column are the rows that its stage saw, dropped ones included where it says what
they had; *after* are the rows of the data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import polars as pl

from pipeline.execution.snapshot import Snapshot, SnapshotStage
from schemas.turns import turn_texts
from stages.report._page.lineage import final_ids, lineage, origins_of_rows
from stages.report._page.texts import cut

MAX_VALUES: Final = 12
"""Values of a column that get a line of their own."""

MAX_DISTINCT: Final = 1000
"""Values of a column beyond which it is no tag."""

BINS: Final = 28
"""Bars of a histogram."""

Side = dict[str, Any]


def by_origin(snapshot: Snapshot, field: str) -> list[dict[str, Any]]:
    """Rows of each source or licence, as loaded or generated and in the data set.

    Args:
        snapshot: The stages.
        field: "source" or "license"; a row with several origins counts in each of them.
    """
    value = pl.element().struct.field(field).fill_null("(none)")
    frames = [
        stage.artifact.read("kept", ["id", "origins"])
        for stage in origins_of_rows(snapshot)
        if stage.artifact and "origins" in stage.artifact.columns("kept")
    ]
    if not frames:
        return []
    rows = pl.concat(frames).select("id", pl.col("origins").list.eval(value).list.unique())
    values = rows.explode("origins").unique().rename({"origins": "value"})
    return _value_counts(values, final_ids(snapshot))


def lengths(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The lengths of conversations in characters and turns, or of the sides of pairs."""
    frames = []
    for stage in origins_of_rows(snapshot):
        names = [n for n in ("messages", "prompt", "chosen", "rejected") if n in _kept(stage)]
        if stage.artifact and names:
            rows = stage.artifact.read("kept", ["id", *names])
            frames.append(pl.concat([_measured(rows, n) for n in names], how="align"))
    if not frames:
        return []
    rows = pl.concat(frames, how="diagonal").unique("id", keep="first", maintain_order=True)
    ids = final_ids(snapshot)
    return [
        {"name": name, **_distribution(rows.select("id", value=name), ids)}
        for name in rows.columns
        if name != "id"
    ]


def _measured(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """The lengths of the turns in one column: id and one column for each measure."""
    turns = turn_texts(rows[column].fill_null([]), "calls")
    size = pl.element().struct.field("content").str.len_chars()
    sizes = pl.DataFrame({"id": rows["id"], "turns": turns}).with_columns(
        sizes=pl.col("turns").list.eval(size)
    )
    if column != "messages":
        total = pl.col("sizes").list.sum().alias(f"{column} (characters)")
        return sizes.select("id", total)
    last_is_answer = pl.col("turns").list.last().struct.field("role") == "assistant"
    answer = pl.when(last_is_answer).then(pl.col("sizes").list.last())
    return sizes.select(
        "id",
        pl.col("sizes").list.sum().alias("conversation (characters)"),
        answer.alias("last answer (characters)"),
        pl.col("turns").list.len().alias("turns"),
    )


def stage_columns(snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    """The columns that the stages of the lineage added.

    Args:
        snapshot: The stages.

    Returns:
        `scores`, columns of numbers with percentiles and histograms; `flags`, of true and
        false; `tags`, of texts and few numbers with counts by value.
    """
    ids = final_ids(snapshot)
    result: dict[str, list[dict[str, Any]]] = {"scores": [], "flags": [], "tags": []}
    for stage in lineage(snapshot):
        for name, values in _own_columns(stage):
            kind = _kind(values["value"])
            if kind:
                shown = {"name": name, "stage": stage.name}
                count = _distribution if kind == "scores" else _tagged
                result[kind].append({**shown, **count(values, ids)})
    return result


def _own_columns(stage: SnapshotStage) -> Iterator[tuple[str, pl.DataFrame]]:
    """The columns that an annotating stage added: the name, and id and value of all its rows."""
    if stage.artifact is None or stage.makes != "columns":
        return
    stored = stage.artifact.columns("dropped")
    for name in _kept(stage):
        if name != "id":
            frames = [stage.artifact.read("kept", ["id", name])]
            if name in stored:
                frames.append(stage.artifact.read("dropped", ["id", name]))
            yield name, pl.concat(frames).rename({name: "value"})


def _kept(stage: SnapshotStage) -> list[str]:
    return stage.artifact.columns("kept") if stage.artifact else []


def _kind(values: pl.Series) -> str | None:
    """How a column is shown; None for vectors, structs and texts of many values."""
    dtype, distinct = values.dtype, 0
    if dtype == pl.Boolean:
        return "flags"
    if dtype == pl.List(pl.String):
        distinct = values.explode().n_unique()
    elif dtype == pl.String or dtype.is_integer():
        distinct = values.n_unique()
        if dtype.is_integer() and distinct > MAX_VALUES:
            return "scores"
    elif dtype.is_numeric():
        return "scores"
    else:
        return None
    return "tags" if 0 < distinct <= MAX_DISTINCT else None


def _tagged(values: pl.DataFrame, ids: pl.DataFrame) -> dict[str, Any]:
    if isinstance(values["value"].dtype, pl.List):
        values = values.explode("value").unique()
    named = values.with_columns(pl.col("value").cast(pl.String).fill_null("(none)"))
    if values["value"].dtype == pl.Boolean:
        named = named.filter(pl.col("value") == "true")
    counts = _value_counts(named, ids)
    rows = values["id"].n_unique()
    return {"values": counts, "rows": rows, "rows_after": len(ids)}


def _value_counts(values: pl.DataFrame, ids: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows by value before and after, most frequent first; the rare ones together."""
    after = pl.col("id").is_in(ids["id"].implode())
    counts = (
        values.group_by("value")
        .agg(pl.len().alias("before"), after.sum().alias("after"))
        .sort("before", "value", descending=[True, False])
    )
    shown = [{**row, "value": cut(row["value"])} for row in counts.head(MAX_VALUES).to_dicts()]
    if counts.height > MAX_VALUES:
        rest = counts[MAX_VALUES:]
        name = f"{rest.height:,} others"
        sums = {side: int(rest[side].sum()) for side in ("before", "after")}
        shown.append({"value": name, **sums})
    return shown


def _distribution(values: pl.DataFrame, ids: pl.DataFrame) -> dict[str, Any]:
    """Percentiles of numbers before and after, and two histograms over the same bars."""
    numbers = values.with_columns(pl.col("value").cast(pl.Float64)).drop_nulls()
    numbers = numbers.filter(pl.col("value").is_finite())
    sides = {"before": numbers, "after": numbers.join(ids, on="id", how="semi")}
    arrays = {side: frame["value"].to_numpy() for side, frame in sides.items()}
    whole = values["value"].dtype.is_integer()
    return {
        "whole": whole,
        **{side: _percentiles(array) for side, array in arrays.items()},
        "bars": _bars(arrays["before"], arrays["after"]),
    }


def _percentiles(array: np.ndarray[Any, np.dtype[np.float64]]) -> Side:
    if not len(array):
        return {"rows": 0}
    low, middle, high = (float(q) for q in np.quantile(array, [0.1, 0.5, 0.9]))
    return {"rows": len(array), "p10": low, "p50": middle, "p90": high}


def _bars(*arrays: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any] | None:
    """Shares of the rows in each bar, as parts of the highest; None where all are equal.

    The bars reach from the 1st to the 99th percentile, and the outer ones hold what is beyond.
    """
    if not len(arrays[0]):
        return None
    low, high = (float(q) for q in np.quantile(arrays[0], [0.01, 0.99]))
    if not high > low:
        return None
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(np.clip(a, low, high), edges)[0] / max(1, len(a)) for a in arrays]
    highest = max(float(count.max()) for count in counts)
    before, after = ([round(float(v) / highest, 4) for v in count] for count in counts)
    return {"low": low, "high": high, "before": before, "after": after}
