"""decontaminate.semantic: paraphrases dropped, other problems kept, judgments and failures."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.execution.code_hash import prompts
from pipeline.models import Embedder, LanguageModel
from pipeline.models.counting import CountingEncoder, CountingEngine, counting
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from schemas.records import ITEM_COLUMNS
from stages.decontaminate._nearest import EmbeddedItems, nearest, unit
from stages.decontaminate._numbers import agreement, numbers_in
from stages.decontaminate.semantic import semantic
from tests.bench.paraphrases import THRESHOLDS, chart, curves, page
from tests.support.options import options_of
from tests.support.rows import DATA, conversations, evidence, exam, json_lines, of, sample
from tests.support.scripted import Answer, Scripted

GOLDEN = DATA.parent / "tests/golden"
ITEM = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total?"
SAME = "A garment takes 2 bolts of blue fiber and half as much white fiber. How many bolts in all?"
OTHER = "A robe takes 7 bolts of blue fiber and 5 of white fiber. How many bolts in total?"


def benchmarks() -> pl.DataFrame:
    return pl.concat(
        [
            exam("gsm8k", [{"question": ITEM}, {"question": "How old is Ann in 4 years?"}]),
            exam("trivia", [{"question": "Which river flows through the city of Vienna?"}]),
        ]
    )


def dropped(
    ctx: Context, rows: pl.DataFrame, items: pl.DataFrame, **options: Any
) -> dict[str, dict]:
    return evidence(rows, semantic(ctx, rows, items, **options))


def test_a_paraphrase_is_dropped_and_another_problem_kept(ctx: Context, potion: Embedder) -> None:
    rows = conversations([(SAME, "3"), (OTHER, "12"), ("Write a poem about the sea.", "Blue.")])
    verdict = semantic(ctx, rows, benchmarks(), embedder=potion)
    (cause,) = evidence(rows, verdict).values()
    assert rows.filter(verdict["drop_reason"] == "contaminated")["id"].to_list() == [of(rows, SAME)]
    assert {k: cause[k] for k in ("benchmark", "item", "field", "turn")} == {
        "benchmark": "gsm8k", "item": "0", "field": "question", "turn": 0,
    }  # fmt: skip
    assert cause["similarity"] >= 0.75
    assert cause["numbers"] == 1.0
    # By the cosine alone the other problem looks the same; its numbers tell.
    alone = dropped(ctx, rows, benchmarks(), embedder=potion, min_number_overlap=0.0)
    assert set(alone) == {of(rows, SAME), of(rows, OTHER)}
    substituted = dropped(
        ctx, rows, benchmarks(), embedder=potion, task_types={"gsm8k": "number_substituted"}
    )
    assert set(substituted) == set(alone)
    assert all(cause["numbers"] is None for cause in substituted.values())


def test_every_row_has_its_nearest_item(ctx: Context, potion: Embedder) -> None:
    rows = conversations([(SAME,), ("Tell me a river of Austria", "Danube"), ("",), ("  ", "a")])
    verdict = rows.select("id").hstack(semantic(ctx, rows, benchmarks(), embedder=potion))
    nearest_of = dict(verdict.select("id", "exam_item").iter_rows())
    items = dict(benchmarks().select("id", "benchmark").iter_rows())
    assert items[nearest_of[of(rows, SAME)]] == "gsm8k"
    assert items[nearest_of[of(rows, "Tell me a river of Austria")]] == "trivia"
    assert nearest_of[of(rows, "")] is None
    assert verdict["exam_similarity"].null_count() == 2
    assert verdict["error"].null_count() == len(rows)
    assert verdict.schema["exam_similarity"] == pl.Float32


def test_each_turn_by_itself_and_by_role(ctx: Context, potion: Embedder) -> None:
    rows = conversations([("Hello!", "Hi.", SAME, "3"), ("What do you ask?", SAME)])
    first, second = (rows.filter(pl.col("messages").list.len() == n)["id"].item() for n in (4, 2))
    assert {k: c["turn"] for k, c in dropped(ctx, rows, benchmarks(), embedder=potion).items()} == {
        first: 2
    }
    causes = dropped(ctx, rows, benchmarks(), embedder=potion, turns="all")
    assert {key: cause["turn"] for key, cause in causes.items()} == {first: 2, second: 1}
    assert set(dropped(ctx, rows, benchmarks(), embedder=potion, turns="assistant")) == {second}


def test_thresholds_by_benchmark(ctx: Context, potion: Embedder) -> None:
    rows = conversations([(SAME,), ("Which river goes through the city of Vienna?",)])
    both = dropped(ctx, rows, benchmarks(), embedder=potion)
    assert len(both) == 2
    limits = {"gsm8k": 0.75, "trivia": 1.0}
    assert set(dropped(ctx, rows, benchmarks(), embedder=potion, threshold=limits)) == {
        of(rows, SAME)
    }
    with pytest.raises(
        UserError,
        match="threshold must have a value for each of gsm8k, trivia, got values for gsm8k",
    ):
        semantic(ctx, rows, benchmarks(), embedder=potion, threshold={"gsm8k": 0.7})
    with pytest.raises(UserError, match="task_types must name benchmarks of the items, got mmlu"):
        semantic(ctx, rows, benchmarks(), embedder=potion, task_types={"mmlu": "knowledge"})


def test_a_row_depends_on_itself_alone(ctx: Context, potion: Embedder) -> None:
    items = json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")[:200]
    rephrased = json_lines(GOLDEN / "rephrase_gsm8k.jsonl.gz")[:60]
    benchmark = exam("gsm8k", [{"question": row["question"]} for row in items])
    rows = pl.concat(
        [conversations([(r["text"],) for r in rephrased]), sample("selfbehave.jsonl.gz").head(90)]
    ).sort("id")
    complete = semantic(ctx, rows, benchmark, embedder=potion, n_neighbors=3)
    mixed = benchmark.sample(fraction=1.0, shuffle=True, seed=1)
    parts = [
        semantic(ctx, rows[i : i + 7], mixed, embedder=potion, n_neighbors=3, batch_size=3)
        for i in range(0, len(rows), 7)
    ]
    assert pl.concat(parts).equals(complete)
    assert complete["drop_reason"].count() > 40
    assert semantic(ctx, rows.clear(), benchmark, embedder=potion).schema == complete.schema


def test_what_cannot_be_compared_is_never_clean(ctx: Context, potion: Embedder) -> None:
    rows = conversations([(SAME,)])
    with pytest.raises(UserError, match="must hold evaluation items"):
        semantic(ctx, rows, pl.DataFrame(schema=ITEM_COLUMNS), embedder=potion)
    for useless in ([{"q": "yes"}], [{"q": None}], [{}]):
        with pytest.raises(UserError, match="no text of bad can be compared"):
            semantic(ctx, rows, pl.concat([benchmarks(), exam("bad", useless)]), embedder=potion)
    with pytest.raises(UserError, match="no text of gsm8k, trivia can be compared"):
        semantic(ctx, rows, benchmarks(), embedder=potion, fields=("prompt",))
    silent = scaled(ctx, {"x": 0.0})
    runes = pl.concat([benchmarks(), exam("runes", [{"q": "x y z x y z"}])])
    with pytest.raises(UserError, match="no text of runes can be compared"):
        semantic(silent, rows, runes, embedder=potion)


BOUND = "must be above 0 and at most 1, got"


@pytest.mark.parametrize(
    ("option", "wrong", "expected"),
    [
        ("threshold", 0.0, f"threshold {BOUND} 0.0"),
        ("threshold", {"a": 1.2}, "threshold must be above 0 and at most 1 for a, got 1.2"),
        ("min_number_overlap", 2.0, "min_number_overlap must be between 0 and 1, got 2.0"),
        ("n_neighbors", 0, "n_neighbors must be at least 1, got 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("min_words", 0, "min_words must be at least 1, got 0"),
        ("max_tokens", 0, "max_tokens must be at least 1, got 0"),
    ],
)
def test_mistakes_are_reported_before_the_run(
    potion: Embedder, option: str, wrong: object, expected: str
) -> None:
    raw = {"embedder": "potion", option: wrong}
    _, (problem,) = bind(find("decontaminate.semantic"), raw, {"potion": potion}, Path())
    assert problem.what == expected


def test_options_of_the_judge_need_a_judge(tinylm: LanguageModel) -> None:
    stage = find("decontaminate.semantic")
    assert stage.check
    stage.check(options_of(semantic))
    for option, value in (("temperature", 0.3), ("max_tokens", 4)):
        with pytest.raises(OptionError, match=f"^{option} must be left out without a judge"):
            stage.check(options_of(semantic, **{option: value}))
        stage.check(options_of(semantic, judge=tinylm, **{option: value}))


class Judged(Context):
    """A context with a real embedder and a scripted judge."""

    judge: Scripted

    def open(self, model: Any) -> Any:
        return self.judge if isinstance(model, LanguageModel) else super().open(model)


class Scaled(Context):
    """A context whose encoder multiplies the vectors of texts that begin with some letter."""

    factors: dict[str, float]

    def open(self, model: Any) -> Any:
        real = super().open(model)

        def encode(texts: list[str]) -> np.ndarray:
            factors = [[self.factors.get(text[:1], 1.0)] for text in texts]
            return real.encode(texts) * np.array(factors, np.float32).reshape(-1, 1)

        return SimpleNamespace(dimensions=real.dimensions, encode=encode)


def scaled(ctx: Context, factors: dict[str, float]) -> Scaled:
    context = Scaled(ctx.files, ctx.work, ctx.store)
    context.factors = factors
    return context


def judged(ctx: Context, answers: dict[str, str]) -> Judged:
    """The judge says what its answers have for the turn that it was asked about."""

    def script(prompt: str) -> Answer:
        said = next((text for turn, text in answers.items() if turn in prompt), "Perhaps.")
        return (said, "error") if said == "gone" else (said, "stop")

    context = Judged(ctx.files, ctx.work, ctx.store)
    context.judge = Scripted(script)
    return context


def test_the_judge_decides(ctx: Context, potion: Embedder, tinylm: LanguageModel) -> None:
    river = "Which river goes through the city of Vienna?"
    vague = "What river flows through the city Vienna?"
    lost = "Name the river that flows through the city of Vienna?"
    rows = conversations([(t,) for t in (SAME, OTHER, river, vague, lost, "Sing a song!")])
    answers = {SAME: "True", river: " false.", vague: "True, because they agree", lost: "gone"}
    context = judged(ctx, answers)
    verdict = semantic(context, rows, benchmarks(), embedder=potion, judge=tinylm)
    listed = rows.select("id").hstack(verdict).select("id", "drop_reason", "error")
    outcomes = {key: (reason, error) for key, reason, error in listed.iter_rows()}
    assert outcomes[of(rows, SAME)] == ("contaminated", None)
    assert outcomes[of(rows, river)] == (None, None)
    for text, why in ((vague, "unreadable"), (lost, "gone")):
        reason, error = outcomes[of(rows, text)]
        assert reason is None
        assert why in error
    for text in (OTHER, "Sing a song!"):  # nothing to ask about
        assert outcomes[of(rows, text)] == (None, None)
    (cause,) = evidence(rows, verdict).values()
    assert len(cause["journal"]) == 1
    first = {request.prompt[-1][1] for request in context.judge.calls[0]}
    assert len(first) == 4
    assert all(request.decoding.choice == ("True", "False") for request in context.judge.calls[0])


def test_another_conviction_outweighs_a_missing_judgement(
    ctx: Context, potion: Embedder, tinylm: LanguageModel
) -> None:
    river = "Which river goes through the city of Vienna?"
    rows = conversations([(river, "The Danube.", SAME)])
    verdict = semantic(
        judged(ctx, {SAME: "True", river: "?"}), rows, benchmarks(), embedder=potion, judge=tinylm
    )
    assert verdict["drop_reason"].to_list() == ["contaminated"]
    assert verdict["error"].to_list() == [None]
    verdict = semantic(
        judged(ctx, {SAME: "False", river: "?"}), rows, benchmarks(), embedder=potion, judge=tinylm
    )
    assert verdict["drop_reason"].to_list() == [None]
    assert "no judgement: unreadable" in verdict["error"][0]


def test_the_prompt_is_that_of_the_task_type(
    ctx: Context, potion: Embedder, tinylm: LanguageModel
) -> None:
    rows = conversations([(SAME,)])
    questions = set()
    for task_type in ("code", "number_substituted", "math", "knowledge"):
        context = judged(ctx, {SAME: "True"})
        types = {"gsm8k": task_type}
        semantic(context, rows, benchmarks(), embedder=potion, judge=tinylm, task_types=types)
        (request,) = context.judge.calls[0]
        text = request.prompt[-1][1]
        assert SAME in text
        assert ITEM in text
        questions.add(text)
    assert len(questions) == 4
    assert len(prompts(find("decontaminate.semantic"))) == 4


def test_a_live_model_gets_a_request_once(
    ctx: Context, potion: Embedder, tinylm: LanguageModel
) -> None:
    """tinylm says True or False, since its sampling is guided; which, is chance."""
    rows = conversations([(SAME,), ("Write a poem about the sea.",)])
    verdict = semantic(ctx, rows, benchmarks(), embedder=potion, judge=tinylm)
    assert verdict["error"].null_count() == 2
    assert ctx.counters["requests"] == 1
    repeated = semantic(ctx, rows, benchmarks(), embedder=potion, judge=tinylm)
    assert repeated.equals(verdict)
    assert ctx.counters["requests"] == 1


def test_the_judges_requests_are_counted_for_every_pair(
    ctx: Context, potion: Embedder, tinylm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most two turns with one neighbor in each of two benchmarks."""
    engines = {potion: CountingEncoder(), tinylm: CountingEngine(tinylm)}
    monkeypatch.setattr(ctx, "open", engines.__getitem__)
    rows = conversations([(SAME,), ("Write a poem about the sea.",)])
    with counting():
        semantic(ctx, rows, benchmarks(), embedder=potion, judge=tinylm, n_neighbors=1)
    assert engines[tinylm].count.requests == 4


