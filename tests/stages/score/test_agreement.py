"""Agreement: votes are counted, what cannot be read is none, and order changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import Completion, Embedder, LanguageModel, Request
from pipeline.models.counting import CountingEncoder, CountingEngine, counting
from schemas.records import RECORD_COLUMNS
from stages.score.agreement import agreement
from stages.score.agreement.checkpoints import Checkpoints
from stages.score.agreement.comparisons import (
    Embedding,
    Exact,
    Likelihood,
    Rouge,
    Vote,
    comparison,
)
from stages.score.agreement.confidence import Confidence
from stages.score.agreement.knowledge import Knowledge
from stages.score.agreement.measures import Measured, measure
from stages.score.agreement.perturbed import Perturbed, Uncertainty, drop_words
from stages.score.agreement.rows import Rows
from stages.score.agreement.samples import Samples
from stages.score.loss import loss
from stages.select.response import response
from stages.select.response.majority import Majority
from tests.support.cases import MORE_CASES, Case
from tests.support.options import problems
from tests.support.rows import conversations, frame, record
from tests.support.scripted import Answer, Scripted, ScriptedContext, scripted
from tests.support.teacher import teacher
from tests.support.tool_rows import CONVERSATION, tool_record

MODEL = LanguageModel(model="none", id="none@1")
EXACT = comparison(Exact(), (), None)
CONTAINED = comparison(Exact(first_sentence=True, contained=True), (), None)
ROUGE = comparison(Rouge(), (), None)
ONE = Samples(num_samples=1)
ANSWERS = st.sampled_from(
    ["12", "12.0", "3/5", "60%", "0.6", "(B) Paris", "B", "The answer is 1,200.", "yes", "Yes, it "
     "is", "no idea", "a river", "A river.", "", "x" * 40 + " and so on, for more than six words"]
)  # fmt: skip
UNREAD: Sequence[Vote | None] = (
    None, Vote(" \n"), Vote("12", is_cut=True), Vote("I don't know."), Vote("}{ %%"),
    Vote("Well, one would have to think about that for a long time."),
)  # fmt: skip


def votes(*texts: str) -> list[Vote]:
    return [Vote(text) for text in texts]


class Drawing(Scripted):
    """A model whose samples differ: the script sees the prompt's last turn and the number."""

    def __init__(self, script: Callable[[str, int], str]) -> None:
        super().__init__(lambda _: ("", "stop"))
        self.drawn = script

    def _answer(self, request: Request) -> Completion:
        text = self.drawn(request.prompt[-1][1], request.sample)
        reason: Any = "length" if text.endswith("...") else "error" if text == "!" else "stop"
        return Completion("k", text, reason, 0, 0, error="no server" if text == "!" else None)


def drawing(ctx: Context, script: Callable[[str, int], str]) -> ScriptedContext:
    context = scripted(ctx, lambda _: ("", "stop"))
    context.engine = Drawing(script)
    return context


# Counting


@settings(max_examples=15)
@given(st.lists(st.one_of(st.none(), ANSWERS.map(Vote)), max_size=9), st.randoms())
def test_the_order_of_votes_changes_nothing(drawn: list[Vote | None], random: Any) -> None:
    shuffled = random.sample(drawn, len(drawn))
    for compared in (EXACT, CONTAINED, ROUGE):
        for reference in (None, "0.6", "B", "A river"):
            result = measure(compared, reference, drawn)
            assert measure(compared, reference, shuffled) == result
            assert result.votes == sum(count for _, count in result.counts) <= len(drawn)
            known = [result.share, result.entropy, result.agreement]
            assert all(value is None or 0 <= value <= 1 for value in known)
            assert (result.majority is None) == (result.votes == 0)


@pytest.mark.parametrize("number", [2, 5, 32])
def test_all_alike_and_all_different(number: int) -> None:
    alike = measure(EXACT, "7", votes(*["The answer is 7."] * number))
    assert (alike.agreement, alike.share, alike.entropy, alike.is_majority) == (1, 1, 0, True)
    different = measure(EXACT, "7", votes(*map(str, range(number))))
    assert different.share == pytest.approx(1 / number)
    assert different.entropy == pytest.approx(1), "divided by the logarithm of the number"
    assert measure(EXACT, "7", votes("7")).entropy is None, "one vote has none"


