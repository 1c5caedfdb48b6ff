"""decontaminate.semantic: paraphrases dropped, other problems kept, judgments and failures."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models import Embedder, LanguageModel
from pipeline.models.counting import CountingEncoder, CountingEngine, counting
from pipeline.recipe.code_hash import prompts
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from schemas.records import ITEM_COLUMNS
from stages.decontaminate._benchmarks import Benchmarks
from stages.decontaminate._coverage import PRIOR, Coverage, content_words
from stages.decontaminate._nearest import (
    N_CANDIDATES,
    NEIGHBORHOOD,
    EmbeddedItems,
    nearest,
    unit,
)
from stages.decontaminate._numbers import agreement, numbers_in
from stages.decontaminate._spans import item_spans, turn_spans
from stages.decontaminate.semantic import THRESHOLDS, _inferred_types, semantic
from stages.load.benchmarks import benchmarks as load_benchmarks
from tests.bench.paraphrase_sets import EXAMS, GOLDEN, Split, other_numbers, sources
from tests.bench.paraphrases import chart, curves, page
from tests.support.options import options_of
from tests.support.rows import DATA, conversations, evidence, exam, json_lines, of, sample
from tests.support.scripted import Answer, Scripted

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
    assert cause["score"] >= cause["threshold"] == THRESHOLDS["math"]
    margin = cause["similarity"] - cause["background"]
    assert cause["score"] == pytest.approx(margin + cause["coverage"], abs=1e-5)
    assert (cause["turn_span"], cause["item_span"], cause["span"]) == (SAME, ITEM, "text")
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
    causes = dropped(ctx, rows, benchmarks(), embedder=potion)
    assert {key: cause["turn"] for key, cause in causes.items()} == {first: 2, second: 1}
    assert set(dropped(ctx, rows, benchmarks(), embedder=potion, turns="user")) == {first}
    assert set(dropped(ctx, rows, benchmarks(), embedder=potion, turns="assistant")) == {second}


def test_thresholds_by_benchmark(ctx: Context, potion: Embedder) -> None:
    rows = conversations([(SAME,), ("Which river goes through the city of Vienna?",)])
    both = dropped(ctx, rows, benchmarks(), embedder=potion)
    assert len(both) == 2
    limits = {"gsm8k": 0.55, "trivia": 2.0}
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


BOUND = "must be above 0 and at most 2, got"


@pytest.mark.parametrize(
    ("option", "wrong", "expected"),
    [
        ("threshold", 0.0, f"threshold {BOUND} 0.0"),
        ("threshold", {"a": 2.2}, "threshold must be above 0 and at most 2 for a, got 2.2"),
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


UNREADABLE = "They agree in part"


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
        said = next((text for turn, text in answers.items() if turn in prompt), UNREADABLE)
        return (said, "error") if said == "gone" else (said, "stop")

    context = Judged(ctx.files, ctx.work, ctx.store)
    context.judge = Scripted(script)
    return context


def test_the_judge_decides(ctx: Context, potion: Embedder, tinylm: LanguageModel) -> None:
    river = "Which river goes through the city of Vienna?"
    vague = "What river flows through the city Vienna?"
    lost = "Name the river that flows through the city of Vienna?"
    rows = conversations([(t,) for t in (SAME, OTHER, river, vague, lost, "Sing a song!")])
    answers = {SAME: "True", river: " false.", vague: UNREADABLE, lost: "gone"}
    context = judged(ctx, answers)
    verdict = semantic(context, rows, benchmarks(), embedder=potion, judge=tinylm)
    listed = rows.select("id").hstack(verdict).select("id", "drop_reason", "error")
    outcomes = {key: (reason, error) for key, reason, error in listed.iter_rows()}
    assert outcomes[of(rows, SAME)] == ("contaminated", None)
    assert outcomes[of(rows, river)] == (None, None)
    assert outcomes[of(rows, vague)] == ("unreadable", None), "an answer is none to try again"
    reason, error = outcomes[of(rows, lost)]
    assert reason is None
    assert "no judgement: gone" in error
    for text in (OTHER, "Sing a song!"):  # nothing to ask about
        assert outcomes[of(rows, text)] == (None, None)
    causes = evidence(rows, verdict)
    unread = causes.pop(of(rows, vague))
    assert unread["response_end"] == UNREADABLE
    (cause,) = causes.values()
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
    assert verdict["drop_reason"].to_list() == ["unreadable"]
    assert verdict["error"].to_list() == [None]
    verdict = semantic(
        judged(ctx, {SAME: "gone", river: "?"}), rows, benchmarks(), embedder=potion, judge=tinylm
    )
    assert verdict["drop_reason"].to_list() == [None], "the next run may convict it"
    assert "no judgement: gone" in verdict["error"][0]


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


@pytest.mark.proof
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
    rows = conversations([("x marks the spot on the map", "a"), (SAME, "b")])
    broken = scaled(ctx, {"x": np.nan})
    verdict = rows.select("id").hstack(semantic(broken, rows, benchmarks(), embedder=potion))
    failed = verdict.filter(pl.col("error").is_not_null())
    assert failed["id"].to_list() == [of(rows, "x marks the spot on the map")]
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


@given(vectors, vectors, vectors, st.data())
def test_nearest_equals_brute_force_on_either_library(
    items: np.ndarray, turns: np.ndarray, ordinary: np.ndarray, data: st.DataObject
) -> None:
    items = np.unique(items, axis=0)  # equal spans of a benchmark are one
    cuts = data.draw(st.sets(st.integers(1, max(1, len(items) - 1)), max_size=3))
    groups = sorted({0, len(items), *(cut for cut in cuts if cut < len(items))})
    hoods = np.array(data.draw(st.lists(st.integers(0, 4), min_size=12, max_size=12)))
    hoods = hoods[: len(items)] / 8
    alike = np.arange(len(items)) % 2 == 0
    embedded = EmbeddedItems(pl.DataFrame(), items, hoods, alike, groups, ordinary, [])
    pairs = nearest(embedded, turns)
    expected = {}
    for t, turn in enumerate(turns.astype(np.float64)):
        for first, end in pairwise(groups):
            others = [*ordinary, *(items[i] for i in range(first, end) if alike[i])]
            around = sorted((float(turn @ v.astype(np.float64)) for v in others), reverse=True)
            own = float(np.mean(around[:NEIGHBORHOOD]))
            margin = {
                i: float(turn @ items[i].astype(np.float64)) - (own + hoods[i]) / 2
                for i in range(first, end)
            }
            best = sorted(margin.values(), reverse=True)[:N_CANDIDATES]
            expected[t, first] = [round(value, 6) for value in best]
    computed: dict[tuple[int, int], list[float]] = {}
    for t, i, similarity, background in zip(*(a.tolist() for a in pairs), strict=True):
        first = max(start for start in groups[:-1] if start <= i)
        computed.setdefault((t, first), []).append(round(similarity - background, 6))
    assert computed.keys() == expected.keys()
    for key, margins in computed.items():
        assert margins == pytest.approx(expected[key], abs=2e-6)


def test_a_programs_description_is_compared_and_not_its_code() -> None:
    doc = '"""Sum the odd numbers of a list.\n\n    >>> f([1])\n    1\n    """'
    code = f"def f(xs):\n    {doc}\n    return 1"
    assert item_spans(code, "", 5) == [("docstring", "Sum the odd numbers of a list.")]
    assert (
        item_spans("    total = 0\n    for x in xs:\n        total += x\n    return total", "", 2)
        == []
    )
    fenced = "Here is a function for your list:\n```python\nx = sorted(a)\n```"
    assert turn_spans(fenced, False, 5) == ["Here is a function for your list:"]


def test_coverage_is_that_of_a_loop(potion: Embedder, ctx: Context) -> None:
    encode = lambda texts: unit(ctx.open(potion).encode(texts))  # noqa: E731
    ordinary = [ITEM, SAME, "Which river flows through Vienna?", "Two bolts of fiber"]
    coverage = Coverage(encode, ordinary)
    pairs = [(a, b) for a in (ITEM, "3 rivers and 2 towns", "") for b in (SAME, OTHER, "7 towns")]

    def covered(text: str, other: str) -> float:
        words, others = content_words(text), content_words(other)
        total = 0.0
        for word in words:
            best = 0.0
            for candidate in others:
                if word == candidate:
                    best = 1.0
                elif not (word[0].isdecimal() or candidate[0].isdecimal()):
                    best = max(best, float(np.dot(*encode([word, candidate]))))
            total += coverage.weight(word) * best
        return total / (sum(map(coverage.weight, words)) + PRIOR)

    expected = [(covered(a, b) + covered(b, a)) / 2 for a, b in pairs]
    assert coverage(*zip(*pairs, strict=True)) == pytest.approx(expected, abs=1e-5)


def test_a_question_is_compared_without_its_passage_and_with_its_options() -> None:
    question = "Which of these men would most likely have disagreed with the author?"
    passage = "The assembly met in spring and voted on bread. " * 12
    spans = dict(item_spans(f"{passage}\n{question}", "Locke\nHobbes", 5))
    assert spans["question"] == question
    assert spans["options"] == f"{question}\nLocke\nHobbes"
    inline = f"{question}\nA. Locke, of Somerset\nB. Hobbes, of Malmesbury\nAnswer: B"
    assert turn_spans(inline, True, 5)[0] == question
    stated = "The sky is blue. Water is wet, as everybody knows. Snow is cold."
    assert turn_spans(stated, False, 3) == [stated]  # no sentence of an answer by itself


def test_other_numbers_are_found_only_where_they_may_differ(ctx: Context, potion: Embedder) -> None:
    items = load_benchmarks(ctx, names=("gsm8k",))
    read = [row["question"] for row in json_lines(DATA / "benchmarks/gsm8k_test.jsonl.gz")[:200]]
    other = [other_numbers(text) for text in read]
    rows = conversations([(b,) for a, b in zip(read, other, strict=True) if a != b])
    assert len(rows) > 190
    types = {"gsm8k": "number_substituted"}
    leaked = dropped(ctx, rows, items, embedder=potion, task_types=types)
    assert len(leaked) >= 0.98 * len(rows)
    assert len(dropped(ctx, rows, items, embedder=potion)) <= 0.1 * len(rows)


def test_random_digits_convict_nobody(ctx: Context, potion: Embedder) -> None:
    items = load_benchmarks(ctx, names=("humaneval", "gsm8k"))
    rng = np.random.default_rng(0)
    numbers = [rng.integers(0, 10 ** int(rng.integers(1, 7)), 40).tolist() for _ in range(60)]
    texts = [sep.join(map(str, row)) for row in numbers for sep in (" ", ", ", "\n")]
    rows = conversations([(text, text[::-1]) for text in texts] + [(str(row),) for row in numbers])
    assert dropped(ctx, rows, items, embedder=potion) == {}


def test_a_common_subject_convicts_nobody(ctx: Context, potion: Embedder) -> None:
    """Forty items on one subject: another question on it is near all of them, and is none."""
    dishes = [
        "bread", "soup", "rice", "pasta", "fish", "lamb", "beans", "eggs", "cake", "pie", "stew",
        "curry", "salad", "pizza", "tofu", "lentils", "pork", "beef", "duck", "noodles",
    ]  # fmt: skip
    items = exam("kitchen", [{"question": f"How long should {d} be cooked for?"} for d in dishes])
    other = "How long should chicken be cooked for?"
    same = "For how much time does one have to cook lentils?"
    rows = conversations([(other,), (same,)])
    verdict = rows.select("id").hstack(semantic(ctx, rows, items, embedder=potion))
    scores = dict(verdict.select("id", "exam_score").iter_rows())
    assert verdict.filter(pl.col("id") == of(rows, other))["drop_reason"].to_list() == [None]
    assert (scores[of(rows, other)] or 0) < THRESHOLDS["knowledge"]


def test_a_language_that_the_encoder_does_not_know_is_not_called_clean(
    ctx: Context, potion: Embedder
) -> None:
    chinese = "一件长袍需要两匹蓝色纤维和一半数量的白色纤维。一共需要多少匹？"
    french = "Quel est le nom de la rivière qui traverse la ville de Vienne, en Autriche ?"
    rows = conversations([(chinese,), (french, SAME), (SAME, "3"), ("12 + 4", "16"), ("Oui.",)])
    verdict = rows.select("id").hstack(semantic(ctx, rows, benchmarks(), embedder=potion))
    unchecked = dict(verdict.select("id", "exam_unchecked").iter_rows())
    assert unchecked == {
        of(rows, chinese): "zh", of(rows, french): "fr", of(rows, SAME): None,
        of(rows, "12 + 4"): None, of(rows, "Oui."): None,
    }  # fmt: skip
    assert ctx.counters["turns_not_compared"] == 2
    assert verdict["drop_reason"].count() == 2  # the answer that is in English counts
    every = semantic(ctx, rows, benchmarks(), embedder=potion, languages=())
    assert every["exam_unchecked"].null_count() == len(rows)
    with pytest.raises(UserError, match="no text of zh can be compared"):
        semantic(ctx, rows, exam("zh", [{"question": chinese}]), embedder=potion)


def test_another_benchmark_changes_no_verdict(ctx: Context, potion: Embedder) -> None:
    rows = conversations([(SAME,), (OTHER,), ("Which river goes through the city of Vienna?",)])
    for name in ("gsm8k", "trivia"):
        alone = benchmarks().filter(pl.col("benchmark") == name)
        expected = dropped(ctx, rows, alone, embedder=potion)
        both = dropped(ctx, rows, benchmarks(), embedder=potion)
        assert {k: c for k, c in both.items() if c["benchmark"] == name} == expected


def test_a_pool_of_paraphrases_hides_none(ctx: Context, potion: Embedder) -> None:
    """The background is no part of the pool, so an item that it holds often stays an item."""
    rows = conversations([(SAME, f"Answer {i}") for i in range(40)])
    assert len(dropped(ctx, rows, benchmarks(), embedder=potion)) == 40


def test_types_are_inferred_as_the_bundled_benchmarks_have_them(ctx: Context) -> None:
    names = ("gsm8k", "humaneval", "ifeval", "mmlu", "mt_bench", "truthfulqa", "vicuna_bench")
    types = _inferred_types(Benchmarks(load_benchmarks(ctx, names=names)))
    known = {"gsm8k": "math", "humaneval": "code"}
    assert types == {name: known.get(name, "knowledge") for name in names}


def test_development_and_held_out_files_are_different_ones() -> None:
    listed = sources()
    names = {split: {r.name for r in listed if r.split == split} for split in get_args(Split)}
    assert names["development"].isdisjoint(names["held-out"])
    hand = json_lines(GOLDEN / "rephrased_by_hand.jsonl")
    mmlu = [row for row in hand if row["benchmark"] == "mmlu"]
    assert len({row["item"] for row in mmlu}) == len(mmlu)


@pytest.mark.proof
def test_the_thresholds_on_files_that_they_were_not_chosen_on(
    ctx: Context, potion: Embedder, shared: object
) -> None:
    measured = curves(ctx, potion, sources())
    for curve in measured:
        at = curve.at(THRESHOLDS[curve.rows.kind])
        if not curve.rows.contaminated:
            assert at <= (0.01 if curve.rows.split == "development" else 0.02), curve.rows.name
    recall = {c.rows.name: c.at(THRESHOLDS[c.rows.kind]) for c in measured if c.rows.contaminated}
    assert recall["GSM8K, LLM decontaminator"] >= 0.9
    assert recall["HumanEval, LLM decontaminator"] >= 0.5
    assert recall["GSM8K, LLM decontaminator, other numbers"] >= 0.6
    assert recall["GSM8K, other numbers"] >= 0.98
    assert recall["MMLU abstract algebra, LLM decontaminator"] >= 0.65
    assert all(a >= b for curve in measured for a, b in pairwise(curve.dropped))
    assert page(measured).count("\n| ") == len(measured) + 2 * len(EXAMS)
    assert chart(measured).count("<polyline") == len(measured)


def test_the_default_thresholds_on_a_part_of_the_curve(ctx: Context, potion: Embedder) -> None:
    items = load_benchmarks(ctx, names=("gsm8k",))
    rephrased = json_lines(GOLDEN / "rephrase_gsm8k.jsonl.gz")[:300]
    rows = conversations([(row["text"],) for row in rephrased])
    verdict = semantic(ctx, rows, items, embedder=potion)
    assert verdict["drop_reason"].count() >= 0.85 * len(rows)
    causes = [json.loads(cause) for cause in verdict["evidence"].drop_nulls()]
    assert all(cause["numbers"] is None or cause["numbers"] >= 0.75 for cause in causes)
    innocent = sample("self_instruct.jsonl.gz").head(600)
    verdict = semantic(ctx, innocent, items, embedder=potion)
    assert verdict["drop_reason"].count() <= 0.01 * len(innocent)