def test_a_vector_that_is_not_finite_fails_the_row(ctx: Context, potion: Embedder) -> None:
    rows = conversations([("x marks the spot", "a"), (SAME, "b")])
    broken = scaled(ctx, {"x": np.nan})
    verdict = rows.select("id").hstack(semantic(broken, rows, benchmarks(), embedder=potion))
    failed = verdict.filter(pl.col("error").is_not_null())
    assert failed["id"].to_list() == [of(rows, "x marks the spot")]
    assert verdict["drop_reason"].count() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He has 3 apples, 1,200 pears and 0.5 plums.", {3, 1200, 0.5}),
        ("three apples and twelve pears", {3, 12}),
        ("twenty-five or thirty six", {25, 36}),
        ("two hundred and five thousand", {205_000}),
        ("a hundred people, two thousand three hundred forty", {100, 2340}),
        ("ten five", {10, 5}),
        ("one of them", set()),
        ("twenty-one", {21}),
        ("half of it, twice a day, a dozen", {0.5, 2, 12}),
        ("$18.00 and 18", {18}),
        ("5th of May, 7:30", {5, 7, 30}),
        ("and and one and", set()),
        ("３ cats", {3}),
        ("", set()),
    ],
)
def test_numbers(text: str, expected: set[float]) -> None:
    assert numbers_in(text) == expected