@pytest.mark.parametrize("reference", [None, "12"])
def test_what_cannot_be_read_is_no_vote_and_never_a_zero(reference: str | None) -> None:
    assert measure(EXACT, reference, UNREAD) == Measured()
    some = measure(EXACT, reference, [*UNREAD, Vote("12"), Vote("12.0"), Vote("13")])
    assert (some.votes, some.majority, some.counts) == (3, "12", (("12", 2), ("13", 1)))
    assert some.agreement == (None if reference is None else pytest.approx(2 / 3))


def test_what_is_no_number_is_no_vote_against_a_number() -> None:
    result = measure(EXACT, "12", votes("a dozen", "12", "it depends"))
    assert (result.agreement, result.votes) == (1, 1)
    assert measure(EXACT, None, votes("a dozen", "12")).votes == 2


@pytest.mark.parametrize(
    ("reference", "said", "agrees"),
    [
        ("1", "10 apples", 0.0), ("1", "It is 1.5 km", 0.0), ("1", "1 apple", 1.0),
        ("no", "There is no doubt: yes", None), ("no", "No, never", 1.0),
        ("B", "(B) Paris", 1.0), ("A", "It is a boat", None), ("A", "B", 0.0),
        ("Paris", "The capital is Paris", 1.0), ("Paris", "parison", 0.0),
        ("St. Petersburg", "It is St. Petersburg", 0.0), ("3.14", "About 3.14, or so", 1.0),
        ("1,000", "There were 1000 of them", 1.0), ("北京", "首都是北京", 1.0),
    ],
)  # fmt: skip
def test_whole_words_are_compared(reference: str, said: str, agrees: float | None) -> None:
    """A substring would find 1 in every 10, and the choice A in every text."""
    result = measure(CONTAINED, reference, votes(said))
    assert (result.agreement, result.votes) == (agrees, 0 if agrees is None else 1)


def test_votes_are_alike_as_a_whole() -> None:
    """What two answers both hold does not make them one."""
    result = measure(CONTAINED, None, votes("It is Paris", "It is London", "It is", "it is paris"))
    assert result.counts == (("It is Paris", 2), ("It is", 1), ("It is London", 1))


@pytest.mark.parametrize(
    ("vote", "read"),
    [
        (Vote("Paris. It is large."), "Paris"), (Vote("Paris\nQuestion: and"), "Paris"),
        (Vote("Paris"), "Paris"), (Vote("It is Par", is_cut=True), "It is"),
        (Vote("Par", is_cut=True), None), (Vote("It is 3.14 or so"), "It is 3.14 or so"),
    ],
)  # fmt: skip
def test_the_first_sentence_keeps_its_last_letter(vote: Vote, read: str | None) -> None:
    assert CONTAINED.read(vote) == read


def test_words_of_other_scripts_are_no_zero_of_rouge() -> None:
    result = measure(ROUGE, "北京", votes("北京", "Peking"))
    assert (result.agreement, result.votes) == (None, 1), "ROUGE has no words of it"
    assert measure(ROUGE, "Peking is large", votes("北京")) == Measured()


# Published answers


def test_labels_of_gsm8k_are_those_of_their_authors(shared: Path) -> None:
    """Four models' solutions as votes: the agreement is the part that is labelled correct."""
    table = pl.read_parquet(shared / "references/gsm8k_labelled_solutions.parquet").head(1200)
    exact = comparison(Exact(pattern=r"(?m)^A: *(.*)$"), (), None)
    read = wrong = 0
    for (_, gold), group in table.group_by(["item", "ground_truth"], maintain_order=True):
        drawn = votes(*group["solution"])
        result = measure(exact, str(gold), drawn)
        read += result.votes
        labels = group["is_correct"].to_list()
        if result.votes == len(labels):
            wrong += round(abs((result.agreement or 0) - sum(labels) / len(labels)) * len(labels))
    assert read > 0.99 * len(table)
    assert wrong == 0


# What is asked


