"""evaluate.judge: published win rates, scores and judgements recompute; length is controlled."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import OptionError
from stages._llm.ratings import leading_scores
from stages.evaluate.judge import judge
from stages.evaluate.judge.length_control import instruction_difficulties, length_controlled
from stages.evaluate.judge.overlap import Overlap
from stages.evaluate.judge.revised import Revised
from stages.evaluate.judge.win_rate import WinRate, relative_score, summary
from tests.support.options import NO_MODEL
from tests.support.rows import conversations, frame, record
from tests.support.scripted import Answer, scripted

JUDGEMENTS = "references/diverseevol_gpt4_judgements.jsonl.gz"
WIN_RATES = "references/alpaca_eval_winrates.csv"


def report(ctx: Context) -> dict[str, Any]:
    return json.loads((ctx.files / "judge.json").read_text())  # type: ignore[no-any-return]


def test_published_win_rates_and_their_errors_follow_from_the_counts(shared: Path) -> None:
    for row in pl.read_csv(shared / WIN_RATES).iter_rows(named=True):
        decided = [(1.0, 1, 1)] * row["n_wins"] + [(0.0, 1, 1)] * row["n_wins_base"]
        result = summary(decided + [(0.5, 1, 1)] * row["n_draws"])
        assert result["win_rate"] * 100 == pytest.approx(row["win_rate"], abs=1e-9)
        assert result["stderr"] * 100 == pytest.approx(row["standard_error"], abs=1e-9)
        assert (result["wins"], result["ties"]) == (row["n_wins"], row["n_draws"])


def test_published_judgements_parse_and_agree_across_orders(shared: Path) -> None:
    with gzip.open(shared / JUDGEMENTS, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    scores: dict[tuple[str, int], list[Any]] = {}
    agree = 0
    for row in rows:
        first, second = leading_scores(row["response_ab"]), leading_scores(row["response_ba"])
        assert first == tuple(row["scores_ab"])
        assert second == tuple(row["scores_ba"])[::-1]  # the second order is swapped
        agree += np.sign(first[0] - first[1]) == np.sign(second[1] - second[0])
        scores.setdefault((row["run"], row["round"]), []).extend([first, second])
    assert round(agree / len(rows), 2) == 0.81
    relative = {key[1]: relative_score(of)["relative_score"] for key, of in scores.items()}
    assert {k: round(100 * v, 2) for k, v in relative.items()} == {0: 46.47, 3: 91.69, 10: 77.9}


def _simulated(ability: float, length_bias: float, n: int = 20_000) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    differences = rng.normal(300, 400, n)
    chance = 1 / (1 + np.exp(-(ability + length_bias * np.tanh(differences / differences.std()))))
    return (rng.random(n) < chance).astype(float), differences


@pytest.mark.parametrize(("ability", "bias"), [(0.0, 1.5), (-0.7, 1.0), (0.5, 0.0)])
def test_length_control_recovers_the_rate_at_equal_lengths(ability: float, bias: float) -> None:
    preferences, differences = _simulated(ability, bias)
    result = length_controlled(preferences.tolist(), differences.tolist())
    assert result is not None
    truth = 1 / (1 + np.exp(-ability))
    assert abs(result.win_rate - truth) < 3 * result.stderr < 0.05
    assert result.coefficient == pytest.approx(bias, abs=0.1)
    if bias:
        assert preferences.mean() - truth > 0.05  # the plain rate is off


# Shares of a judge who is asked in both orders: their complements are exact.
SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(st.lists(st.tuples(SHARES, st.integers(-500, 500)), min_size=3, max_size=30))
def test_swapping_the_sides_mirrors_the_controlled_rate(rows: list[tuple[float, int]]) -> None:
    shares, lengths = zip(*rows, strict=True)
    one = length_controlled(shares, lengths)
    other = length_controlled([1 - s for s in shares], [-d for d in lengths])
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one.win_rate == pytest.approx(1 - other.win_rate, abs=1e-4)
        assert one.coefficient == pytest.approx(other.coefficient, abs=1e-3)


ANSWERS = conversations([("Why?", "Because."), ("Who?", "They."), ("When?", "Now, I think.")])
RIVALS = conversations([("Why?", "So."), ("Who?", "You, of course.")])


def _longer(text: str) -> Answer:
    first = text.partition("Answer A:\n")[2].partition("\n\nAnswer B:")[0]
    second = text.partition("Answer B:\n")[2].partition("\n\n")[0]
    return ("A" if len(first) > len(second) else "B", "stop")


def test_both_orders_are_judged_and_what_has_no_rival_is_dropped(ctx: Context) -> None:
    context = scripted(ctx, _longer)
    result = judge(context, ANSWERS, RIVALS, model=NO_MODEL)
    assert len(context.engine.calls[0]) == 4
    by_answer = dict(
        zip(ANSWERS["messages"].list.last().struct.field("content"), result.to_dicts(), strict=True)
    )
    assert by_answer["Because."]["eval_preference"] == 1.0
    assert by_answer["They."]["eval_preference"] == 0.0
    assert by_answer["Now, I think."]["drop_reason"] == "no_baseline"
    assert result["error"].null_count() == 3
    facts = report(ctx)
    assert (facts["pairs"], facts["win_rate"]) == (2, 0.5)
    assert facts["bias"]["position"] == {
        "share_of_first_place": 0.5, "orders_agree": 1.0, "pairs": 2,
    }  # fmt: skip


def test_a_judge_that_prefers_the_first_place_gives_ties(ctx: Context) -> None:
    result = judge(scripted(ctx, lambda _: ("A", "stop")), ANSWERS, RIVALS, model=NO_MODEL)
    assert result["eval_preference"].drop_nulls().to_list() == [0.5, 0.5]
    assert result["eval_orders_agree"].drop_nulls().to_list() == [False, False]
    facts = report(ctx)
    assert (facts["ties"], facts["bias"]["position"]["share_of_first_place"]) == (2, 1.0)


def test_two_scores_decide_and_what_is_none_is_dropped(ctx: Context) -> None:
    def script(text: str) -> Answer:
        if "Who?" in text:
            return "Both are fine.", "stop"
        return ("8 5\nA." if "Answer A:\nBecause." in text else "5 8\nB."), "stop"

    method = WinRate(form="scores")
    result = judge(scripted(ctx, script), ANSWERS, RIVALS, model=NO_MODEL, method=method)
    assert sorted(result["drop_reason"].drop_nulls()) == ["no_baseline", "unreadable"]
    assert result["eval_preference"].drop_nulls().to_list() == [1.0]
    assert report(ctx)["relative_score"] == 16 / 10


@given(st.text("0189 .,/\n-ab", max_size=20))
def test_scores_are_two_numbers_on_a_line_of_their_own(text: str) -> None:
    assert leading_scores(f"7 8\n{text}") == (7.0, 8.0)
    if (scores := leading_scores(text)) is not None:
        assert all(0 <= score <= 10 for score in scores)


def test_a_revision_is_the_reference_and_a_cut_one_is_none(ctx: Context) -> None:
    def script(text: str) -> Answer:
        if "Say a number from 1 to 5" in text:
            assert "Reference answer:\nBecause it is so." in text
            return "4", "stop"
        return ("Because it is so.", "stop") if "Why?" in text else ("They are", "length")

    rows = ANSWERS.head(3)
    result = judge(scripted(ctx, script), rows, model=NO_MODEL, method=Revised())
    assert sorted(result["drop_reason"].drop_nulls()) == ["unreadable", "unreadable"]
    (row,) = result.filter(pl.col("eval_rating").is_not_null()).to_dicts()
    assert (row["eval_reference"], row["eval_rating"]) == ("Because it is so.", 4.0)
    assert row["eval_overlap"] == pytest.approx(2 * 1 * 0.25 / 1.25)
    assert report(ctx)["rating"] == {"mean": 4.0, "stderr": None, "rows": 1}


def test_recall_and_faithfulness_by_words(ctx: Context) -> None:
    text = "Where?\n\nThe house stands on the Rhine."
    verbose = record(text, "I think it stands on the Rhine, in Bonn.", input_start=8)
    rows = frame(
        [{**verbose, "extra": json.dumps({"truth": ["the Rhine"]})}, record("Who?", "Me.")]
    )
    result = judge(ctx, rows, method=Overlap())
    row = next(r for r in result.to_dicts() if r["eval_recall"] is not None)
    assert (row["eval_em"], row["eval_recall"]) == (0.0, 1.0)
    assert row["eval_f1"] == pytest.approx(2 * (1 / 8) / (1 + 1 / 8))
    assert row["eval_faithfulness"] == 3 / 8
    assert report(ctx)["recall"]["rows"] == 1  # the other row has no gold answer


def test_inputs_that_a_method_does_not_read_are_refused(ctx: Context) -> None:
    with pytest.raises(OptionError, match="must have an input for 'baseline'"):
        judge(scripted(ctx, _longer), ANSWERS, model=NO_MODEL)
    with pytest.raises(OptionError, match="must be left out with method: overlap"):
        judge(ctx, ANSWERS, method=Overlap(), model=NO_MODEL)
    with pytest.raises(OptionError, match="must be left out with method: win_rate"):
        judge(ctx, ANSWERS, RIVALS, model=NO_MODEL, reviser=NO_MODEL)


def _judged(ability: float, touch: float, difficulty: Any, seed: int) -> tuple[Any, Any]:
    """Preferences for a model's answers, and how much longer these are; it writes long easy ones.

    Returns:
        Preferences and differences, a row an instruction.
    """
    rng = np.random.default_rng(seed)
    differences = rng.normal(300, 400, len(difficulty)) + 300 * difficulty
    bias = np.tanh(differences / differences.std(ddof=1))
    chance = 1 / (1 + np.exp(-(ability + bias + touch * difficulty)))
    return (rng.random(len(difficulty)) < chance).astype(float), differences


def test_difficulty_is_taken_apart_from_length() -> None:
    """Where easy instructions get long answers, length alone takes the blame for both."""
    truth = np.random.default_rng(1).normal(0, 1.5, 2000)
    models = {
        str(seed): [(str(i), *pair) for i, pair in enumerate(zip(*_judged(a, 1.0, truth, seed),
                                                                strict=True))]
        for seed, a in enumerate(np.linspace(-1, 1, 30))
    }  # fmt: skip
    estimated = instruction_difficulties(models)
    difficulties = [estimated[str(i)] for i in range(len(truth))]
    assert np.corrcoef(difficulties, truth)[0, 1] > 0.9
    assert np.mean(difficulties) == pytest.approx(0, abs=1e-12)
    assert instruction_difficulties(dict(reversed(models.items()))) == estimated
    preferences, differences = _judged(0.4, 1.0, truth, 99)
    known = length_controlled(preferences.tolist(), differences.tolist(), difficulties)
    plain = length_controlled(preferences.tolist(), differences.tolist())
    assert known is not None
    assert plain is not None
    right = float(np.mean(1 / (1 + np.exp(-(0.4 + truth)))))
    assert abs(known.win_rate - right) < abs(plain.win_rate - right) / 2
    assert abs(known.coefficient - 1) < abs(plain.coefficient - 1) / 2
    exact = length_controlled(preferences.tolist(), differences.tolist(), truth.tolist())
    assert exact is not None
    assert abs(exact.win_rate - right) < 2 * exact.stderr < 0.05
    assert exact.difficulty == pytest.approx(1, abs=0.2)
    # As in the paper: the rate of the baseline against the model is the complement.
    turned = length_controlled(
        (1 - preferences).tolist(), (-differences).tolist(), [-d for d in difficulties]
    )
    assert turned is not None
    assert turned.win_rate == pytest.approx(1 - known.win_rate, abs=1e-6)
    without = length_controlled(preferences.tolist(), differences.tolist(), [0.0] * len(truth))
    assert without is not None
    assert without.win_rate == pytest.approx(plain.win_rate, abs=1e-6)


def test_other_models_answers_give_the_difficulty(ctx: Context) -> None:
    prompts = [f"Question {i}?" for i in range(8)]
    rows = conversations([(p, "word " * (3 + i)) for i, p in enumerate(prompts)])
    rivals = conversations([(p, "word " * 5) for p in prompts])
    other = conversations([(p, "other " * 4) for p in prompts])
    other = other.with_columns(eval_preference=pl.Series([1.0, 0.0, None, 1.0, 0.0, 1.0, 0.5, 0.0]))
    context = scripted(ctx, _longer)
    judge(context, rows, rivals, {"other": other}, model=NO_MODEL)
    result = report(ctx)
    assert result["prompts_without_difficulty"] == 1
    assert result["length_controlled"]["difficulty"] is not None
    judge(context, rows, rivals, model=NO_MODEL)
    assert report(ctx)["length_controlled"]["difficulty"] is None