def test_agreement() -> None:
    assert agreement(numbers_in("2 and 3"), numbers_in("two of 5")) == 0.5
    assert agreement(numbers_in("none"), numbers_in("two")) == 1.0


vectors = st.lists(
    st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=1, max_size=12
).map(lambda rows: unit(np.array(rows, np.float32)))


@settings(max_examples=150)
@given(vectors, vectors, st.integers(1, 4), st.data())
def test_nearest_equals_brute_force_on_either_library(
    items: np.ndarray, turns: np.ndarray, k: int, data: st.DataObject
) -> None:
    cuts = data.draw(st.sets(st.integers(1, max(1, len(items) - 1)), max_size=3))
    groups = sorted({0, len(items), *(cut for cut in cuts if cut < len(items))})
    embedded = EmbeddedItems(pl.DataFrame(), items, items, groups)
    pairs = nearest(embedded, turns, k)
    expected = []
    for t, turn in enumerate(turns.astype(np.float64)):
        for first, end in pairwise(groups):
            cosines = {i: float(turn @ items[i].astype(np.float64)) for i in range(first, end)}
            ranked = sorted(cosines, key=lambda i: (-round(cosines[i], 12), i))
            expected += [(t, i) for i in ranked[:k]]
    close = [(t, i) for t, i in zip(pairs.turn.tolist(), pairs.text.tolist(), strict=True)]
    assert sorted(close) == sorted(expected)
    on_torch = EmbeddedItems(pl.DataFrame(), items, torch.tensor(items), groups)
    for array, tensor in zip(pairs, nearest(on_torch, turns, k), strict=True):
        assert (array == tensor).all()