def test_the_last_request_is_asked_with_all_before_it(ctx: Context) -> None:
    rows = conversations([("Name a sea.", "Baltic", "And a lake?", "Como")])
    context = scripted(ctx, lambda _: ("Como.", "stop"))
    result = agreement(context, rows, models=(MODEL,), method=ONE, ending="Say it in one word.")
    (request,) = context.engine.calls[0]
    assert [text for _, text in request.prompt] == [
        "Name a sea.", "Baltic", "And a lake?\n\nSay it in one word.",
    ]  # fmt: skip
    assert result["agreement"].to_list() == [1.0]
    assert result["agreement_models"].to_list() == [['{"id": "none@1"}']]
    assert result["agreement_journal"].list.len().to_list() == [1]


def odd_rows() -> pl.DataFrame:
    """Nothing said, no answer, no request, tools, reasoning, another script, 50,000 characters."""
    rows = [
        record("", "4"), record("2 + 2?"), record("2 + 2?", ""), record("2 + 2?", "4"),
        record("二加二等于几？", "四"), record("word " * 10_000, "word " * 10_000),
        record("2 + 1?", "3", "And 1?"),
        {**record("x"), "id": "f" * 32, "messages": []},
        tool_record(CONVERSATION, '[{"name": "get_weather"}]'),
        tool_record([{"role": "user", "content": "2 + 2?"},
                     {"role": "assistant", "content": "4", "reasoning": "2 and 2"}]),
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=RECORD_COLUMNS).sort("id")


@pytest.mark.parametrize("compare", [Exact(), Rouge(), Embedding()], ids=lambda c: c.name)
@pytest.mark.parametrize(
    "said", ["4", "", "}{ %%", "I'm sorry, but I can't help with that.", "echo"]
)
def test_every_odd_row_comes_through(ctx: Context, compare: Any, said: str) -> None:
    rows = odd_rows()
    context = scripted(ctx, lambda text: (text if said == "echo" else said, "stop"))
    embedder = Embedder(model="any") if isinstance(compare, Embedding) else None
    context.open = lambda m: CountingEncoder() if m is embedder else context.engine  # type: ignore
    result = agreement(context, rows, models=(MODEL,), compare=compare, embedder=embedder)
    assert len(result) == len(rows)
    assert result["error"].null_count() == len(rows), "nothing fails, and nothing is dropped"
    asked = result.filter(pl.col("agreement_asked") > 0)
    assert len(asked) == len(rows) - 3, "nothing to ask, no turns, tools that it would not have"
    assert (asked["agreement_asked"] == 5).all()
    silent = result.filter(pl.col("agreement_votes") == 0)
    for name in ("agreement", "agreement_majority", "agreement_share", "agreement_entropy"):
        assert silent[name].null_count() == len(silent)
    assert len(silent) == len(rows) or said not in ("", "}{ %%") or not isinstance(compare, Exact)


def test_a_request_that_is_not_answered_fails_its_row(ctx: Context) -> None:
    rows = conversations([("2 + 2?", "4"), ("bad", "4")])
    context = drawing(ctx, lambda text, number: "!" if text == "bad" and number == 1 else "4")
    result = agreement(context, rows, models=(MODEL,))
    assert sorted(result["error"].to_list(), key=str) == [None, "no server"] or sorted(
        result["error"].fill_null("").to_list()
    ) == ["", "no server"]


def test_a_fallback_is_no_sample_of_the_model(ctx: Context) -> None:
    opened = []
    context = scripted(ctx, lambda _: ("I can't help with that.", "stop"))
    context.open = lambda m: opened.append(m) or context.engine  # type: ignore
    agreement(
        *(context, conversations([("2 + 2?", "4")])),
        models=(LanguageModel(model="none", id="a", fallback=MODEL),),
    )
    assert [model.fallback for model in opened] == [None]


def test_several_models_vote_and_a_column_may_be_the_reference(ctx: Context) -> None:
    rows = conversations([("2 + 2?", "It is five.")])
    rows = rows.with_columns(extra=pl.lit(json.dumps({"gold": 4})), gold=pl.lit(4))
    context = scripted(ctx, lambda _: ("4", "stop"))
    other = LanguageModel(model="none", id="other")
    for reference in ("gold", "extra.gold"):
        result = agreement(
            *(context, rows), models=(MODEL, other), reference=reference,
            method=Samples(num_samples=2),
        )  # fmt: skip
        assert result["agreement"].to_list() == [1.0]
        assert result["agreement_asked"].to_list() == [4]
        assert result["agreement_models"].list.len().to_list() == [2]


