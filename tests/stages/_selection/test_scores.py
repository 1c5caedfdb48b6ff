"""Score expressions: the same as Python's arithmetic over the rows, missing where that has none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from stages._selection.groups import groups_of
from stages._selection.scores import scores
from stages.load.records import records
from stages.score.heuristics import heuristics
from stages.select.top import top

INTEGERS = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32]
EXPRESSIONS: list[tuple[str, Any]] = [
    ("words * {}", lambda w, n: w * n),
    ("words - {}", lambda w, n: w - n),
    ("words / {}", lambda w, n: w / n),
    ("{} / words", lambda w, n: n / w),
    ("{} / (words - 3)", lambda w, n: n / (w - 3)),
    ("(words + {}) / (words - 3) - words", lambda w, n: (w + n) / (w - 3) - w),
    ("CASE WHEN words > {} THEN words END", lambda w, n: w if w > n else math.nan),
    ("(words > 3) * {}", lambda w, n: (w > 3) * n),
    ("words * words * words * {}", lambda w, n: w**3 * n),
    ("\"words\" * {} + length('1.5')", lambda w, n: w * n + 3),
]


def calculated(function: Any, words: int, number: float) -> float:
    try:
        return float(function(words, number))
    except ZeroDivisionError:
        return math.nan


@pytest.mark.parametrize(("expression", "function"), EXPRESSIONS)
@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=5),
    st.sampled_from([0, 1, 2, 3, 1000]),
    st.sampled_from(["{}", "{}.", "{}.0", "{}.000", "{}e0", "{}.5", "{}.333333333333"]),
    st.sampled_from(INTEGERS),
)
def test_numbers_of_any_form_and_columns_of_any_width(
    expression: str, function: Any, words: list[int], number: int, form: str, dtype: Any
) -> None:
    literal = form.format(number)
    rows = pl.DataFrame({"words": words}, schema={"words": dtype})
    expected = [calculated(function, w, float(literal)) for w in words]
    assert scores(rows, expression.format(literal)).tolist() == pytest.approx(
        expected, rel=1e-12, nan_ok=True
    )


def test_texts_and_quoted_names_keep_their_points() -> None:
    rows = pl.DataFrame({"v1.5": [2, 3], "kind": ["1.5", "x"]})
    assert scores(rows, '"v1.5" * 0.5').tolist() == [1.0, 1.5]
    assert scores(rows, "CASE WHEN kind = '1.5' THEN \"v1.5\" END").tolist()[0] == 2


@pytest.mark.parametrize("score", ["1 / response_words", "1.0 / response_words"])
def test_a_blank_answer_has_no_score(score: str, tmp_path: Path) -> None:
    """The row stays in the account as missing a score, and the stage goes on."""
    answers = ["a b c", "a b c d", "", "a a a a a a a a", "  ", "a b c e"]
    rows = [{"instruction": f"Q{n}", "output": text} for n, text in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ctx = Context.scratch(tmp_path)
    pool = next(records(ctx, path=(str(tmp_path / "rows.jsonl"),), source="s", license="MIT"))
    pool = pool.filter(pl.col("id").is_not_null())
    measured = pl.concat([pool, heuristics(ctx, pool)], how="horizontal")
    result = top(ctx, measured, score=score, budget=2)
    blank = measured["response_words"].fill_null(0) == 0
    assert set(result["drop_reason"].filter(blank)) == {"missing_score"}
    assert result["drop_reason"].is_null().sum() == 2


def test_groups_by_an_expression() -> None:
    rows = pl.DataFrame({"words": [0, 3, 4]})
    assert groups_of(rows, "1.0 / (words - 3.0)").labels().to_list()[1] == "null"
    assert groups_of(rows, "words / 2.0").labels().to_list() == ["0.0", "1.5", "2.0"]
    assert groups_of(rows, "words + 1").labels().to_list() == ["1", "4", "5"]
