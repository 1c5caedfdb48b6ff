"""The map of the embedding space: two principal axes of the vectors, a point for each row.

Principal components (Pearson 1901) and not a neighbor embedding: 52,002 vectors take a
second, the same ones give the same map, and distances on it mean something: they are never
longer than those of the vectors. The page says how much of the variance the axes hold.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.execution.snapshot import Snapshot, SnapshotStage
from stages.report._page.lineage import final_ids, lineage

MAX_POINTS: Final = 20_000
"""Points of the map; where there are more rows, those of the data set come first."""

GRID: Final = 10_000
"""Steps of a coordinate: a screen shows fewer."""


def embedding_map(snapshot: Snapshot, ids: pl.Series) -> dict[str, Any] | None:
    """Points for the rows that were embedded; None where none were.

    Args:
        snapshot: The stages.
        ids: The ids of the rows that the page knows, sorted: points name rows by position.

    Returns:
        `x` and `y` from 0 to `GRID`, `row` (a position in `ids`), `cluster` (null without),
        `variance` (the part that each axis holds), `rows` and `stage`.
    """
    passed = lineage(snapshot)
    embedding = next((s for s in reversed(passed) if _vector_column(s)), None)
    if embedding is None:
        return None
    table = _vectors(embedding)
    if len(table) < 3:
        return None
    total = len(table)
    table = _drawn(table, final_ids(snapshot)["id"])
    vectors = np.stack(list(table["vector"].to_numpy())).astype(np.float32)
    points, variance = _principal_axes(vectors)
    known = pl.DataFrame({"id": ids}).with_row_index("row")
    placed = table.select("id").with_columns(
        pl.Series("x", _on_grid(points[:, 0])), pl.Series("y", _on_grid(points[:, 1]))
    )
    clusters = _clusters(passed)
    placed = placed.join(known, on="id", how="inner", maintain_order="left")
    placed = placed.join(clusters, on="id", how="left", maintain_order="left")
    columns = {n: placed[n].to_list() for n in ("x", "y", "row")}
    shown = placed["cluster"].to_list() if len(clusters) else None
    facts = {"variance": variance, "rows": total, "stage": embedding.name}
    return {**columns, "cluster": shown, **facts}


def _vector_column(stage: SnapshotStage) -> str | None:
    """The column of vectors that a stage added; None where it added none."""
    if stage.artifact is None or stage.makes != "columns":
        return None
    names = [n for n in stage.artifact.columns("kept") if n != "id"]
    schema = stage.artifact.read("kept", names).schema if names else {}
    return next((n for n, dtype in schema.items() if _is_vector(dtype)), None)


def _is_vector(dtype: pl.DataType) -> bool:
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else None
    return isinstance(inner, pl.Float32 | pl.Float64)


def _vectors(stage: SnapshotStage) -> pl.DataFrame:
    """The ids and vectors of a stage's rows, in id order; rows of another length are left out."""
    assert stage.artifact is not None
    name = _vector_column(stage) or ""
    table = stage.artifact.read("kept", ["id", name]).rename({name: "vector"}).drop_nulls()
    if isinstance(table["vector"].dtype, pl.Array):
        return table
    length = table["vector"].list.len()
    if not len(table) or not length.max():
        return table.head(0)
    same = table.filter(length == length.max())
    return same.with_columns(pl.col("vector").list.to_array(int(length.max())))  # type: ignore[arg-type]


def _drawn(table: pl.DataFrame, chosen: pl.Series) -> pl.DataFrame:
    """At most `MAX_POINTS` of the rows: those of the data set, then others evenly, by id."""
    if len(table) <= MAX_POINTS:
        return table
    is_chosen = table["id"].is_in(chosen.implode())
    parts, room = [], MAX_POINTS
    for part in (table.filter(is_chosen), table.filter(~is_chosen)):
        steps = np.linspace(0, len(part) - 1, min(len(part), room)).astype(np.int64)
        parts.append(part[np.unique(steps)] if len(part) and room else part.head(0))
        room -= len(parts[-1])
    return pl.concat(parts).sort("id")


def _principal_axes(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[float]]:
    """The vectors on their first two principal axes, and the part of variance of each axis.

    The sign of an axis is that its longest coordinate is positive.
    """
    centered = np.nan_to_num(vectors - vectors.mean(axis=0, dtype=np.float64))
    values, axes = np.linalg.eigh((centered.T @ centered).astype(np.float64))
    leading = axes[:, ::-1][:, :2]
    if leading.shape[1] < 2:
        leading = np.pad(leading, ((0, 0), (0, 2 - leading.shape[1])))
    longest = leading[np.abs(leading).argmax(axis=0), [0, 1]]
    leading = leading * np.where(longest < 0, -1.0, 1.0)
    total = max(float(values.sum()), 1e-30)
    parts = [float(max(0.0, v)) / total for v in values[::-1][:2]]
    return centered @ leading, parts


def _on_grid(coordinates: NDArray[np.float64]) -> NDArray[np.int32]:
    low, high = float(coordinates.min()), float(coordinates.max())
    span = high - low or 1.0
    return np.round((coordinates - low) / span * GRID).astype(np.int32)


def _clusters(passed: list[SnapshotStage]) -> pl.DataFrame:
    """The cluster of every row that has one, of the last stage that adds `cluster`."""
    for stage in reversed(passed):
        if stage.artifact and "cluster" in stage.artifact.columns("kept"):
            parts = [p for p in ("kept", "dropped") if "cluster" in stage.artifact.columns(p)]
            frames = [stage.artifact.read(part, ["id", "cluster"]) for part in parts]
            rows = pl.concat(frames).drop_nulls().unique("id", keep="first", maintain_order=True)
            return rows.with_columns(pl.col("cluster").cast(pl.Int32))
    return pl.DataFrame(schema={"id": pl.String, "cluster": pl.Int32})