@pytest.mark.proof
def test_embeddings_of_knowledge_order_answers(ctx: Context, potion: Embedder) -> None:
    """NILE's consistency: an answer about what the model knows is nearer than another one."""
    known = "Whales are mammals that breathe air with lungs."
    rows = conversations([("What is a whale?", "A mammal that breathes air with lungs."),
                          ("What is a whale?", "A stock exchange in Tokyo.")])  # fmt: skip
    context = scripted(ctx, lambda _: (known, "stop"))
    context.open = lambda m: ctx.open(m) if m == potion else context.engine  # type: ignore
    result = agreement(
        context, rows, models=(MODEL,), method=Knowledge(), compare=None, embedder=potion
    )
    texts = rows["messages"].list.last().struct.field("content")
    degrees = dict(zip(texts, result["agreement"], strict=True))
    assert degrees["A mammal that breathes air with lungs."] > 0.5
    assert degrees["A stock exchange in Tokyo."] < 0.3
    assert "Do not answer it." in context.engine.calls[0][0].prompt[0][1]


# Rows as votes


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from("123"), st.integers(1, 3)), max_size=9)
)
def test_rows_vote_as_select_response_counts(drawn: list[tuple[int, str, int]]) -> None:
    distinct = {(question, answer): weight for question, answer, weight in drawn}
    rows = frame(
        record(f"{question}?", answer, origins=[("s", i, "MIT") for i in range(weight)])
        for (question, answer), weight in distinct.items()
    )
    ctx = Context(Path(), Path(), Path())
    result = agreement(ctx, rows, method=Rows())
    chosen = response(ctx, rows, method=Majority(), max_per_group=9)
    top = {}
    for question in range(3):
        own = {a: w for (q, a), w in distinct.items() if q == question}
        top[question] = max(own.values(), default=0)
    for row, one, other in zip(
        rows.iter_rows(named=True), result.to_dicts(), chosen.to_dicts(), strict=True
    ):
        question, answer = int(row["messages"][0]["content"][0]), row["messages"][1]["content"]
        total = sum(w for (q, _), w in distinct.items() if q == question)
        weight = distinct[question, answer]
        assert one["agreement_votes"] == one["agreement_asked"] == total
        assert one["agreement_share"] == pytest.approx(top[question] / total)
        assert one["agreement"] == (
            None if total == 1 else pytest.approx((weight - 1) / (total - 1))
        ), "its own vote is none"
        if list(distinct.values()).count(top[question]) == 1:
            assert one["agreement_is_majority"] == (other["drop_reason"] is None)


# Perturbed prompts


@given(st.text(max_size=60), st.integers(0, 9), st.floats(0, 1))
def test_words_are_dropped_and_none_is_added(text: str, number: int, rate: float) -> None:
    dropped = drop_words(text, rate, 1, number)
    assert drop_words(text, rate, 1, number) == dropped
    assert drop_words(text, 0, 1, number) == text
    words = iter(text.split())
    joined = "".join(text.split())
    rest = iter(joined)
    assert all(character in rest for character in "".join(dropped.split())), "in their order"
    assert bool(dropped.split()) == bool(next(words, None)), "one stays"


def test_rows_of_a_task_lose_the_same_words_and_inputs_none(ctx: Context) -> None:
    task = "Name the largest city of the country that is named below, and nothing else"
    rows = frame(
        record(f"{task}\n\n{country}", "x", input_start=len(task) + 2)
        for country in ("France and all of it", "Spain and all of it")
    )
    context = scripted(ctx, lambda _: ("Paris", "stop"))
    method = Perturbed(num_prompts=4, answer="row")
    agreement(context, rows, models=(MODEL,), method=method, compare=Exact())
    prompts = [request.prompt[0][1] for request in context.engine.calls[0]]
    heads = [prompt.rsplit("\n\n", 1)[0] for prompt in prompts]
    assert heads[:4] == heads[4:]
    assert len(set(heads)) > 1
    assert {prompt.rsplit("\n\n", 1)[1].split()[1] for prompt in prompts} == {"and"}
    ended = scripted(ctx, lambda _: ("Paris", "stop"))
    ending = "Say it in one word, and say nothing else."
    agreement(
        *(ended, conversations([("Name a city", "x")])), models=(MODEL,), method=method,
        compare=Exact(), ending=ending,
    )  # fmt: skip
    assert all(r.prompt[0][1].endswith(f"\n\n{ending}") for r in ended.engine.calls[0])
    other = scripted(ctx, lambda _: ("Paris", "stop"))
    agreement(other, rows, models=(MODEL,), method=method, compare=Exact(), seed=1)
    assert [request.prompt[0][1] for request in other.engine.calls[0]] != prompts


