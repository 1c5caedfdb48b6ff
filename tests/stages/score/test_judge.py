"""The judge: expectations from probabilities, pairs in both orders, and biases that are known."""

from __future__ import annotations

import json
import math

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Completion, Decoding, LanguageModel, Request, TokenLogprobs
from stages._llm.label_scores import expectation
from stages.score._judging import Bias, rank_correlation
from stages.score.judge import _check, judge, talks
from tests.support.options import options_of
from tests.support.rows import conversations, of
from tests.support.scripted import Answer, scripted

NO_MODEL = LanguageModel(model="none")
ROWS = conversations([("Why?", "Because."), ("A?", "B.", "C?", "D, and more of it."), ("Who?",)])


def of_prompts(prompt: str, *answers: str) -> list[tuple[str, str]]:
    return [(prompt, answer) for answer in answers]


def by(frame: pl.DataFrame, made: pl.DataFrame) -> dict[str, dict]:
    """What was added, by the last thing that each row says."""
    last = frame["messages"].list.last().struct.field("content")
    return dict(zip(last, made.to_dicts(), strict=True))


def said(tokens: dict[str, float], text: str = "4") -> Completion:
    top = tuple((token, math.log(p)) for token, p in tokens.items())
    return Completion("k", text, "stop", 1, 1, logprobs=(TokenLogprobs(text, 0.0, top),))


SCALE = {str(n): float(n) for n in range(1, 7)}


def test_the_expectation_is_over_the_labels_alone() -> None:
    assert expectation(said({"4": 0.4, " 5": 0.2, "the": 0.4}), SCALE) == pytest.approx(13 / 3)
    assert expectation(said({"the": 0.9}), SCALE) == 4.0  # what was said, where none is likely
    assert expectation(Completion("k", "6", "stop", 1, 1), SCALE) == 6.0
    assert expectation(Completion("k", "six", "stop", 1, 1), SCALE) is None


def test_ratings_sum_over_the_turns_and_multiply(ctx: Context) -> None:
    def rater(text: str) -> Answer:
        return ("5" if "difficult" in text else "2"), "stop"

    context = scripted(ctx, rater)
    options = {"model": NO_MODEL, "aspects": ("quality", "complexity")}
    last = by(ROWS, judge(context, ROWS, **options))["D, and more of it."]
    assert (last["judge_quality"], last["judge_complexity"], last["judge_product"]) == (2, 5, 10)
    summed = by(ROWS, judge(context, ROWS, **options, turns="sum"))["D, and more of it."]
    assert (summed["judge_quality"], summed["judge_product"]) == (4, 20)
    nothing = by(ROWS, judge(context, ROWS, **options))["Who?"]
    assert nothing["error"] == "there is no answer to judge"
    assert nothing["judge_quality"] is None
    shown = context.engine.asked[0]
    assert len(shown) == 2
    assert all("could not be better" in request.prompt[-1][1] for request in shown)
    assert all(request.decoding.logprobs == 20 for request in shown)


def test_an_unreadable_judgement_is_asked_once_more_and_then_fails(ctx: Context) -> None:
    context = scripted(ctx, lambda _: ("splendid", "stop"))
    made = judge(context, ROWS[:1], model=NO_MODEL)
    assert "unreadable" in made["error"][0]
    assert [len(asked) for asked in context.engine.asked] == [1, 1]


def test_criteria_are_asked_one_by_one(ctx: Context) -> None:
    def strict(text: str) -> Answer:
        return ("yes" if "is short" in text else "no"), "stop"

    made = judge(
        scripted(ctx, strict),
        ROWS,
        model=NO_MODEL,
        method="rubric",
        criteria=("It is short.", "It names a source."),
    )
    assert by(ROWS, made)["Because."]["judge_met"] == [True, False]
    assert by(ROWS, made)["Because."]["judge_rubric"] == 0.5
    assert by(ROWS, made)["Who?"]["judge_rubric"] is None


