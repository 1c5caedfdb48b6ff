"""A row that is dropped and has no score says so, at every stage that chooses by a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.context import Context
from pipeline.recipe.discovery import find

ROWS = 24
SCORES = [float(n) if n % 3 else None for n in range(ROWS)]
STAGES: list[tuple[str, dict[str, Any]]] = [
    ("select.clusters", {"by": "ifd", "k": 2}),
    ("select.clusters", {"by": "ifd", "k": 2, "draw": True}),
    ("select.clusters", {"by": "ifd", "k": 2, "rule": "car"}),
    ("select.stratified", {"by": "ifd", "group": "kind"}),
    ("select.stratified", {"by": "ifd", "group": "kind", "descending": False}),
    ("select.top", {"by": "ifd"}),
    ("select.diverse", {"by": "ifd", "objective": "facility_location"}),
    ("mix.weights", {"by": "ifd", "group": "kind", "method": "balanced"}),
]


def pool() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ROWS, 4)).astype(np.float32)
    return pl.DataFrame(
        {
            "id": [f"{n:06x}" for n in range(ROWS)],
            "kind": ["a", "b"] * (ROWS // 2),
            "vector": vectors.tolist(),
            "ifd": pl.Series(SCORES, dtype=pl.Float64),
        },
        schema_overrides={"vector": pl.List(pl.Float32)},
    )


@pytest.mark.parametrize(("stage", "options"), STAGES)
def test_it_is_told_by_a_reason_of_its_own(
    stage: str, options: dict[str, Any], ctx: Context
) -> None:
    made = find(stage).function(ctx, pool(), budget=6, **options)
    missing = pool()["ifd"].is_null()
    assert set(made.filter(missing)["drop_reason"]) == {"missing_score"}
    assert set(made.filter(~missing)["drop_reason"]) == {None, "not_selected"}
    told = [json.loads(text) for text in made.filter(missing)["evidence"]]
    assert all(evidence["by"] == "ifd" for evidence in told)


@pytest.mark.parametrize(
    ("stage", "options"),
    [each for each in STAGES if each[0] in ("mix.weights", "select.stratified")],
)
def test_where_there_is_room_it_is_kept(stage: str, options: dict[str, Any], ctx: Context) -> None:
    made = find(stage).function(ctx, pool(), budget=ROWS, **options)
    assert made["drop_reason"].null_count() == ROWS


def test_a_vector_of_zeros_has_no_score_for_a_target(tmp_path: Path) -> None:
    rows = pool().with_columns(
        pl.when(pl.int_range(pl.len()) == 3)
        .then(pl.lit([0.0] * 4, dtype=pl.List(pl.Float32)))
        .otherwise("vector")
        .alias("vector")
    )
    stage = find("select.target").function
    made = stage(Context.scratch(tmp_path), rows, pool().head(2), mode="nearest", budget=6)
    assert made["drop_reason"][3] == "missing_score"
    assert json.loads(made["evidence"][3])["by"] == "target_score"
    assert (made["drop_reason"] == "missing_score").sum() == 1