def test_uncertainty_is_the_mean_difference_and_tasks_are_means(ctx: Context) -> None:
    one = Uncertainty(0.5, [0.4, 0.8])
    assert (one.uncertainty, one.probability) == (pytest.approx(0.2), pytest.approx(0.6))
    assert Uncertainty(None, [0.4]).uncertainty is None
    rows = conversations([("one two three four", "x"), ("five", "x"), ("six", "y")])
    first = rows["messages"].list.first().struct.field("content")
    rows = rows.with_columns(task=pl.when(first == "six").then(pl.lit("b")).otherwise(pl.lit("a")))
    # The answer holds as long as the prompt is whole.
    context = scripted(ctx, lambda text: ("yes" if text in set(first) else "no", "stop"))
    result = agreement(
        *(context, rows), models=(MODEL,), compare=Exact(), task="task",
        method=Perturbed(num_prompts=8),
    )  # fmt: skip
    own = dict(zip(first, result["agreement_uncertainty"], strict=True))
    assert own["five"] == own["six"] == 0, "a prompt of one word keeps it"
    assert own["one two three four"] > 0.2
    tasks = dict(zip(first, result["agreement_task_uncertainty"], strict=True))
    assert tasks["five"] == pytest.approx(own["one two three four"] / 2)
    assert tasks["six"] == 0


@pytest.mark.proof
def test_likelihoods_are_those_of_score_loss(ctx: Context, tinylm: LanguageModel) -> None:
    rows = conversations([("Name a river in Spain.", "The Ebro."), ("Count to two.", "1, 2"),
                          ("", "4"), ("Why?", "")])  # fmt: skip
    expected = loss(ctx, rows, model=tinylm, formulas=("loss",), view="content")["loss"]
    same = Perturbed(num_prompts=3, drop_rate=0.0, answer="row")
    result = agreement(ctx, rows, models=(tinylm,), method=same)
    known = result["agreement_probability"].is_not_null()
    assert known.sum() == 2
    probabilities = np.exp(-expected.filter(known).to_numpy())
    assert result["agreement_probability"].filter(known).to_numpy() == pytest.approx(
        probabilities, rel=1e-4
    )
    assert result["agreement_uncertainty"].filter(known).to_list() == [0, 0], "nothing is dropped"
    assert result["agreement"].filter(known).to_list() == [1, 1]
    perturbed = agreement(
        ctx, rows, models=(tinylm,), method=Perturbed(num_prompts=3), max_tokens=8
    )
    assert (perturbed["agreement_uncertainty"].drop_nulls() > 0).any()
    several = agreement(ctx, rows, models=(tinylm, tinylm), method=Checkpoints())
    assert several["agreement_variability"].filter(known).to_list() == [0, 0]
    assert several["agreement"].filter(known).to_numpy() == pytest.approx(probabilities, rel=1e-4)
    short = agreement(
        *(ctx, rows), models=(tinylm,), method=Checkpoints(), compare=Likelihood(max_length=4)
    )
    assert short["agreement"].null_count() == len(rows), "nothing is cut to fit"
    assert (short["agreement_votes"] == 0).all()


# Confidence


def sure_of(label: str, answer: str) -> Callable[[str], Answer]:
    return lambda text: (label if "one letter" in text else answer, "stop")


