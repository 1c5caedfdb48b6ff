"""dedup.semantic: the loop over rows, in exact mode and in clusters whose recall is measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Embedder
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from stages.dedup.semantic import Clusters, Exact, semantic
from tests.support.options import options_of
from tests.support.rows import DATA, conversations, evidence, json_lines


def table(vectors: NDArray, prefix: str = "r", **columns: Any) -> pl.DataFrame:
    """Rows of vectors, in id order."""
    ids = [f"{prefix}{i:05}" for i in range(len(vectors))]
    column = pl.Series("vector", np.asarray(vectors, np.float32).tolist(), pl.List(pl.Float32))
    return pl.DataFrame({"id": ids, **columns}).with_columns(column)


def loop(rows: pl.DataFrame, held: pl.DataFrame | None, threshold: float) -> dict[str, dict]:
    """One row after the other, in the order of the table, in float64."""
    kept: list[tuple[str, NDArray]] = []
    dropped = {}
    before = [] if held is None else held["id"].to_list()
    table = rows if held is None else pl.concat([held.select("id", "vector"), rows])
    for key, values in table["id", "vector"].iter_rows():
        vector = np.array(values) / (np.linalg.norm(values) or np.nan)
        cosines = [float(vector @ other) for _, other in kept]
        best = max((c for c in cosines if not np.isnan(c)), default=-1.0)
        if key not in before and best > threshold:
            dropped[key] = {
                "duplicate_of": kept[cosines.index(best)][0],
                "cosine": pytest.approx(best),
            }
        else:
            kept.append((key, vector))
    return dropped


def near_rows(count: int, dimensions: int, seed: int) -> NDArray:
    """About half of the rows are near copies of others."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, dimensions))
    copies = rng.permutation(count)[: count // 2]
    noise = rng.normal(size=(len(copies), dimensions))
    vectors[copies] = vectors[rng.integers(count, size=len(copies))] + 0.3 * noise
    return vectors


def report(ctx: Context) -> dict[str, Any]:
    return json.loads((ctx.files / "semantic.json").read_text())


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_equals_the_loop(ctx: Context, threshold: float) -> None:
    rows, held = table(near_rows(400, 24, 0)), table(near_rows(50, 24, 1)[::2], "h")
    both = pl.concat([held, table(near_rows(400, 24, 0)[:20] * 3, "i")])
    for before in (None, held, both):
        expected = loop(rows, before, threshold)
        assert len(expected) > 20
        assert evidence(rows, semantic(ctx, rows, before, threshold=threshold)) == expected
        counts = {"rows": 400, "held": 0 if before is None else len(before)}
        assert report(ctx) == {"mode": "exact", **counts, "dropped": len(expected)}


def test_real_rows(ctx: Context, potion: Embedder) -> None:
    texts = [row["instruction"] for row in json_lines(DATA / "samples/self_instruct.jsonl.gz")]
    vectors = ctx.open(potion).encode(texts[:500])
    rows = table(vectors)
    expected = loop(rows, None, 0.8)
    assert 5 < len(expected) < 250
    assert evidence(rows, semantic(ctx, rows, threshold=0.8)) == expected


def test_one_of_a_pair_stays_and_the_order_says_which(ctx: Context) -> None:
    vectors = [[1, 0], [1, 0.1], [0, 1], [0.1, 1]]
    rows = table(np.array(vectors), score=[1.0, float("nan"), None, 0.0])
    by_id = evidence(rows, semantic(ctx, rows))
    assert {key: cause["duplicate_of"] for key, cause in by_id.items()} == {
        "r00001": "r00000",
        "r00003": "r00002",
    }
    for order_by in ("score desc", "score"):  # a missing score is not the best, nor the worst
        dropped = evidence(rows, semantic(ctx, rows, order_by=order_by))
        assert set(dropped) == {"r00001", "r00002"}


def test_a_dropped_row_does_not_count(ctx: Context) -> None:
    angles = np.radians([0, 20, 40])  # each is near the next
    rows = table(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert set(evidence(rows, semantic(ctx, rows))) == {"r00001"}


def test_at_or_above(ctx: Context) -> None:
    rows = table(np.array([[1, 0], [3, 4], [2, 0]]))
    assert set(evidence(rows, semantic(ctx, rows, threshold=0.6))) == {"r00002"}
    assert set(evidence(rows, semantic(ctx, rows, threshold=0.6, inclusive=True))) == {
        "r00001",
        "r00002",
    }


def test_one_cluster_is_exact_and_more_are_measured(ctx: Context) -> None:
    rows, held = table(near_rows(1500, 24, 2)), table(near_rows(1500, 24, 2)[:60] * 2, "h")
    exact = evidence(rows, semantic(ctx, rows, held, threshold=0.8))
    one = semantic(ctx, rows, held, threshold=0.8, method=Clusters(exact_up_to=0, n_clusters=1))
    assert evidence(rows, one) == exact
    assert report(ctx)["recall"] == 1.0
    some = evidence(
        rows,
        semantic(
            ctx, rows, held, threshold=0.8, method=Clusters(exact_up_to=1559, n_clusters=25, seed=3)
        ),
    )
    summary = report(ctx)
    assert (summary["mode"], summary["clusters"], summary["rows"], summary["held"]) == (
        "clusters",
        25,
        1500,
        60,
    )
    assert summary["dropped"] == len(some)
    # All kept rows were looked at: what was missed is what is still near an earlier kept row.
    kept = pl.concat([held, rows.filter(~pl.col("id").is_in(list(some)))])
    unit = np.array(kept["vector"].to_list())
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = np.tril(unit @ unit.T, -1)[60:].max(axis=1) > 0.8
    assert summary["sampled"] == len(kept) - 60
    assert summary["missed"] == near.sum() > 0
    assert summary["recall"] == pytest.approx(len(some) / (len(some) + near.sum()))
    assert len(some) < len(exact)
    for key, cause in some.items():  # whatever is dropped has a kept twin above the threshold
        assert cause["cosine"] > 0.8
        assert cause["duplicate_of"] not in some
        assert key != cause["duplicate_of"]


def test_the_sample_estimates_the_recall(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(near_rows(1500, 24, 2))
    options = {"threshold": 0.8, "method": Clusters(exact_up_to=0, n_clusters=25)}
    first = semantic(ctx, rows, **options)
    complete = report(ctx)
    monkeypatch.setattr("stages.dedup.semantic.clusters.SAMPLED", 300)
    assert semantic(ctx, rows, **options).equals(first)
    assert report(ctx)["sampled"] == 300
    assert report(ctx)["recall"] == pytest.approx(complete["recall"], abs=0.1)


def test_awkward_tables(ctx: Context) -> None:
    nothing = table(np.zeros((0, 3)))
    held = table(np.ones((2, 3)), "h")
    for before in (None, nothing, held):
        for method in (Clusters(exact_up_to=0), Exact()):
            assert len(semantic(ctx, nothing, before, method=method)) == 0
    same = table(np.ones((40, 3)))
    few, many = Clusters(exact_up_to=0), Clusters(exact_up_to=0, n_clusters=99)
    for method in (Exact(), Clusters(), few, many):
        assert len(evidence(same, semantic(ctx, same, method=method))) == 39
        assert len(evidence(same, semantic(ctx, same, held, method=method))) == 40
    zeros = table(np.zeros((5, 3)))
    for method in (Exact(), Clusters(exact_up_to=0, n_clusters=2)):
        assert evidence(zeros, semantic(ctx, zeros, zeros, method=method)) == {}
    assert report(ctx)["recall"] is None


def test_what_cannot_be_compared_is_reported(ctx: Context) -> None:
    rows = table(np.ones((3, 4)))
    with pytest.raises(UserError, match=r"same dimensions .* got 4 and 3"):
        semantic(ctx, rows, table(np.ones((3, 3)), "h"))
    missing = rows.with_columns(pl.when(pl.col("id") != "r00001").then("vector").alias("vector"))
    with pytest.raises(UserError, match="missing"):
        semantic(ctx, missing)
    wrong = rows.with_columns(pl.lit([float("nan")] * 4, pl.List(pl.Float32)).alias("vector"))
    with pytest.raises(UserError, match="not finite"):
        semantic(ctx, wrong)


def test_the_order_of_rows_does_not_matter(ctx: Context) -> None:
    rows = table(near_rows(300, 16, 4))
    mixed = rows.sample(fraction=1.0, shuffle=True, seed=1)
    dropped = evidence(rows, semantic(ctx, rows, threshold=0.8))
    assert dropped == evidence(mixed, semantic(ctx, mixed, threshold=0.8))
    assert dropped


def test_a_recipe_reads_only_what_it_needs(ctx: Context) -> None:
    stage = find("dedup.semantic")
    options = options_of(semantic, vector="v", order_by="score desc")
    assert list(stage.reads("rows", options)) == ["v", "score"]
    assert list(stage.reads("held", options)) == ["v"]
    assert stage.fills_files
    numbers = options_of(semantic, vector="v", method=Exact(compare_numbers=True))
    assert list(stage.reads("held", numbers)) == ["v", "messages"]


@pytest.mark.parametrize(
    ("option", "wrong", "expected"),
    [
        ("threshold", 0, "threshold must be above 0, got 0"),
        ("threshold", 2, "threshold must be at most 1, got 2"),
        ("method", {"name": "clusters", "n_clusters": 0}, "method.n_clusters must be at least 1"),
        ("method", {"name": "exact", "n_clusters": 4}, "method (exact) has no option 'n_clusters'"),
        ("method", {"name": "exact", "seed": 1}, "method (exact) has no option 'seed'"),
        (
            "method",
            {"name": "clusters", "compare_numbers": True},
            "method (clusters) has no option 'compare_numbers'",
        ),
    ],
)
def test_mistakes_are_reported_before_the_run(option: str, wrong: object, expected: str) -> None:
    _, (problem,) = bind(find("dedup.semantic"), {option: wrong}, {}, Path())
    assert problem.what.startswith(expected)


def test_records_of_any_text_are_compared_by_vectors(ctx: Context, potion: Embedder) -> None:
    rows = conversations([("写一首诗",), ("Write a poem",), ("Write a poem.",), ("",)])
    texts = [messages[0]["content"] for messages in rows["messages"].to_list()]
    vectors = ctx.open(potion).encode(texts)
    rows = rows.with_columns(pl.Series("vector", vectors.tolist(), pl.List(pl.Float32)))
    dropped = evidence(rows, semantic(ctx, rows))
    first = pl.col("messages").list.first().struct.field("content")
    texts = rows.filter(pl.col("id").is_in(list(dropped))).select(first).to_series().to_list()
    assert len(texts) == 1
    assert texts[0].startswith("Write a poem")


def test_problems_that_differ_only_in_their_numbers_are_different(
    ctx: Context, potion: Embedder
) -> None:
    """With compare_numbers, and only then: for a vector they are the same."""
    problems = [row["question"] for row in json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")[:60]]
    others = [re.sub(r"\d", lambda d: str((int(d[0]) + 3) % 10), text) for text in problems]
    changed = [(a, b) for a, b in zip(problems, others, strict=True) if a != b]
    turns = [(text, "x") for pair in changed for text in pair]
    copies = [(text + " ", "x") for text, _ in turns[:10]]
    rows = conversations([*turns, *copies])
    said = [messages[0]["content"] for messages in rows["messages"]]
    rows = rows.with_columns(vector=pl.Series(ctx.open(potion).encode(said)).arr.to_list())
    by_cosine = semantic(ctx, rows)["drop_reason"].is_not_null().sum()
    by_numbers = semantic(ctx, rows, method=Exact(compare_numbers=True))
    assert by_cosine > 0.8 * len(changed)
    assert by_numbers["drop_reason"].is_not_null().sum() == len(copies)
    text = dict(zip(rows["id"], said, strict=True))
    for row, why in zip(rows["id"], by_numbers["evidence"], strict=True):
        assert why is None or text[row].strip() == text[json.loads(why)["duplicate_of"]].strip()
    held = rows[::2]
    halved = semantic(ctx, rows[1::2], held, method=Exact(compare_numbers=True))
    assert halved["drop_reason"].is_not_null().sum() <= len(copies)
