"""Refusal-aware rows: marks of the model that will be tuned, and answers that stay as they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from schemas.records import RECORD_COLUMNS, record_id
from stages._llm.model_weights import weights_of
from stages.rewrite.refusal_aware import (
    QUESTION,
    REFUSALS,
    Agreement,
    Certainty,
    Entropy,
    Refusal,
    refusal_aware,
)
from stages.score.agreement import agreement
from stages.score.agreement.comparisons import Exact
from stages.score.agreement.samples import Samples
from tests.support.rows import conversations, kept, record
from tests.support.scripted import Answer, scripted
from tests.support.tool_rows import CONVERSATION, tool_record

MODEL = LanguageModel(model="none", id="none@1")
OTHER = LanguageModel(model="none", id="none@2")
R_TUNING: dict[str, Any] = {
    "method": Samples(num_samples=1),
    "compare": Exact(first_sentence=True, contained=True),
    "temperature": 0.0,
    "max_tokens": 15,
}
QUESTIONS = conversations(
    [(f"Which number is {n} and {n}?", str(n + n)) for n in range(12)]
    + [("Which city is the capital?", "Paris")]
)


def knows_even(text: str) -> Answer:
    """A model that can add even numbers, and says nothing of cities."""
    numbers = [int(word) for word in text.rstrip("?").split() if word.isdigit()]
    if not numbers:
        return "", "stop"
    return f"It is {numbers[0] * 2 + numbers[0] % 2}. Or so", "stop"


def knows_odd(text: str) -> Answer:
    """One that can add odd ones."""
    numbers = [int(word) for word in text.rstrip("?").split() if word.isdigit()]
    return f"It is {numbers[0] * 2 + 1 - numbers[0] % 2}." if numbers else "", "stop"


def sampled(ctx: Context, script: Any, model: LanguageModel = MODEL) -> pl.DataFrame:
    """The questions with what a model knows of them."""
    result = agreement(scripted(ctx, script), QUESTIONS, models=(model,), **R_TUNING)
    return pl.concat([QUESTIONS, result.drop("error")], how="horizontal")


def by_question(rows: pl.DataFrame, source: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The rows by the text of the question that they were made of."""
    first = source["messages"].list.first().struct.field("content")
    questions = dict(zip(source["id"], first, strict=True))
    return {questions[(row["parents"] or [row["id"]])[0]]: row for row in rows.to_dicts()}


def test_marks_sum_to_the_rows_and_the_answer_stays(ctx: Context) -> None:
    rows = sampled(ctx, knows_even)
    result = refusal_aware(ctx, rows, model=MODEL)
    counts = json.loads((ctx.files / "marks.json").read_text("utf-8"))
    assert counts == {"rows": 13, "sure": 6, "unsure": 6, "unparsed": 1}
    for question, row in by_question(kept(result), rows).items():
        number = int(question.split()[3])
        assert row["certainty"] == ("unsure" if number % 2 else "sure")
        answer = row["messages"][-1]["content"]
        gold, _, rest = answer.partition("\n")
        assert gold == str(number * 2), "the right answer, whatever the model said"
        assert rest == f"{QUESTION} {Certainty().unsure if number % 2 else Certainty().sure}"
        assert json.loads(row["extra"])["original"][-1]["content"] == gold
        assert row["id"] == record_id(row["messages"])
        assert row["origins"][0]["license"] == "CC0-1.0"
    (lost,) = result.filter(pl.col("drop_reason").is_not_null()).to_dicts()
    assert lost["drop_reason"] == "unparsed"
    assert json.loads(lost["evidence"]) == {"agreement_votes": 0, "agreement_asked": 1}


def test_another_model_gives_the_other_marks(ctx: Context) -> None:
    marks = [
        {
            question: row["certainty"]
            for question, row in by_question(
                kept(refusal_aware(ctx, sampled(ctx, script), model=MODEL)), QUESTIONS
            ).items()
        }
        for script in (knows_even, knows_odd)
    ]
    assert marks[0].keys() == marks[1].keys()
    assert all({marks[0][q], marks[1][q]} == {"sure", "unsure"} for q in marks[0])