@pytest.mark.parametrize(
    ("label", "answer", "confidence"),
    [
        ("A", "4", 1.0), ("B", "5", 0.0), ("C", "4", 0.7 + 0.15), ("B", "4", 0.7), ("A", "5", 0.3),
        ("A", "Who can say what that may be in the end?", None), ("maybe", "4", None),
    ],
)  # fmt: skip
def test_confidence_weighs_consistency_and_reflection(
    ctx: Context, label: str, answer: str, confidence: float | None
) -> None:
    context = scripted(ctx, sure_of(label, answer))
    rows = conversations([("2 + 2?", "4"), ("2 + 3?",)])
    result = agreement(context, rows, models=(MODEL,), method=Confidence())
    first = rows["messages"].list.len() == 2
    (value,) = result.filter(first)["agreement_confidence"]
    assert value == (None if confidence is None else pytest.approx(confidence))
    assert result.filter(~first)["agreement_confidence"].to_list() == [None], "no answer, no number"
    assert result["error"].null_count() == 2
    assert {r.decoding.temperature for r in context.engine.calls[0]} == {1.0}


def test_similar_samples_count_by_their_similarity(ctx: Context) -> None:
    context = scripted(ctx, sure_of("A", "The river Ebro, in Spain."))
    rows = conversations([("Name a river.", "The river Ebro.")])
    result = agreement(context, rows, models=(MODEL,), method=Confidence(), compare=Rouge())
    similarity = result["agreement"][0]
    assert 0 < similarity < 1
    assert result["agreement_consistency"][0] == pytest.approx(0.8 * similarity)
    assert result["agreement_confidence"][0] == pytest.approx(0.7 * 0.8 * similarity + 0.3)


# Requests

OWN = [case for case in MORE_CASES if case.stage == "score.agreement"]


class Counted(Context):
    """A context whose models only count."""

    engine: CountingEngine

    def open(self, model: Any) -> Any:
        return self.engine if isinstance(model, LanguageModel) else CountingEncoder()


@pytest.mark.parametrize("case", OWN, ids=[case.method for case in OWN])
def test_requests_are_counted_and_methods_differ(case: Case, ctx: Context, tmp_path: Path) -> None:
    context = Counted(ctx.files, ctx.work, ctx.store)
    context.engine = CountingEngine(MODEL)
    with counting():
        case.resolved.function(context, **case.edges, **case.all_options(tmp_path))
    sent = scripted(ctx, teacher)
    case.resolved.function(sent, **case.edges, **case.all_options(tmp_path))
    requests = [request for call in sent.engine.calls for request in call]
    assert context.engine.count.requests == len(requests)
    others = [other for other in OWN if other is not case]
    for other in others:
        engine = scripted(ctx, teacher)
        other.resolved.function(engine, **other.edges, **other.all_options(tmp_path))
        assert {r for call in engine.engine.calls for r in call} != {*requests}


# Options


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "must name at least one model"),
        ({"models": ["model"], "method": "rows"}, "must be left out with method: rows"),
        ({"models": ["model", "model"], "method": "knowledge"}, "must name one model"),
        ({"models": ["model"], "compare": "likelihood"}, "must not be likelihood"),
        ({"models": ["model"], "method": "checkpoints", "compare": "exact"}, "must be likelihood"),
        ({"models": ["model"], "compare": "embedding"}, "must be given with compare: embedding"),
        ({"models": ["model"], "temperature": 0.0}, "must be above 0 for 5 samples"),
        ({"models": ["model"], "task": "topic"}, "must be left out with method: samples"),
        ({"models": ["model"], "method": "perturbed", "reference": "x"}, "must be left out"),
        ({"method": "rows", "ending": "x"}, "must be left out with method: rows"),
        ({"method": "rows", "max_tokens": 5}, "which samples nothing, got 5"),
        ({"models": ["model"], "method": "checkpoints", "top_p": 0.5}, "must be left out"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], problem: str) -> None:
    (text,) = problems("score.agreement", **options)
    assert problem in text


def test_options_that_do() -> None:
    one = {"models": ["model"]}
    assert problems("score.agreement", **one, temperature=0.0, method={"name": "samples",
                    "num_samples": 1}) == []  # fmt: skip
    assert problems("score.agreement", **one, method="perturbed", task="topic") == []
    assert problems("score.agreement", method="rows", compare="rouge") == []
