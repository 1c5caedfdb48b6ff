"""`select.pairs`: every limit drops what it says, and the order decides on the rest."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from schemas.pairs import PAIR_COLUMNS
from stages.select.pairs import pairs
from tests.support.options import problems
from tests.support.pairing import pair, pair_frame, ranked_sample
from tests.support.rows import evidence

NOWHERE = Context.__new__(Context)
SCORE = st.none() | st.sampled_from([0.0, 1.0, 2.5])
WORDS = st.none() | st.integers(1, 6).map(lambda n: " ".join(["w"] * n))
PAIR = st.builds(
    lambda q, c, r, cs, rs: pair(q, c, r, chosen_score=cs, rejected_score=rs),
    st.sampled_from("ab"), WORDS, WORDS, SCORE, SCORE,
)  # fmt: skip


@given(
    rows=st.lists(PAIR, max_size=8),
    margin=st.none() | st.sampled_from([0.0, 1.0]),
    difference=st.none() | st.integers(0, 3),
    ratio=st.none() | st.sampled_from([1.0, 2.0]),
    quota=st.none() | st.integers(1, 2),
    budget=st.none() | st.integers(0, 3),
)
def test_the_limits_by_their_definitions(
    rows: list[dict[str, Any]],
    margin: float | None,
    difference: int | None,
    ratio: float | None,
    quota: int | None,
    budget: int | None,
) -> None:
    rows = [row | {"id": f"{at:04}"} for at, row in enumerate(rows)]
    frame = pl.DataFrame(rows, schema=PAIR_COLUMNS)
    result = pairs(
        NOWHERE, frame, min_margin=margin, max_length_difference=difference,
        max_length_ratio=ratio, max_per_prompt=quota, budget=budget,
    )  # fmt: skip

    def reason(at: int) -> str | None:
        row = rows[at]
        sides = row["chosen"], row["rejected"]
        same = [r["id"] for r in rows if r["prompt"] == row["prompt"]
                and (r["chosen"], r["rejected"]) == sides]  # fmt: skip
        contrary = any(
            r["prompt"] == row["prompt"] and (r["rejected"], r["chosen"]) == sides for r in rows
        )
        if contrary:
            return "contradiction"
        if same[0] != row["id"]:
            return "duplicate_pair"
        scores = row["chosen_score"], row["rejected_score"]
        gap = None if None in scores else scores[0] - scores[1]
        if margin is not None and gap is None:
            return "missing_score"
        if margin is not None and gap < margin:
            return "below_margin"
        words = [len(side[0]["content"].split()) for side in sides if side]
        if len(words) == 2:
            if difference is not None and abs(words[0] - words[1]) > difference:
                return "length_difference"
            if ratio is not None and max(words) > ratio * min(words):
                return "length_ratio"
        return None

    def key(at: int) -> tuple[bool, float, int]:
        gap = result["pair_margin"][at]
        return (gap is None, -(gap or 0.0), at)

    expected = [reason(at) for at in range(len(rows))]
    order = sorted((at for at, r in enumerate(expected) if r is None), key=key)
    seen: dict[str, int] = {}
    left = []
    for at in order:
        question = rows[at]["prompt"][0]["content"]
        seen[question] = seen.get(question, 0) + 1
        if quota is not None and seen[question] > quota:
            expected[at] = "prompt_quota"
        else:
            left.append(at)
    for at in left[len(left) if budget is None else budget :]:
        expected[at] = "not_selected"
    assert result["drop_reason"].to_list() == expected
    evidence(frame, result)


def test_the_evidence_of_each_reason() -> None:
    scores = {"chosen_score": 1.0, "rejected_score": 0.5}
    rows = {
        "a": pair("q", "one", "two", **scores),
        "b": pair("q", "two", "one", **scores),
        "c": pair("r", "one", "two", **scores),
        "d": pair("s", "one", "two three four", chosen_score=3.0, rejected_score=0.0),
        "e": pair("t", "one", "two"),
        "f": pair("u", "one", "two", chosen_score=3.0, rejected_score=0.0),
        "g": pair("u", "one", "two", chosen_score=3.0, rejected_score=0.0),
        "h": pair("u", "one", "six", chosen_score=2.0, rejected_score=0.0),
        "i": pair("v", "one", "six", chosen_score=2.0, rejected_score=0.0),
    }
    frame = pair_frame(row | {"id": name} for name, row in rows.items())
    result = pairs(NOWHERE, frame, min_margin=1, max_length_ratio=2, max_per_prompt=1, budget=1)
    assert evidence(frame, result) == {
        "a": {"contradicts": "b"},
        "b": {"contradicts": "a"},
        "c": {"pair_margin": 0.5, "minimum": 1.0},
        "d": {"chosen_words": 1, "rejected_words": 3},
        "e": {"chosen_score": None, "rejected_score": None},
        "g": {"duplicate_of": "f"},
        "h": {"rank_in_prompt": 2},
        "i": {"rank": 2},
    }


def test_a_random_order_is_nested_and_depends_on_the_seed() -> None:
    frame = ranked_sample(ranked="all")

    def kept(budget: int, seed: int) -> set[str]:
        result = pairs(NOWHERE, frame, budget=budget, order="random", seed=seed)
        return {*frame.filter(result["drop_reason"].is_null())["id"]}

    assert len(kept(20, 0)) == 20
    assert kept(10, 0) < kept(20, 0)
    assert kept(20, 0) != kept(20, 1)


def test_adding_columns_and_wrong_options() -> None:
    frame = ranked_sample()
    result = pairs(NOWHERE, frame)
    margins = frame["chosen_score"] - frame["rejected_score"]
    assert (result["pair_margin"] == margins).all()
    assert result["drop_reason"].null_count() == len(frame)
    assert json.loads(frame["extra"][0])
    assert problems("select.pairs", max_length_ratio=0.5) == [
        "max_length_ratio must be at least 1, got 0.5"
    ]