@pytest.mark.proof
def test_the_curve_that_the_default_is_chosen_from(
    ctx: Context, potion: Embedder, shared: object
) -> None:
    """Recall on rephrased items and false positives on problems of the same kind."""
    measured = curves(ctx, potion)
    at = THRESHOLDS.index(find("decontaminate.semantic").options[1].default)
    assert measured["rephrased GSM8K, numbers 75%"][at] >= 0.88
    assert measured["rephrased HumanEval"][at] >= 0.90
    assert measured["GSM8K train (wrong), numbers 75%"][at] <= 0.005
    assert measured["GSM8K train (wrong)"][at] >= 0.20
    assert all(a >= b for row in measured.values() for a, b in pairwise(row))
    assert page(measured).count("\n") == len(measured) + 1
    assert chart(measured).count("<polyline") == len(measured)


def test_the_default_threshold_on_a_part_of_the_curve(ctx: Context, potion: Embedder) -> None:
    items = json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")
    rephrased = json_lines(GOLDEN / "rephrase_gsm8k.jsonl.gz")[:400]
    benchmark = exam("gsm8k", [{"question": row["question"]} for row in items])
    rows = conversations([(row["text"],) for row in rephrased])
    verdict = semantic(ctx, rows, benchmark, embedder=potion)
    assert verdict["drop_reason"].count() >= 0.85 * len(rows)
    causes = [json.loads(cause) for cause in verdict["evidence"].drop_nulls()]
    assert all(cause["numbers"] is None or cause["numbers"] >= 0.75 for cause in causes)
