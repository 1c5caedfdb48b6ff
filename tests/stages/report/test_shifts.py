"""Distributions that differ are told as different, equal ones are not, by the named tests."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from schemas.records import RECORD_COLUMNS
from stages.report._shifts import shifts


def frame(rows: int, seed: int, **columns: object) -> pl.DataFrame:
    ids = [f"{seed}-{n}" for n in range(rows)]
    return pl.DataFrame({"id": ids, **columns})


def test_numbers_are_compared_by_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=300), rng.normal(0.5, 1, size=200)
    (line,) = shifts(frame(300, 0, score=old), frame(200, 1, score=new))
    expected = ks_2samp(old, new, method="asymp")
    assert line["effect"] == pytest.approx(expected.statistic, abs=1e-4)
    assert line["p"] == pytest.approx(expected.pvalue)
    assert line["before"] == pytest.approx(np.median(old), abs=1e-6)


def test_categories_are_compared_by_chi_squared_and_shares_told() -> None:
    old, new = ["a"] * 60 + ["b"] * 40, ["a"] * 30 + ["b"] * 70
    first, second = shifts(frame(100, 0, tag=old), frame(100, 1, tag=new))
    assert {first["category"], second["category"]} == {"a", "b"}
    expected = chi2_contingency([[60, 40], [30, 70]], correction=False)
    assert first["p"] == pytest.approx(expected.pvalue)
    assert first["effect"] == pytest.approx((expected.statistic / 200) ** 0.5, abs=1e-4)


def test_rows_without_a_column_of_a_stage_are_compared_by_what_every_row_has() -> None:
    def loaded(seed: int, source: str) -> pl.DataFrame:
        turns = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]] * 90
        origins = [[{"source": source, "license": "MIT"}]] * 90
        return frame(90, seed, messages=turns, origins=origins)

    lines = shifts(loaded(0, "a"), loaded(1, "b"))
    assert {line["category"] for line in lines if line["column"] == "source"} == {"a", "b"}
    assert {line["p"] for line in shifts(loaded(0, "a"), loaded(1, "a"))} == {1.0}


def test_p_values_are_holms_over_the_columns() -> None:
    rng = np.random.default_rng(1)
    old, new = ({f"c{i}": rng.normal(size=80) for i in range(5)} for _ in range(2))
    lines = shifts(frame(80, 0, **old), frame(80, 1, **new))
    raw = sorted((ks_2samp(old[c], new[c], method="asymp").pvalue, c) for c in old)
    highest = 0.0
    for rank, (p, column) in enumerate(raw):
        highest = max(highest, min(1.0, (5 - rank) * p))
        (line,) = [line for line in lines if line["column"] == column]
        assert line["p"] == pytest.approx(highest)


def test_equal_sets_are_rarely_told_as_different() -> None:
    rng = np.random.default_rng(2)
    convicted = 0
    for seed in range(200):
        old, new = rng.choice(["x", "y", "z", "rare"], (2, 120), p=[0.5, 0.3, 0.19, 0.01])
        lines = shifts(frame(120, seed, tag=old.tolist()), frame(120, seed + 999, tag=new.tolist()))
        convicted += bool(lines) and lines[0]["p"] < 0.05
    assert convicted <= 20  # 5% of 200 is 10


def test_rows_of_many_sources_count_under_each_and_missing_values_do_not_count() -> None:
    def rows(sources: list[list[str]], score: list[float | None]) -> pl.DataFrame:
        origins = [[{"source": s, "index": 0, "license": "MIT"} for s in each] for each in sources]
        messages = [[{"role": "user", "content": "Why?"}]] * len(sources)
        ids = [str(n) for n in range(len(sources))]
        base = pl.DataFrame(
            {"id": ids, "messages": messages, "origins": origins}, schema_overrides=RECORD_COLUMNS
        )
        return base.with_columns(pl.Series("score", score, dtype=pl.Float64))

    before = rows([["web"]] * 10 + [["web", "books"]] * 10, [None] * 10 + [1.0] * 10)
    after = rows([["books"]] * 20, [float("nan")] * 10 + [1.0] * 10)
    lines = {(s["column"], s["category"]): s for s in shifts(before, after)}
    assert lines["source", "web"]["before"] == 1.0
    assert lines["source", "web"]["after"] == 0.0
    assert (lines["source", "books"]["before"], lines["source", "books"]["after"]) == (0.5, 1.0)
    assert lines["score", None]["before"] == lines["score", None]["after"] == 1.0


def test_nothing_to_compare_is_no_shift() -> None:
    empty = frame(0, 0, score=pl.Series([], dtype=pl.Float64))
    assert shifts(empty, frame(5, 1, score=[1.0] * 5)) == []
    assert shifts(frame(3, 0, score=[None] * 3), frame(3, 1, score=[1.0] * 3)) == []