def test_marks_of_another_model_are_refused(ctx: Context, tmp_path: Any) -> None:
    rows = sampled(ctx, knows_even)
    with pytest.raises(UserError, match=r"must be the one that score\.agreement sampled") as error:
        refusal_aware(ctx, rows, model=OTHER)
    assert "none@1" in str(error.value)
    assert error.value.hint
    two = rows.with_columns(agreement_models=pl.Series([["a", "b"]] * len(rows)))
    with pytest.raises(UserError):
        refusal_aware(ctx, two, model=MODEL)
    # A revision of the same name is another model.
    one, other = (
        weights_of(LanguageModel(model="a/b", revision=digit * 40), tmp_path) for digit in "ab"
    )
    assert one != other
    assert json.loads(one) == {"name": "a/b", "revision": "a" * 40}


def test_refusals_stand_on_unknown_rows_alone(ctx: Context) -> None:
    rows = sampled(ctx, knows_even)
    result = refusal_aware(ctx, rows, model=MODEL, target=Refusal())
    originals = {row["id"]: row for row in rows.to_dicts()}
    for row in kept(result).to_dicts():
        refused = row["messages"][-1]["content"] in REFUSALS
        assert refused == (row["certainty"] == "unsure")
        if not refused:
            assert all(row[n] == originals[row["id"]][n] for n in RECORD_COLUMNS), "as it came"
    said = {row["messages"][-1]["content"] for row in kept(result).to_dicts()} & {*REFUSALS}
    assert len(said) > 1, "drawn for each row"
    assert len({*REFUSALS}) == 16
    assert refusal_aware(ctx, rows, model=MODEL, target=Refusal()).equals(result)
    part = refusal_aware(ctx, rows[3:9], model=MODEL, target=Refusal())
    assert {*part["id"]} <= {*result["id"]}, "other rows change no draw"
    other = refusal_aware(ctx, rows, model=MODEL, target=Refusal(), seed=1)
    assert {*other["id"]} != {*result["id"]}


@given(st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.3, 0.9])), max_size=12), st.randoms())
def test_half_of_the_rows_with_an_entropy_are_certain(
    values: list[float | None], shuffler: Any
) -> None:
    rows = conversations([(f"{n}?", str(n)) for n in range(len(values))]).with_columns(
        agreement_entropy=pl.Series(values, dtype=pl.Float64),
        agreement_votes=pl.lit(5, pl.Int32), agreement_asked=pl.lit(5, pl.Int32),
        agreement_models=pl.Series(
            [[weights_of(MODEL, Path())]] * len(values), dtype=pl.List(pl.String)
        ),
    )  # fmt: skip
    ctx = Context.scratch(Path(mkdtemp()))
    result = refusal_aware(ctx, rows, model=MODEL, marks=Entropy())
    known = [value for value in values if value is not None]
    counts = Counter(result["certainty"].to_list())
    assert counts["sure"] == len(known) // 2, "of an odd number the smaller half"
    assert counts["unsure"] == len(known) - len(known) // 2
    assert counts[None] == len(values) - len(known)
    entropy = dict(rows.select("id", "agreement_entropy").iter_rows())
    of = {m: [entropy[p[0]] for c, p in result.select("certainty", "parents").iter_rows() if c == m]
          for m in ("sure", "unsure")}  # fmt: skip
    assert max(of["sure"], default=0) <= min(of["unsure"], default=1)
    order = list(range(len(rows)))
    shuffler.shuffle(order)
    turned = refusal_aware(ctx, rows[order], model=MODEL, marks=Entropy())
    assert {*turned["id"]} == {*result["id"]}