def test_pairs_are_asked_in_both_orders_and_biases_are_found(ctx: Context) -> None:
    rows = conversations([*of_prompts("Why?", "good", "bad indeed", "worst of all"), ("B?", "x")])

    def honest(text: str) -> Answer:
        rank = {"good": 0, "bad indeed": 1, "worst of all": 2}
        first = rank[text.split("Answer A:\n")[1].split("\n")[0]]
        second = rank[text.split("Answer B:\n")[1].split("\n")[0]]
        return ("A" if first < second else "B"), "stop"

    found = by(rows, judge(scripted(ctx, honest), rows, model=NO_MODEL, method="pairwise"))
    wins = [found[a]["judge_wins"] for a in ("good", "bad indeed", "worst of all", "x")]
    assert wins == [1.0, 0.5, 0.0, None]
    assert found["x"]["judge_pairs"] == 0
    told = json.loads((ctx.files / "bias.json").read_text())
    assert told["position"] == {"share_of_first_place": 0.5, "orders_agree": 1.0, "pairs": 3}
    assert told["length"] == {"share_of_longer": 0.0, "pairs": 3}
    judge(scripted(ctx, lambda _: ("A", "stop")), rows, model=NO_MODEL, method="pairwise")
    told = json.loads((ctx.files / "bias.json").read_text())
    assert told["position"] == {"share_of_first_place": 1.0, "orders_agree": 0.0, "pairs": 3}
    assert told["length"] == {"share_of_longer": None, "pairs": 0}
    assert "first place" in (ctx.files / "bias.md").read_text()


def test_a_vote_that_fails_fails_both_rows(ctx: Context) -> None:
    rows = conversations(of_prompts("Why?", "good", "bad"))
    made = judge(
        scripted(ctx, lambda _: ("no server", "error")), rows, model=NO_MODEL, method="pairwise"
    )
    assert made["error"].to_list() == ["no server"] * 2


def test_gaps_compare_answers_to_the_same_prompt(ctx: Context) -> None:
    mine = conversations([("Why?", "strong"), ("How?", "strong")])
    theirs = conversations([("Why?", "weak"), ("Else?", "weak")])
    made = judge(
        *(scripted(ctx, lambda text: (("5" if "strong" in text else "2"), "stop")), mine, theirs),
        model=NO_MODEL,
        method="gap",
    )
    found = dict(zip(mine["id"], made["judge_gap"], strict=True))
    assert found == {of(mine, "Why?"): 3.0, of(mine, "How?"): None}
    assert made["error"].null_count() == 2
    with pytest.raises(UserError, match="another model"):
        judge(scripted(ctx, lambda _: ("1", "stop")), mine, model=NO_MODEL, method="gap")


def test_every_answer_is_seen_with_what_was_said_before_it() -> None:
    every = [t for t in talks(ROWS, every=True) if "C?" in t.conversation or t.response == "B."]
    assert {(t.conversation, t.response) for t in every} == {
        ("User:\nA?\n\n", "B."),
        ("User:\nA?\n\nAssistant:\nB.\n\nUser:\nC?\n\n", "D, and more of it."),
    }


def test_length_bias_is_a_rank_correlation() -> None:
    bias = Bias(scores=[1.0, 2.0, 3.0], lengths=[10, 20, 30])
    assert bias.facts()["length"]["rank_correlation_with_score"] == pytest.approx(1.0)
    assert rank_correlation([1, 1], [1, 2]) is None
    assert Bias().facts() == {}


def test_a_live_judge_s_expectation_is_that_of_its_probabilities(
    ctx: Context, tinylm: LanguageModel
) -> None:
    """Also where it is held to the labels: they are words that it would have said by itself."""
    engine = ctx.open(tinylm)
    question = (("user", "Is water wet? Answer with one word."),)
    free = engine.generate([Request(question, Decoding(max_tokens=1, logprobs=20))])[0]
    words = [(t, p) for t, p in free.logprobs[0].top if t.strip().isalpha() and t == t.strip()]
    (one, p), (other, q) = words[:2]
    held = Decoding(max_tokens=4, choice=(one, other), logprobs=20)
    found = expectation(engine.generate([Request(question, held)])[0], {one: 1.0, other: 0.0})
    assert found == pytest.approx(math.exp(p) / (math.exp(p) + math.exp(q)), abs=1e-5)
    made = judge(ctx, ROWS, model=tinylm, aspects=("quality", "helpfulness"))
    assert made["judge_quality"].drop_nulls().is_between(1, 6).all()
    assert made["error"].null_count() == 2


@pytest.mark.parametrize(
    "wrong", [{"method": "rubric"}, {"aspects": ()}, {"method": "gap", "aspects": ("a", "b")}]
)
def test_mistakes_are_told_before_anything_runs(wrong: dict) -> None:
    with pytest.raises(UserError):
        _check(options_of(judge, **wrong))
