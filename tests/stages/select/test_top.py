"""select.top: thresholds, budgets and the reasons given."""

from __future__ import annotations

import json
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from stages.select.top import top

CTX = Context.__new__(Context)  # the stage computes only
SCORES = st.lists(
    st.one_of(st.none(), st.floats(-5, 5), st.just(float("nan")), st.integers(-2, 2).map(float)),
    max_size=60,
)


def pool(scores: list[float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"{i:06x}" for i in range(len(scores))],
            "ifd": pl.Series(scores, dtype=pl.Float64),
            "tokens": pl.Series([3 + i * 7 % 11 for i in range(len(scores))], dtype=pl.Int32),
        }
    )


@settings(deadline=None)
@given(SCORES, st.integers(0, 70), st.booleans())
def test_the_best_rows_are_kept(scores: list[float | None], budget: int, descending: bool) -> None:
    data = pool(scores)
    result = top(CTX, data, by="ifd", budget=budget, descending=descending)
    known = data.with_columns(pl.col("ifd").fill_nan(None)).drop_nulls("ifd")
    expected = known.sort(["ifd", "id"], descending=[descending, False]).head(budget)["id"]
    assert data["id"].filter(result["drop_reason"].is_null()).to_list() == sorted(expected)
    missing = data["id"].filter(result["drop_reason"].eq_missing("missing_score"))
    assert set(missing) == set(data["id"]) - set(known["id"])


@settings(deadline=None)
@given(SCORES, st.floats(-5, 5), st.floats(-5, 5), st.one_of(st.none(), st.integers(0, 200)))
def test_thresholds_and_tokens(
    scores: list[float | None], minimum: float, maximum: float, budget: int | None
) -> None:
    data = pool(scores)
    result = top(
        CTX, data, by="ifd", minimum=minimum, maximum=maximum, budget=budget, unit="tokens"
    )
    for score, reason in zip(data["ifd"], result["drop_reason"], strict=True):
        if score is None or score != score:
            assert reason == "missing_score"
        elif score < minimum:
            assert reason == "below_threshold"
        elif score > maximum:
            assert reason == "above_threshold"
        else:
            assert reason in (None, "not_selected")
    spent = data["tokens"].filter(result["drop_reason"].is_null()).sum()
    assert budget is None or spent <= budget
    if budget is None:
        assert "not_selected" not in result["drop_reason"].to_list()
    else:
        left = data["tokens"].filter(result["drop_reason"].eq_missing("not_selected"))
        assert (left > budget - spent).all()


def test_evidence() -> None:
    result = top(
        CTX, pool([5.0, 1.0, None, 3.0, 2.0, 9.0]), by="ifd", budget=2, minimum=2, maximum=6
    )
    told = [e and json.loads(e) for e in result["evidence"]]
    assert result["drop_reason"].to_list() == [
        None,
        "below_threshold",
        "missing_score",
        None,
        "not_selected",
        "above_threshold",
    ]
    assert told == [
        None,
        {"score": 1.0, "minimum": 2.0},
        {"by": "ifd"},
        None,
        {"score": 2.0, "rank": 3, "cutoff": 3.0},
        {"score": 9.0, "maximum": 6.0},
    ]


def test_expression_over_columns_and_booleans() -> None:
    data = pool([1.0, 2.0, 3.0]).with_columns(flag=pl.Series([True, False, None]))
    # tokens are 3, 10, 6, so the expression gives 2, 8, 3
    assert top(CTX, data, by="tokens - ifd", budget=1)["drop_reason"].is_null().arg_max() == 1
    assert top(CTX, data, by="flag", maximum=0)["drop_reason"].to_list() == [
        "above_threshold",
        None,
        "missing_score",
    ]
    reads = top.__stage__.reads  # type: ignore[attr-defined]
    options = SimpleNamespace(by="ifd * 2 - ppl", unit="tokens", tokens="tokens")
    assert reads(options) == ["ifd", "ppl", "tokens"]


@pytest.mark.parametrize(
    "options",
    [
        {"by": "ifd", "budget": None},
        {"by": "ifd", "budget": -1},
        {"by": "ifd >", "budget": 1},
    ],
)
def test_mistakes_are_told_before_anything_runs(options: dict[str, object]) -> None:
    check = top.__stage__.check  # type: ignore[attr-defined]
    with pytest.raises(UserError):
        check(SimpleNamespace(**{"minimum": None, "maximum": None, **options}))
