"""select.response: best by a score, majorities, and the published consensus of three models."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.recipe.discovery import find
from schemas.records import RECORD_COLUMNS, prompt_id, record_id
from stages._llm.rows import make_row, rows_to_frame
from stages.load.concat import concat
from stages.select.response import Consensus, Majority, response
from stages.select.response.consensus import Vote, consensus, normalized
from tests.conftest import ROOT
from tests.stages._selection.binding import bound, problems_of
from tests.support.rows import conversations, json_lines

CTX = Context.__new__(Context)  # the stage computes only
GOLDEN = ROOT / "tests/golden"
FALCON = Consensus(primary_voter="falcon")
Pair = tuple[str, str | None]


def answered(source: str, pairs: list[Pair]) -> pl.DataFrame:
    """Records of (prompt, answer) pairs from one source; null for no answer."""
    rows = []
    for index, (prompt, answer) in enumerate(pairs):
        turns = [{"role": "user", "content": prompt}]
        turns += [] if answer is None else [{"role": "assistant", "content": answer}]
        origin = {"source": source, "index": index, "license": "Apache-2.0"}
        rows.append({"id": record_id(turns), "messages": turns, "origins": [origin]})
    return pl.DataFrame(rows, schema=RECORD_COLUMNS)


def pooled(*frames: pl.DataFrame) -> pl.DataFrame:
    """The frames as load.concat and the runner hand them on."""
    rows = concat(CTX, list(frames)).filter(pl.col("drop_reason").is_null())
    return rows.drop("drop_reason", "evidence").sort("id")


def answers_of(rows: pl.DataFrame, verdict: pl.DataFrame) -> dict[str, str]:
    """What is kept: the last turn by the first one."""
    kept = rows.filter(verdict["drop_reason"].is_null())["messages"].to_list()
    assert len({m[0]["content"] for m in kept}) == len(kept)
    return {m[0]["content"]: m[-1]["content"] for m in kept}


def published(name: str) -> list[tuple[str, str]]:
    rows = json_lines(GOLDEN / f"ensemble_instruct_{name}.jsonl.gz")
    return [(f"{r['instruction']}\n\n{r['input']}", r["output"].strip()) for r in rows]


@pytest.fixture(scope="module")
def ensemble() -> pl.DataFrame:
    """The published instances with the outputs of the two other models: 3 x 153 answers."""
    names = {"falcon": "samples", "flan-t5-xxl": "flan_t5_xxl", "flan-ul2": "flan_ul2"}
    return pooled(*(answered(source, published(name)) for source, name in names.items()))


def test_the_published_consensus_comes_out_complete(ensemble: pl.DataFrame) -> None:
    """Lee et al. 2023 publish 105 rows out of 153: the same prompts with the same answers."""
    verdict = response(CTX, ensemble, method=replace(FALCON, agreement="primary"))
    assert answers_of(ensemble, verdict) == dict(published("ensemble"))
    assert len(published("samples")) == 153
    assert len(published("ensemble")) == 105
    reasons = Counter(verdict["drop_reason"])
    assert reasons[None] == 105
    assert Counter(verdict["consensus"].drop_nulls()) == {"own": 5, "others": 24, "rouge_l": 76}


HELD_METHODS: dict[str, dict[str, Any]] = {
    "best": {"score": "score"},
    "some": {"score": "score", "max_per_group": 2, "descending": False},
    "majority": {"method": Majority(answer_column="answer"), "score": "score"},
    "votes": {"method": Majority(answer_column="answer"), "max_per_group": 2},
}


@pytest.mark.parametrize("name", HELD_METHODS)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_held_answers_keep_their_place_when_better_ones_come(
    name: str, seed: int, count: int
) -> None:
    chance = np.random.default_rng(seed)
    rows = pl.DataFrame(
        {
            "id": [f"{i:03}" for i in chance.permutation(2 * count)],
            "question": chance.integers(0, 3, 2 * count),
            "answer": chance.choice(list("xy"), 2 * count),
            "score": chance.random(2 * count).round(1),
            "messages": [None] * 2 * count,
            "origins": [[{"source": "s", "index": 0, "license": "MIT"}]] * 2 * count,
        }
    )
    options = {**HELD_METHODS[name], "group": "question"}
    plain, first = response(CTX, rows, **options), rows.head(count).sort("id")
    before = first.filter(response(CTX, first, **options)["drop_reason"].is_null())
    result = response(CTX, rows, before.select("id"), **options)
    now = rows.filter(result["drop_reason"].is_null())
    places = options.get("max_per_group", 1)
    assert now["question"].value_counts()["count"].max() <= places
    assert len(now) == len(rows.filter(plain["drop_reason"].is_null()))
    if isinstance(options.get("method"), Majority):  # the votes may name another answer now
        won = dict(now.select("question", "answer").iter_rows())
        before = before.filter(
            pl.Series([won[q] == a for q, a in before.select("question", "answer").iter_rows()])
        )
    assert set(before["id"]) <= set(now["id"])
    assert response(CTX, rows, rows.head(0), **options).equals(plain)


def test_a_held_answer_without_a_score_is_convicted_and_consensus_holds_none(
    ensemble: pl.DataFrame,
) -> None:
    rows = pl.DataFrame({"id": ["a", "b"], "question": [1, 1], "score": [None, 0.1]})
    result = response(CTX, rows, rows.head(1), score="score", group="question")
    assert result["drop_reason"].to_list() == ["missing_score", None]
    with pytest.raises(UserError, match="held must be left out with method: consensus"):
        response(CTX, ensemble, ensemble.head(3), method=FALCON)


def test_by_default_the_answer_of_those_who_agree_is_kept(ensemble: pl.DataFrame) -> None:
    verdict = response(CTX, ensemble, method=FALCON)
    kept, expected = answers_of(ensemble, verdict), dict(published("ensemble"))
    assert set(kept) == set(expected)
    others = dict(published("flan_ul2"))
    changed = {prompt for prompt, text in kept.items() if text != expected[prompt]}
    assert len(changed) == 23
    assert all(normalized(kept[p]) == normalized(others[p]) for p in changed)
    assert all(kept.values()), "two models that say nothing do not win"


def test_who_lost_knows_the_winner(ensemble: pl.DataFrame) -> None:
    verdict = response(CTX, ensemble, method=FALCON)
    lost = pl.concat([ensemble, verdict], how="horizontal").filter(
        pl.col("drop_reason") == "not_selected"
    )
    prompts = {row["id"]: prompt_id(row["messages"]) for row in ensemble.iter_rows(named=True)}
    for row in lost.iter_rows(named=True):
        winner = json.loads(row["evidence"])["winner"]
        assert prompts[winner] == prompts[row["id"]]
    kept = verdict.filter(pl.col("drop_reason").is_null())
    assert set(kept["response_rank"]) == {1}
    decided = kept.filter(pl.col("consensus") == "rouge_l")
    assert decided["consensus_score"].min() > 0.02
    assert kept.filter(pl.col("consensus") != "rouge_l")["consensus_score"].null_count() == 29


def agreed(*texts: str, primary: int | None = 0, **options: Any) -> str | None:
    votes = [Vote(i, text, i == primary) for i, text in enumerate(texts)]
    decision = consensus(votes, **{"keep_primary": False, "min_rouge_l": 0.01} | options)
    return None if decision.row is None else texts[decision.row]


def test_consensus_step_by_step() -> None:
    assert agreed("It is  RED.", "green", "it is red") == "It is  RED."
    assert agreed("green", "Red!", "red") == "Red!"
    assert agreed("green", "Red!", "red", keep_primary=True) == "green"
    assert agreed("green", "", "") == "green"
    assert agreed("a b c", "a b d", "a x y") == "a b c"
    assert agreed("a b c", "a b d", "x y z") is None
    assert agreed("a b c", "a b d", "x y z", min_rouge_l=-1) == "a b c"
    assert agreed("alone") is None
    assert agreed("running dogs", "dog runs", "cat") is None
    assert agreed("Red", "blue", "red", primary=None) == "Red"
    assert agreed("x", "y one", "z", "y one", "z", "y one") == "y one"


def test_a_merged_record_votes_for_all_that_gave_it() -> None:
    rows = pooled(
        answered("own", [("Q", "A")]), answered("b", [("Q", "A")]), answered("c", [("Q", "B")])
    )
    assert len(rows) == 2
    verdict = response(CTX, rows, method=Consensus(primary_voter="own"))
    assert answers_of(rows, verdict) == {"Q": "A"}
    assert verdict["consensus"].drop_nulls().to_list() == ["own"]
    by_model = rows.with_columns(model=pl.lit("own"))[
        ["id", "messages", "tools", "origins", "model"]
    ]
    alone = response(CTX, by_model, method=Consensus(primary_voter="own", voter_column="model"))
    assert answers_of(rows, alone) == {"Q": "A"}


def test_a_single_answer_is_no_consensus_and_none_is_no_answer() -> None:
    rows = pooled(answered("a", [("Q", "A"), ("R", None)]))
    verdict = response(CTX, rows, method=Consensus())
    assert sorted(verdict["drop_reason"]) == ["no_answer", "no_consensus"]
    assert response(CTX, rows.clear(), method=Consensus()).is_empty()


def test_generated_duplicates_count_as_votes() -> None:
    """What a generator drops as a duplicate is counted in the origins of the row kept."""
    turns = [{"role": "user", "content": "Q"}]
    generated = [
        make_row(
            [*turns, {"role": "assistant", "content": text}], license="x", parents=[], extra={}
        )
        for text in ("4", "5", "5", "5")
    ]
    rows = rows_to_frame(generated, "samples", {})
    assert rows["drop_reason"].to_list() == [None, None, "duplicate", "duplicate"]
    rows = rows.filter(pl.col("drop_reason").is_null()).drop("drop_reason", "evidence", "error")
    verdict = response(CTX, rows.sort("id"), method=Majority())
    assert answers_of(rows.sort("id"), verdict) == {"Q": "5"}
    assert sorted(verdict["response_votes"]) == [1, 3]


SCORED = st.lists(
    st.tuples(st.integers(0, 4), st.one_of(st.none(), st.just(float("nan")), st.integers(-2, 2))),
    max_size=30,
)


@given(SCORED, st.integers(1, 3), st.booleans())
def test_the_best_few_of_every_prompt(
    pairs: list[tuple[int, float | None]], keep: int, descending: bool
) -> None:
    rows = conversations([(f"Q{q}", f"A{i}") for i, (q, _) in enumerate(pairs)])
    scores = {f"A{i}": score for i, (_, score) in enumerate(pairs)}
    rows = rows.with_columns(
        s=pl.Series([scores[m[-1]["content"]] for m in rows["messages"]], dtype=pl.Float64)
    )
    verdict = response(CTX, rows, score="s", max_per_group=keep, descending=descending)
    best: set[str] = set()
    for prompt in {q for q, _ in pairs}:
        fit = [
            (-r["s"] if descending else r["s"], r["id"])
            for r in rows.iter_rows(named=True)
            if r["messages"][0]["content"] == f"Q{prompt}"
            and r["s"] is not None
            and r["s"] == r["s"]
        ]
        best |= {id_ for _, id_ in sorted(fit)[:keep]}
    assert set(rows["id"].filter(verdict["drop_reason"].is_null())) == best
    missing = rows["s"].is_null() | rows["s"].is_nan().fill_null(False)
    assert (verdict["drop_reason"].eq_missing("missing_score") == missing).all()
    for row, reason, evidence in zip(
        rows.iter_rows(named=True), verdict["drop_reason"], verdict["evidence"], strict=True
    ):
        if reason == "not_selected":
            assert json.loads(evidence)["winner"] in best
            assert json.loads(evidence)["score"] == row["s"]


def test_zero_is_a_score_and_all_turns_before_the_last_answer_are_the_prompt() -> None:
    pairs = {("Q", "A", "R", "x"): 0.0, ("Q", "A", "R", "y"): None, ("Q", "B", "R", "x"): -1.0}
    rows = conversations(list(pairs))
    texts = [tuple(m["content"] for m in messages) for messages in rows["messages"]]
    rows = rows.with_columns(s=pl.Series([pairs[text] for text in texts]))
    verdict = response(CTX, rows, score="s")
    kept = [t for t, why in zip(texts, verdict["drop_reason"], strict=True) if why is None]
    assert set(kept) == {("Q", "A", "R", "x"), ("Q", "B", "R", "x")}
    assert verdict["response_rank"].null_count() == 1


VOTES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["red", "Red!", "blue", "green"])), max_size=25
)


@given(VOTES, st.integers(1, 2))
def test_the_majority_wins(votes: list[tuple[int, str]], keep: int) -> None:
    """Samples as rows: the steps of reasoning differ, the answers stand in a column."""
    rows = conversations([(f"Q{q}", f"step {i}: {a}") for i, (q, a) in enumerate(votes)])
    answers = [m[-1]["content"].split(": ")[1] for m in rows["messages"]]
    rows = rows.with_columns(final=pl.Series([normalized(a) for a in answers], dtype=pl.String))
    verdict = response(CTX, rows, method=Majority(answer_column="final"), max_per_group=keep)
    for prompt in {q for q, _ in votes}:
        members = [
            (row["id"], row["final"], reason)
            for row, reason in zip(rows.iter_rows(named=True), verdict["drop_reason"], strict=True)
            if row["messages"][0]["content"] == f"Q{prompt}"
        ]
        counts = Counter(final for _, final, _ in members)
        most = max(counts.values())
        winner = next(final for _, final, _ in sorted(members) if counts[final] == most)
        expected = [id_ for id_, final, _ in sorted(members) if final == winner][:keep]
        assert [id_ for id_, _, reason in sorted(members) if reason is None] == expected
    assert set(verdict["drop_reason"]) <= {None, "not_selected"}


def test_a_weak_majority_is_none() -> None:
    rows = conversations([("Q", "a"), ("Q", "b"), ("R", "c")])
    verdict = response(CTX, rows, method=Majority(min_votes=2))
    assert set(verdict["drop_reason"]) == {"no_majority"}
    assert json.loads(verdict["evidence"][0]) == {"winner_votes": 1, "min_votes": 2}


def test_equal_votes_go_to_the_better_score() -> None:
    rows = conversations([("Q", "a"), ("Q", "b"), ("Q", "c")])
    scores = {"a": 1.0, "b": 3.0, "c": None}
    rows = rows.with_columns(
        s=pl.Series([scores[m[-1]["content"]] for m in rows["messages"]], dtype=pl.Float64)
    )
    assert answers_of(rows, response(CTX, rows, method=Majority(), score="s")) == {"Q": "b"}


def test_an_old_row_against_its_descendants() -> None:
    old = conversations([("Q", "A"), ("other", "row")])
    first = old.filter(pl.col("messages").list.first().struct.field("content") == "Q")["id"][0]
    new = conversations([("Q, but better", "B")]).with_columns(parents=pl.lit([first]))
    third = conversations([("Q, best", "C")]).with_columns(parents=pl.lit([new["id"][0]]))
    rows = pl.concat([old, new, third]).sort("id")
    scores = {"A": 0.4, "B": 0.9, "C": 0.7, "row": 0.1}
    rows = rows.with_columns(ifd=pl.Series([scores[m[-1]["content"]] for m in rows["messages"]]))
    verdict = response(CTX, rows, score="ifd", group="parent")
    assert answers_of(rows, verdict) == {"Q, but better": "B", "other": "row"}


def test_row_order_of_equal_scores_is_that_of_the_ids() -> None:
    rows = conversations([("Q", f"A{i}") for i in range(9)]).with_columns(s=pl.lit(1.0))
    verdict = response(CTX, rows, score="s", max_per_group=2)
    assert np.flatnonzero(verdict["drop_reason"].is_null()).tolist() == [0, 1]
    assert response(CTX, rows.clear(), score="s").is_empty()
    assert response(CTX, rows.clear(), method=Majority()).is_empty()


def test_what_it_reads() -> None:
    stage = find("select.response")
    assert stage.reads("rows", bound("select.response", score="s")) == ["messages", "tools", "s"]
    options = bound("select.response", method={"name": "majority", "answer_column": "final"})
    assert stage.reads("rows", options) == ["messages", "tools", "origins", "final"]
    options = bound("select.response", method={"name": "consensus", "voter_column": "model"})
    assert stage.reads("rows", options) == ["messages", "tools", "origins", "model"]


def test_options_that_are_accepted() -> None:
    for options in (
        {"score": "s", "max_per_group": 4, "group": "parent", "descending": False},
        {"method": "majority"},
        {"method": "consensus"},
        {"method": {"name": "majority", "min_votes": 2}, "score": "s"},
    ):
        assert problems_of("select.response", **options) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "score: score must be given with method: best, got null"),
        (
            {"score": "s", "max_per_group": 0},
            "max_per_group: max_per_group must be at least 1, got 0",
        ),
        (
            {"method": "consensus", "max_per_group": 2},
            "max_per_group: max_per_group must be left out with method: consensus",
        ),
        ({"method": "consensus", "score": "s"}, "score: score must be left out with method"),
        (
            {"score": "s", "primary_voter": "x"},
            "primary_voter: 'primary_voter' is an option of method: consensus",
        ),
        (
            {"method": {"name": "majority", "min_votes": 0}},
            "method.min_votes: method.min_votes must be at least 1, got 0",
        ),
        (
            {"method": {"name": "majority", "voter_column": "model"}},
            "method.voter_column: method (majority) has no option 'voter_column'",
        ),
        (
            {"method": "majority", "descending": False},
            "descending: descending must be left out without a score, got False",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_runs(options: dict, problem: str) -> None:
    (message,) = problems_of("select.response", **options)
    assert message.startswith(problem)
