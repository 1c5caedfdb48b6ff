"""select.top: thresholds, budgets and the reasons given."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from stages.select.top import top
from stages.select.top.long_is_more import nltk_words
from tests.stages._selection.binding import problems_of
from tests.support.options import options_of
from tests.support.rows import conversations

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


def options(**keywords: object) -> SimpleNamespace:
    return options_of(top, **keywords)


@given(SCORES, st.integers(0, 70), st.booleans())
def test_the_best_rows_are_kept(scores: list[float | None], budget: int, descending: bool) -> None:
    data = pool(scores)
    result = top(CTX, data, score="ifd", budget=budget, descending=descending)
    known = data.with_columns(pl.col("ifd").fill_nan(None)).drop_nulls("ifd")
    expected = known.sort(["ifd", "id"], descending=[descending, False]).head(budget)["id"]
    assert data["id"].filter(result["drop_reason"].is_null()).to_list() == sorted(expected)
    missing = data["id"].filter(result["drop_reason"].eq_missing("missing_score"))
    assert set(missing) == set(data["id"]) - set(known["id"])


@given(SCORES, st.floats(-5, 5), st.floats(-5, 5), st.one_of(st.none(), st.integers(0, 200)))
def test_thresholds_and_tokens(
    scores: list[float | None], minimum: float, maximum: float, budget: int | None
) -> None:
    data = pool(scores)
    result = top(
        CTX, data, score="ifd", min_score=minimum, max_score=maximum, budget=budget, unit="tokens"
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
        CTX, pool([5.0, 1.0, None, 3.0, 2.0, 9.0]), score="ifd", budget=2, min_score=2, max_score=6
    )
    evidence = [e and json.loads(e) for e in result["evidence"]]
    assert result["drop_reason"].to_list() == [
        None,
        "below_threshold",
        "missing_score",
        None,
        "not_selected",
        "above_threshold",
    ]
    assert evidence == [
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
    assert top(CTX, data, score="tokens - ifd", budget=1)["drop_reason"].is_null().arg_max() == 1
    assert top(CTX, data, score="flag", max_score=0)["drop_reason"].to_list() == [
        "above_threshold",
        None,
        "missing_score",
    ]
    reads = top.__stage__.reads  # type: ignore[attr-defined]
    assert reads(options(score="ifd * 2 - ppl", unit="tokens")) == ["ifd", "ppl", "tokens"]
    assert reads(options(method="long-is-more", group="source")) == ["messages", "origins"]


@given(SCORES, st.floats(0, 1), st.booleans(), st.booleans())
def test_fractions_are_truncated(
    scores: list[float | None], fraction: float, fitting: bool, descending: bool
) -> None:
    data = pool(scores)
    result = top(
        CTX, data, score="ifd", fraction=fraction, fraction_of="fitting" if fitting else "all",
        min_score=-1, descending=descending,
    )  # fmt: skip
    fits = [s for s in scores if s is not None and s >= -1]
    count = int(fraction * (len(fits) if fitting else len(scores)))
    kept = data["ifd"].filter(result["drop_reason"].is_null()).to_list()
    assert sorted(kept) == sorted(sorted(fits, reverse=descending)[:count])


@given(SCORES, st.integers(0, 100), st.integers(0, 100))
def test_a_band_is_that_of_numpy(scores: list[float | None], one: int, two: int) -> None:
    band = (min(one, two), max(one, two))
    result = top(CTX, pool(scores), score="ifd", percentiles=band)
    known = [s for s in scores if s is not None and s == s]
    low, high = np.percentile(known, band) if known else (0, 0)
    for score, reason, evidence in zip(
        scores, result["drop_reason"], result["evidence"], strict=True
    ):
        if score is None or score != score:
            assert reason == "missing_score"
        else:
            assert (reason is None) == (low <= score <= high)
            if reason:
                assert reason == "outside_percentiles"
                assert json.loads(evidence) == {"score": score, "lowest": low, "highest": high}


def test_known_percentiles_keep_their_ends() -> None:
    result = top(CTX, pool([4.0, 1.0, 2.0, 3.0, 0.0]), score="ifd", percentiles=(25, 75))
    assert result["drop_reason"].is_null().to_list() == [False, True, True, True, False]
    assert result["top_rank"].to_list() == [None, 3, 2, 1, None]


@given(SCORES, st.integers(1, 9), st.booleans(), st.randoms())
def test_groups_are_ranked_as_if_each_were_alone(
    scores: list[float | None], budget: int, tokens: bool, random: Random
) -> None:
    names = [random.choice(["a", "b", None]) for _ in scores]
    data = pool(scores).with_columns(kind=pl.Series(names, dtype=pl.String))
    unit = "tokens" if tokens else "rows"
    keywords = {"score": "ifd", "budget": budget, "unit": unit, "percentiles": (10, 95)}
    complete = data.with_columns(top(CTX, data, group="kind", **keywords))
    assert complete["top_group"].to_list() == [name or "null" for name in names]
    for name in ("a", "b", None):
        part = data.filter(pl.col("kind").eq_missing(name))
        alone = top(CTX, part, **keywords)
        of_group = complete.filter(pl.col("kind").eq_missing(name))
        for column in ("drop_reason", "top_score", "top_rank"):
            assert of_group[column].to_list() == alone[column].to_list()


def test_by_source() -> None:
    origins = [["a"], ["b", "a"], ["b"], []]
    data = pool([1.0, 2.0, 3.0, 4.0]).with_columns(
        origins=pl.Series([[{"source": s, "index": 0} for s in names] for names in origins])
    )
    result = top(CTX, data, score="ifd", budget=1, group="source")
    assert result["top_group"].to_list() == ["a", "a", "b", "null"]
    assert result["drop_reason"].is_null().to_list() == [False, True, True, True]
    evidence = json.loads(result["evidence"][0])
    assert evidence == {"score": 1.0, "rank": 2, "cutoff": 2.0, "group": "a"}


def test_added_columns_follow_the_options() -> None:
    adds = top.__stage__.adds  # type: ignore[attr-defined]
    assert adds(options(score="ifd", max_score=1.0), {}) == {}  # filters may follow one another
    ranked = {"top_score": pl.Float64, "top_rank": pl.Int32}
    assert adds(options(score="ifd", budget=3), {}) == ranked
    for data in (pool([1.0, None]), pool([])):
        result = top(CTX, data, score="ifd", budget=1, group="tokens")
        added = adds(options(score="ifd", budget=1, group="tokens"), {})
        assert {name: result.schema[name] for name in added} == added
        assert set(result.columns) == {*added, "drop_reason", "evidence"}
        assert set(top(CTX, data, score="ifd", min_score=0).columns) == {"drop_reason", "evidence"}


def test_zero_is_a_score_and_infinity_is_none() -> None:
    result = top(CTX, pool([0.0, None, float("inf"), float("-inf")]), score="ifd", budget=2)
    assert result["drop_reason"].to_list() == [None, *["missing_score"] * 3]
    assert result["top_rank"].to_list() == [1, None, None, None]
    assert all(text is None or json.loads(text) for text in result["evidence"])


@given(SCORES, st.randoms())
def test_other_orders_of_the_rows_choose_the_same(
    scores: list[float | None], random: Random
) -> None:
    """Rows come in id order; without equal scores even that does not matter."""
    data = pool(scores).unique("ifd", maintain_order=True)
    turned = data.sample(fraction=1, shuffle=True, seed=random.randrange(99))
    chosen = [
        set(frame["id"].filter(top(CTX, frame, score="ifd", fraction=0.3)["drop_reason"].is_null()))
        for frame in (data, turned)
    ]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"score": "ifd"}, "budget: budget must be given where nothing else decides"),
        ({"budget": 3}, "score: score must be given with method: score, got null"),
        (
            {"score": "ifd", "method": "long-is-more"},
            "score: score must be left out with method: long-is-more, got 'ifd'",
        ),
        ({"score": "ifd", "budget": -1}, "budget: budget must be at least 0, got -1"),
        (
            {"score": "ifd", "budget": 1, "fraction": 0.5},
            "fraction: fraction must be left out with a budget, got 0.5",
        ),
        (
            {"score": "ifd", "fraction": 1.5},
            "fraction: fraction must be between 0 and 1, got 1.5",
        ),
        (
            {"score": "ifd", "percentiles": [75, 25]},
            "percentiles: percentiles must be increasing, got [75.0, 25.0]",
        ),
        (
            {"score": "ifd", "percentiles": [0, 101]},
            "percentiles: percentiles[1] must be between 0 and 100, got 101",
        ),
        (
            {"score": "ifd", "min_score": 2.0, "max_score": 1.0},
            "min_score: min_score must be at most max_score (1.0), got 2.0",
        ),
        ({"score": "ifd >", "budget": 1}, "score: score must be a column or an SQL expression"),
        (
            {"score": "ifd", "budget": 1, "group": "+"},
            "group: group must be a column or an SQL expression",
        ),
        (
            {"score": "ifd", "min_score": 1, "fraction_of": "fitting"},
            "fraction_of: fraction_of must be left out without a fraction, got 'fitting'",
        ),
        (
            {"score": "ifd", "min_score": 1, "descending": False},
            "descending: descending must be left out where thresholds alone decide, got False",
        ),
        (
            {"score": "ifd", "min_score": 1, "unit": "tokens"},
            "unit: unit must be left out without a budget, got 'tokens'",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_runs(
    options: dict[str, object], problem: str
) -> None:
    (message,) = problems_of("select.top", **options)
    assert message.startswith(problem)


def test_options_that_are_accepted() -> None:
    for options in (
        {"score": "ifd", "budget": 1},
        {"method": "long-is-more", "descending": False, "group": "source"},
        {"score": "ifd", "fraction": 0.05, "fraction_of": "fitting", "unit": "tokens"},
        {"score": "ifd", "percentiles": [25, 75], "descending": False},
    ):
        assert problems_of("select.top", **options) == []


LETTERS = st.text(alphabet="ab'N \n-,.;:!?()\"$&8/é…", max_size=60)
WORDS = st.lists(
    st.sampled_from(["cannot", "gonna", "It", "U.S.", "e-mail", "3,000", "don't", "so", "A", "1.5"])
)


@given(st.one_of(LETTERS, WORDS.map(" ".join), WORDS.map(", ".join).map("{}.".format)))
def test_words_are_those_of_nltk(text: str) -> None:
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    sentences = PunktSentenceTokenizer().tokenize(text)
    expected = sum(len(NLTKWordTokenizer().tokenize(s)) for s in sentences)
    assert nltk_words(pl.Series([text])).to_list() == [expected]


def test_the_longest_answers() -> None:
    answers = ["One, two. Three!", "", "one two three four five six seven"]
    rows = conversations([("ask", answer) for answer in answers] + [("no answer",)])
    result = rows.with_columns(top(CTX, rows, method="long-is-more", budget=2))
    lengths = {
        messages[-1]["content"]: score
        for messages, score in result.select("messages", "top_score").rows()
    }
    assert lengths == {answers[0]: 6, answers[1]: 0, answers[2]: 7, "no answer": None}
    reasons = dict(zip(result["top_score"], result["drop_reason"], strict=True))
    assert reasons == {6: None, 7: None, 0: "not_selected", None: "missing_score"}
    assert top(CTX, rows, method="long-is-more")["drop_reason"].null_count() == 3


def test_the_thousand_longest_of_alpaca(shared: Path) -> None:
    """The rows that "Long is more" released, identified by their numbers in the pool."""
    pool_ = json.loads(gzip.decompress((shared / "pools/alpaca_52k.json.gz").read_bytes()))
    path = shared / "references/alpaca_1k_longest.json.gz"
    released = {int(r["id"].split("_")[1]) for r in json.loads(gzip.decompress(path.read_bytes()))}
    token = re.compile(r"\w+|[^\w\s]")  # the shorter ones could not be chosen
    long = [i for i, row in enumerate(pool_) if len(token.findall(row["output"])) > 170]
    rows = pl.DataFrame(
        {
            "id": [f"{i:06d}" for i in long],
            "messages": [[{"role": "assistant", "content": pool_[i]["output"]}] for i in long],
        }
    )
    result = rows.with_columns(top(CTX, rows, method="long-is-more"))
    kept = result.filter(pl.col("drop_reason").is_null())
    assert kept.height == 1000
    assert len(released & {int(i) for i in kept["id"]}) == 999
    cutoff = kept["top_score"].min()
    below = result.filter(pl.col("top_score") < cutoff)["id"]
    assert not released & {int(i) for i in below}  # all released rows reach the cut-off
