"""A score of one's own: expectations and probabilities of labels, and what they rest on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Completion, LanguageModel, Request
from pipeline.models.base import TokenLogprobs
from pipeline.recipe.recipe import Recipe
from stages._llm.label_scores import label_probabilities
from stages.score.column import Labels, Scale, column
from tests.support.rows import conversations
from tests.support.running import artifact, run
from tests.support.scripted import Answer, Scripted, scripted

MODEL = LanguageModel(model="none")
ROWS = conversations([("Name a river.", "The Rhine."), ("Name a hill.", "Hawk Hill.")])
TONES = Labels(labels=("rude", "so so", "polite"))


class WithLogprobs(Scripted):
    """Gives the probabilities of first tokens with every answer."""

    def __init__(self, script: Callable[[str], Answer], tokens: Mapping[str, float]) -> None:
        super().__init__(script)
        self.tokens = tokens

    def _answer(self, request: Request) -> Completion:
        return replace(super()._answer(request), logprobs=(first(self.tokens),))


def first(tokens: Mapping[str, float]) -> TokenLogprobs:
    """The first token of an answer, which is the first of these."""
    top = [(token, math.log(probability)) for token, probability in tokens.items()]
    return TokenLogprobs(*top[0], tuple(sorted(top, key=lambda entry: -entry[1])))


def scored(
    ctx: Context, text: str, tokens: Mapping[str, float] | None = None, **options: Any
) -> dict[str, Any]:
    """The first row's columns."""
    context = scripted(ctx, lambda _: (text, "stop"))
    if tokens:
        context.engine = WithLogprobs(lambda _: (text, "stop"), tokens)
    result = column(context, ROWS, model=MODEL, prompt="Rate {{ response }}", **options)
    return result.row(0, named=True)


def test_a_number_is_the_expectation_over_the_scale(ctx: Context) -> None:
    row = scored(ctx, "4", {"4": 0.6, " 5": 0.2, "2": 0.1, "Well": 0.1}, column="depth")
    assert row["depth"] == pytest.approx((4 * 0.6 + 5 * 0.2 + 2 * 0.1) / 0.9)
    assert row["depth_from_logprobs"] is True
    assert len(row["depth_journal"]) == 1


def test_labels_have_probabilities(ctx: Context) -> None:
    tokens = {"Rude": 0.2, " rude": 0.1, "polite": 0.6, "Hm": 0.1}
    row = scored(ctx, "polite", tokens, column="tone", answer=TONES)
    assert row["tone"] == "polite"
    assert row["tone_rude"] == pytest.approx(1 / 3)
    assert row["tone_so_so"] == 0
    assert row["tone_polite"] == pytest.approx(2 / 3)


def test_too_little_probability_of_labels_is_unreadable(ctx: Context) -> None:
    row = scored(ctx, "4", {"4": 0.3, "Well": 0.7})
    assert (row["score"], row["drop_reason"]) == (None, "unreadable")
    assert scored(ctx, "4", {"4": 0.3, "Well": 0.7}, min_mass=0.2)["score"] == 4


@pytest.mark.parametrize(
    ("text", "tokens", "value"),
    [
        # A vocabulary of single digits: the first token of 10 is that of 1.
        ("10", {"1": 0.9, "7": 0.1}, 10.0),
        # One with 10 as a token: 1 is 1.
        ("10", {"10": 0.5, "1": 0.5}, 5.5),
        # What begins several labels is left out where it hardly counts.
        ("7", {"7": 0.8, "8": 0.195, "1": 0.005}, (7 * 0.8 + 8 * 0.195) / 0.995),
    ],
)
def test_numbers_of_several_digits(
    ctx: Context, text: str, tokens: Mapping[str, float], value: float
) -> None:
    row = scored(ctx, text, tokens, answer=Scale(low=1, high=10))
    assert row["score"] == pytest.approx(value)


def test_labels_with_one_beginning_are_not_told_by_it() -> None:
    answer = Completion("k", "very good", "stop", 0, 2, logprobs=(first({"very": 0.9, "no": 0.1}),))
    assert label_probabilities(answer, ["very good", "very bad", "no"]) is None
    assert label_probabilities(answer, ["very good", "no"]) == pytest.approx(
        {"very good": 0.9, "no": 0.1}
    )


