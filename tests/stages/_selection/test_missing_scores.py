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
from stages.mix._group_weights import Balanced
from stages.select.clusters import Car, QuotaRule
from stages.select.diverse import FacilityLocation
from stages.select.target import Nearest

ROWS = 24
SCORES = [float(n) if n % 3 else None for n in range(ROWS)]
STAGES: list[tuple[str, dict[str, Any]]] = [
    ("select.clusters", {"n_clusters": 2}),
    ("select.clusters", {"n_clusters": 2, "rule": QuotaRule(sample=True)}),
    ("select.clusters", {"n_clusters": 2, "rule": Car()}),
    ("select.stratified", {"group": "kind"}),
    ("select.stratified", {"group": "kind", "descending": False}),
    ("select.top", {}),
    ("select.diverse", {"method": FacilityLocation()}),
    ("mix.weights", {"group": "kind", "method": Balanced()}),
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
def test_it_has_a_reason_of_its_own(stage: str, options: dict[str, Any], ctx: Context) -> None:
    result = find(stage).function(ctx, pool(), score="ifd", budget=6, **options)
    missing = pool()["ifd"].is_null()
    assert set(result.filter(missing)["drop_reason"]) == {"missing_score"}
    assert set(result.filter(~missing)["drop_reason"]) == {None, "not_selected"}
    evidence = [json.loads(text) for text in result.filter(missing)["evidence"]]
    assert all(one["by"] == "ifd" for one in evidence)


@pytest.mark.parametrize(
    ("stage", "options"),
    [each for each in STAGES if each[0] in ("mix.weights", "select.stratified")],
)
def test_where_there_is_room_it_is_kept(stage: str, options: dict[str, Any], ctx: Context) -> None:
    result = find(stage).function(ctx, pool(), score="ifd", budget=ROWS, **options)
    assert result["drop_reason"].null_count() == ROWS


def test_a_vector_of_zeros_has_no_score_for_a_target(tmp_path: Path) -> None:
    rows = pool().with_columns(
        pl.when(pl.int_range(pl.len()) == 3)
        .then(pl.lit([0.0] * 4, dtype=pl.List(pl.Float32)))
        .otherwise("vector")
        .alias("vector")
    )
    stage = find("select.target").function
    ctx = Context.scratch(tmp_path)
    result = stage(ctx, rows, pool().head(2), method=Nearest(), budget=6)
    assert result["drop_reason"][3] == "missing_score"
    assert json.loads(result["evidence"][3])["by"] == "target_score"
    assert (result["drop_reason"] == "missing_score").sum() == 1