@pytest.mark.parametrize("target", [Certainty(), Certainty(place="turn"), Refusal()])
def test_odd_rows_are_whole_or_dropped_with_a_reason(ctx: Context, target: Any) -> None:
    reasoned = tool_record(
        [{"role": "user", "content": "2 + 2?"},
         {"role": "assistant", "content": "4", "reasoning": "2 and 2"}]
    )  # fmt: skip
    odd = [
        record("2 + 2?"), record("2 + 2?", ""), record("二加二等于几？", "四"), reasoned,
        record("word " * 10_000, "word " * 10_000), tool_record(CONVERSATION, '[{"name": "w"}]'),
        record("Hi.", "Hello.", "2 + 3?", "5"),
    ]  # fmt: skip
    rows = pl.DataFrame(odd, schema=RECORD_COLUMNS).sort("id")
    votes = agreement(scripted(ctx, lambda _: ("No", "stop")), rows, models=(MODEL,), **R_TUNING)
    rows = pl.concat([rows, votes.drop("error")], how="horizontal")
    result = refusal_aware(ctx, rows, model=MODEL, target=target)
    assert len(result) == len(rows)
    reasons = Counter(result["drop_reason"].drop_nulls().to_list())
    assert reasons == {"no_answer": 2, "unparsed": 1}
    for row in kept(result).to_dicts():
        last = row["messages"][-1]
        assert last["role"] == "assistant"
        assert last["content"]
        if isinstance(target, Refusal):
            assert last["reasoning"] is None, "what led to the old answer leads to no refusal"
        elif target.place == "turn":
            assert [m["role"] for m in row["messages"][-3:]] == ["assistant", "user", "assistant"]


def test_equal_records_keep_all_origins(ctx: Context) -> None:
    rows = conversations([("Why?", "a"), ("Why?", "b")]).with_columns(
        agreement=pl.lit(0.0), agreement_votes=pl.lit(1), agreement_asked=pl.lit(1),
        agreement_models=pl.lit([weights_of(MODEL, ctx.store)]),
    )  # fmt: skip
    result = refusal_aware(ctx, rows, model=MODEL, target=Refusal(refusals=("No.",)))
    assert result["drop_reason"].to_list() == [None, "duplicate"]
    assert len(result["origins"][0]) == 2


def test_a_threshold_decides_between_several_samples(ctx: Context) -> None:
    rows = conversations([("Why?", "a")]).with_columns(
        agreement=pl.lit(0.6), agreement_votes=pl.lit(5), agreement_asked=pl.lit(5),
        agreement_models=pl.lit([weights_of(MODEL, ctx.store)]),
    )  # fmt: skip
    marks = [
        refusal_aware(ctx, rows, model=MODEL, marks=Agreement(min_agreement=least))["certainty"][0]
        for least in (0.5, 0.6, 0.7)
    ]
    assert marks == ["sure", "sure", "unsure"]


def test_a_request_that_is_answered_with_certainty_is_not_refused_as_well(ctx: Context) -> None:
    rows = sampled(ctx, knows_even)
    wrong = conversations([("Which number is 2 and 2?", "5"), ("Which number is 4 and 4?", "9")])
    unsure = agreement(scripted(ctx, knows_even), wrong, models=(MODEL,), **R_TUNING)
    both = pl.concat([rows, pl.concat([wrong, unsure.drop("error")], how="horizontal")])
    result = refusal_aware(ctx, both, model=MODEL, target=Refusal())
    assert result["drop_reason"].tail(2).to_list() == ["conflict", "conflict"]
    certain = {json.loads(text)["certain"] for text in result["evidence"].tail(2)}
    assert certain <= set(result.filter(certainty="sure")["id"])
    assert result.head(len(rows)).equals(refusal_aware(ctx, rows, model=MODEL, target=Refusal()))
    # Said of each answer by itself, sure and unsure are no contradiction.
    marked = refusal_aware(ctx, both, model=MODEL)
    assert "conflict" not in marked["drop_reason"].to_list()
    assert marked["certainty"].tail(2).to_list() == ["unsure", "unsure"]


def test_too_few_votes_say_nothing(ctx: Context) -> None:
    rows = sampled(ctx, knows_even)
    votes = rows["agreement_votes"].fill_null(0)
    assert set(votes) == {0, 1}
    result = refusal_aware(ctx, rows, model=MODEL, min_votes=2)
    expected = ["too_few_votes" if n else "unparsed" for n in votes]
    assert result["drop_reason"].to_list() == expected