@given(st.lists(st.floats(0.001, 1), min_size=5, max_size=5))
def test_probabilities_are_parts_of_one(weights: list[float]) -> None:
    total = sum(weights)
    tokens = {str(n): weight / total for n, weight in enumerate(weights, 1)}
    answer = Completion("k", "1", "stop", 0, 1, logprobs=(first(tokens),))
    parts = label_probabilities(answer, list(tokens))
    assert parts == pytest.approx(tokens)


def test_without_probabilities_the_written_label_counts_and_a_warning_says_so(
    ctx: Context, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        row = scored(ctx, "**Score: 4/5**")
    assert (row["score"], row["score_from_logprobs"]) == (4.0, False)
    assert "2 of 2 scores are the label as it was written" in caplog.text
    tone = scored(ctx, "Polite.", column="tone", answer=TONES)
    assert [tone[f"tone_{x}"] for x in ("rude", "so_so", "polite")] == [0, 0, 1]


def test_or_the_mean_of_several_samples(ctx: Context) -> None:
    class Numbered(Scripted):
        def _answer(self, request: Request) -> Completion:
            text = "rude" if request.sample % 4 == 3 else "polite"
            return replace(super()._answer(request), text=text)

    context = scripted(ctx, lambda _: ("", "stop"))
    context.engine = Numbered(lambda _: ("", "stop"))
    result = column(context, ROWS, model=MODEL, prompt="Go", answer=TONES, samples=4)
    assert result["score_polite"].to_list() == [0.75, 0.75]
    assert result["score"].to_list() == ["polite", "polite"]


def test_what_is_no_label_drops_its_row_and_what_fails_fails_it(ctx: Context) -> None:
    row = scored(ctx, "Hard to say.", answer=TONES)
    assert (row["score"], row["drop_reason"]) == (None, "unreadable")
    context = scripted(ctx, lambda _: ("no server", "error"))
    result = column(context, ROWS, model=MODEL, prompt="Go")
    assert result["error"].to_list() == ["no server"] * 2


def test_a_null_drops_its_row(ctx: Context) -> None:
    rows = ROWS.with_columns(pl.Series("topic", ["x", None]))
    context = scripted(ctx, lambda _: ("4", "stop"))
    result = column(context, rows, model=MODEL, prompt="{{ topic }}")
    assert result["drop_reason"].to_list() == [None, "null_value"]
    assert result["score"].to_list() == [4.0, None]


def test_the_prompt_ends_with_what_may_be_answered(ctx: Context) -> None:
    texts = []
    for answer in (Scale(low=0, high=9), TONES, Scale(show_form=False)):
        context = scripted(ctx, lambda _: ("polite", "stop"))
        column(context, ROWS[:1], model=MODEL, prompt="Go", answer=answer)
        texts.append(context.engine.calls[0][0].prompt[-1][1])
    assert texts == [
        "Go\n\nAnswer with a number from 0 to 9 and nothing else.",
        "Go\n\nAnswer with one of these and nothing else: rude, so so, polite.",
        "Go",
    ]


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ({"name": "scale", "low": 5, "high": 5}, "low must be below high"),
        ({"name": "labels", "labels": ["a"]}, "at least 2"),
        ({"name": "labels", "labels": ["a", "A"]}, "in more than case"),
        ({"name": "labels", "labels": ["a-b", "a b"]}, "in letters or digits"),
        ({"name": "labels", "labels": [True, False]}, "must be a text"),
    ],
)
def test_mistakes_are_reported_beforehand(answer: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        recipe(answer=answer)


def recipe(**options: Any) -> Recipe:
    load = {"path": "data/samples/user_oriented_252.jsonl", "source": "s", "license": "MIT"}
    own = {"model": "m", "prompt": "Rate {{ response }}", **options}
    stages = {
        "pool": {"uses": "load.records", "with": load},
        "few": {"uses": "select.random", "needs": "pool", "with": {"budget": 3}},
        "own": {"uses": "score.column", "needs": "few", "with": own},
    }
    return Recipe.of("own", stages, {"m": {"model": "data/models/tinylm"}})


def test_a_real_model_gives_probabilities(tmp_path: Path) -> None:
    answer = {"name": "labels", "labels": ["good", "bad"]}
    own = recipe(answer=answer, min_mass=0.0)
    run(own, tmp_path)
    rows = artifact(own, tmp_path, "own").read("kept")
    assert len(rows) == 3
    assert rows["score_from_logprobs"].all()
    assert (rows["score_good"] + rows["score_bad"]).to_list() == pytest.approx([1.0] * 3)
