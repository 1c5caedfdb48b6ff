"""The judge: expectations from probabilities, pairs in both orders, and measured biases."""

from __future__ import annotations

import json
import math

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Completion, Decoding, LanguageModel, Request, TokenLogprobs
from pipeline.models.engines.registry import close_engines
from pipeline.models.structured_output import Unreadable
from stages._llm.judging.bias import Bias, rank_correlation
from stages._llm.judging.exchanges import exchanges
from stages._llm.label_scores import YES, expected_value
from stages.score.judge import Method, judge
from stages.score.judge.gap import Gap
from stages.score.judge.p_true import PTrue
from stages.score.judge.pairwise import Pairwise
from stages.score.judge.rating import Rating
from stages.score.judge.rubric import Rubric
from tests.support.options import NO_MODEL, options_of, problems
from tests.support.rows import conversations, of
from tests.support.scripted import Answer, scripted
from tests.support.serving import FakeServer, HttpMessage, Responder, TinyLM, listening, served

ROWS = conversations([("Why?", "Because."), ("A?", "B.", "C?", "D, and more of it."), ("Who?",)])


def of_prompts(prompt: str, *answers: str) -> list[tuple[str, str]]:
    return [(prompt, answer) for answer in answers]


def by_last_turn(frame: pl.DataFrame, result: pl.DataFrame) -> dict[str, dict]:
    """The added columns by the last turn of each row."""
    last = frame["messages"].list.last().struct.field("content")
    return dict(zip(last, result.to_dicts(), strict=True))


def said(tokens: dict[str, float], text: str = "4") -> Completion:
    top = tuple((token, math.log(p)) for token, p in tokens.items())
    return Completion("k", text, "stop", 1, 1, logprobs=(TokenLogprobs(text, 0.0, top),))


SCALE = {str(n): float(n) for n in range(1, 7)}


def test_the_expectation_is_over_the_labels_alone() -> None:
    assert expected_value(said({"4": 0.4, " 5": 0.2, "the": 0.4}), SCALE) == pytest.approx(13 / 3)
    with pytest.raises(Unreadable, match="one of: 1, 2"):
        expected_value(said({"the": 0.9, "4": 0.05}), SCALE)
    assert expected_value(said({"the": 0.9, "4": 0.05}), SCALE, min_mass=0) == 4
    assert expected_value(Completion("k", "6", "stop", 1, 1), SCALE) is None


def test_every_spelling_of_a_label_counts() -> None:
    spelled = {"Yes": math.exp(-0.01), "No": math.exp(-5), " no": math.exp(-7)}
    assert expected_value(said(spelled, "Yes"), YES) == pytest.approx(0.9923, abs=1e-4)
    every = {"YES": 0.3, "▁yes": 0.2, " Yes": 0.1, "nO": 0.2, "yesterday": 0.2}
    assert expected_value(said(every, "YES"), YES) == pytest.approx(0.75)


def test_a_label_of_several_tokens_counts_by_the_first_that_was_written() -> None:
    top = (("dif", math.log(0.6)), ("equal", math.log(0.2)))
    first = TokenLogprobs("dif", math.log(0.6), top)
    written = Completion("k", "different", "stop", 1, 2, logprobs=(first,))
    assert expected_value(written, {"different": 1.0, "equal": 0.0}) == pytest.approx(0.75)


def test_the_mean_of_samples_stands_in_for_probabilities(ctx: Context) -> None:
    context = scripted(ctx, lambda _: ("4", "stop"))
    result = judge(context, ROWS[:1], model=NO_MODEL, samples=3)
    assert result["judge_quality"].drop_nulls().to_list() == [4.0]
    assert [len(call) for call in context.engine.calls] == [1, 3]
    assert {r.decoding.temperature for r in context.engine.calls[1]} == {1.0}


def test_ratings_sum_over_the_turns_and_multiply(ctx: Context) -> None:
    def rater(text: str) -> Answer:
        return ("5" if "difficult" in text else "2"), "stop"

    context = scripted(ctx, rater)
    aspects = ("quality", "complexity")
    method = Rating(aspects=aspects)
    rated = by_last_turn(ROWS, judge(context, ROWS, model=NO_MODEL, method=method))
    last = rated["D, and more of it."]
    assert (last["judge_quality"], last["judge_complexity"], last["judge_product"]) == (2, 5, 10)
    method = Rating(aspects=aspects, reduction="sum")
    both = by_last_turn(ROWS, judge(context, ROWS, model=NO_MODEL, method=method))
    summed = both["D, and more of it."]
    assert (summed["judge_quality"], summed["judge_product"]) == (4, 20)
    nothing = rated["Who?"]
    assert nothing["error"] == "there is no answer to judge"
    assert nothing["judge_quality"] is None
    shown = context.engine.calls[0]
    assert len(shown) == 2
    assert all("could not be better" in request.prompt[-1][1] for request in shown)
    assert all(request.decoding.logprobs == 20 for request in shown)


def test_an_unreadable_judgement_is_requested_once_more_and_then_dropped(ctx: Context) -> None:
    context = scripted(ctx, lambda _: ("splendid", "stop"))
    result = judge(context, ROWS[:1], model=NO_MODEL)
    assert result["error"].to_list() == [None]
    assert result["drop_reason"].to_list() == ["unreadable"]
    assert json.loads(result["evidence"][0])["response_end"] == "splendid"
    assert [len(call) for call in context.engine.calls] == [1, 1]


def test_criteria_are_asked_one_by_one(ctx: Context) -> None:
    def strict(text: str) -> Answer:
        return ("yes" if "is short" in text else "no"), "stop"

    method = Rubric(criteria=("It is short.", "It names a source."))
    result = by_last_turn(ROWS, judge(scripted(ctx, strict), ROWS, model=NO_MODEL, method=method))
    assert result["Because."]["judge_met"] == [True, False]
    assert result["Because."]["judge_rubric"] == 0.5
    assert result["Who?"]["judge_rubric"] is None


def test_pairs_are_judged_in_both_orders_and_biases_are_measured(ctx: Context) -> None:
    rows = conversations([*of_prompts("Why?", "good", "bad indeed", "worst of all"), ("B?", "x")])

    def honest(text: str) -> Answer:
        rank = {"good": 0, "bad indeed": 1, "worst of all": 2}
        first = rank[text.split("Answer A:\n")[1].split("\n")[0]]
        second = rank[text.split("Answer B:\n")[1].split("\n")[0]]
        return ("A" if first < second else "B"), "stop"

    pairwise = judge(scripted(ctx, honest), rows, model=NO_MODEL, method=Pairwise())
    result = by_last_turn(rows, pairwise)
    wins = [result[a]["judge_wins"] for a in ("good", "bad indeed", "worst of all", "x")]
    assert wins == [1.0, 0.5, 0.0, None]
    assert result["x"]["judge_pairs"] == 0
    biases = json.loads((ctx.files / "bias.json").read_text())
    assert biases["position"] == {"share_of_first_place": 0.5, "orders_agree": 1.0, "pairs": 3}
    assert biases["length"] == {"share_of_longer": 0.0, "pairs": 3}
    judge(scripted(ctx, lambda _: ("A", "stop")), rows, model=NO_MODEL, method=Pairwise())
    biases = json.loads((ctx.files / "bias.json").read_text())
    assert biases["position"] == {"share_of_first_place": 1.0, "orders_agree": 0.0, "pairs": 3}
    assert biases["length"] == {"share_of_longer": None, "pairs": 0}
    assert "first place" in (ctx.files / "bias.md").read_text()


def test_the_first_pairs_of_a_prompt_may_do(ctx: Context) -> None:
    rows = conversations(of_prompts("Why?", "good", "bad", "worse"))
    context = scripted(ctx, lambda _: ("A", "stop"))
    result = judge(context, rows, model=NO_MODEL, method=Pairwise(max_pairs=1))
    assert sorted(result["judge_pairs"]) == [0, 1, 1]
    assert sum(map(len, context.engine.calls)) == 2


def test_a_vote_that_fails_fails_both_rows(ctx: Context) -> None:
    rows = conversations(of_prompts("Why?", "good", "bad"))
    context = scripted(ctx, lambda _: ("no server", "error"))
    result = judge(context, rows, model=NO_MODEL, method=Pairwise())
    assert result["error"].to_list() == ["no server"] * 2


def test_gaps_compare_answers_to_the_same_prompt(ctx: Context) -> None:
    rows = conversations([("Why?", "strong"), ("How?", "strong")])
    references = conversations([("Why?", "weak"), ("Else?", "weak")])
    context = scripted(ctx, lambda text: (("5" if "strong" in text else "2"), "stop"))
    result = judge(context, rows, references, model=NO_MODEL, method=Gap())
    gaps = dict(zip(rows["id"], result["judge_gap"], strict=True))
    assert gaps == {of(rows, "Why?"): 3.0, of(rows, "How?"): None}
    assert result["error"].null_count() == 2
    with pytest.raises(UserError, match="must have an input for 'reference_answers'"):
        judge(context, rows, model=NO_MODEL, method=Gap())


def test_every_answer_is_seen_with_what_was_said_before_it() -> None:
    every = exchanges(ROWS, all_answers=True)
    several = [e for e in every if "C?" in e.conversation or e.response == "B."]
    assert {(e.conversation, e.response) for e in several} == {
        ("User:\nA?\n\n", "B."),
        ("User:\nA?\n\nAssistant:\nB.\n\nUser:\nC?\n\n", "D, and more of it."),
    }


def test_calls_on_the_way_to_an_answer_are_no_answers_of_their_own() -> None:
    call = [{"id": "1", "name": "search", "arguments": "{}"}]
    turns = [
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "x", "tool_call_id": "1"},
        {"role": "assistant", "content": "B."},
        {"role": "user", "content": "C?"},
        {"role": "assistant", "content": "D."},
    ]
    every = exchanges(pl.DataFrame({"messages": [turns]}, strict=False), all_answers=True)
    assert [(e.request, e.response) for e in every] == [("A?", "B."), ("C?", "D.")]


def test_length_bias_is_a_rank_correlation() -> None:
    bias = Bias(scores=[1.0, 2.0, 3.0], lengths=[10, 20, 30])
    assert bias.facts()["length"]["rank_correlation_with_score"] == pytest.approx(1.0)
    assert rank_correlation([1, 1], [1, 2]) is None
    assert Bias().facts() == {}


@pytest.mark.proof
def test_a_live_judge_s_expectation_is_that_of_its_probabilities(
    ctx: Context, tinylm: LanguageModel
) -> None:
    """Also where it is held to the labels: they are words that it would have said by itself."""
    engine = ctx.open(tinylm)
    question = (("user", "Is water wet? Answer with one word."),)
    free = engine.generate([Request(question, Decoding(max_tokens=1, logprobs=20))])[0]
    words = [(t, p) for t, p in free.logprobs[0].top if t.strip().isalpha() and t == t.strip()]
    one, other = list(dict.fromkeys(t.casefold() for t, _ in words))[:2]
    p, q = (
        math.fsum(math.exp(x) for t, x in free.logprobs[0].top if t.strip().casefold() == label)
        for label in (one, other)
    )
    held = Decoding(max_tokens=4, choice=(one, other), logprobs=20)
    answer = engine.generate([Request(question, held)])[0]
    expected = expected_value(answer, {one: 1.0, other: 0.0}, min_mass=0)
    assert expected == pytest.approx(p / (p + q), abs=1e-5)
    method = Rating(aspects=("quality", "helpfulness"))
    result = judge(ctx, ROWS, model=tinylm, method=method, min_mass=0)
    assert result["judge_quality"].drop_nulls().is_between(1, 6).all()
    assert result["error"].null_count() == 2


async def ignoring_logprobs(request: HttpMessage) -> bytes:
    """tinylm behind a server that does not know these fields, as several do."""
    content = json.loads(request.body)
    known = {k: v for k, v in content.items() if k not in ("logprobs", "top_logprobs")}
    return await TINY(request._replace(body=json.dumps(known).encode()))


TINY = TinyLM()
METHODS: list[Method] = [
    Rating(aspects=("quality", "complexity"), reduction="sum"),
    Rubric(criteria=("It is short.", "It is long.")),
    PTrue(),
    Gap(),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("responder", [TINY, ignoring_logprobs])
def test_a_server_without_logprobs_is_named_once_and_in_the_rows(
    ctx: Context, method: Method, responder: Responder, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(FakeServer(responder)) as port:
        references = ROWS if isinstance(method, Gap) else None
        result = judge(ctx, ROWS, references, model=served(port), method=method, min_mass=0)
    close_engines()
    options = options_of(judge, model=NO_MODEL, method=method)
    edges = {"rows": [dict(ROWS.schema)], "reference_answers": [dict(ROWS.schema)]}
    adds = judge.__stage__.adds(options, edges)  # type: ignore[attr-defined]
    assert set(result.columns) == {*adds, "error", "drop_reason", "evidence"}
    has_answer = result["error"].is_null()
    assert has_answer.sum() == 2
    assert set(result["judge_from_logprobs"].filter(has_answer)) == {responder is TINY}
    assert result["judge_from_logprobs"].filter(~has_answer).to_list() == [None]
    warnings = [record.getMessage() for record in caplog.records]
    expected = "score.judge: 2 of 2 scores are the label as it was written"
    assert [text.startswith(expected) for text in warnings] == [True] * (responder is not TINY)


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("rubric", "the option 'method.criteria' is missing"),
        (
            {"name": "rubric", "criteria": []},
            "method.criteria must be of at least 1 element, got []",
        ),
        (
            {"name": "rating", "aspects": ["quality", "quality"]},
            "method.aspects must name each once, got ['quality', 'quality']",
        ),
        ({"name": "rating", "criteria": ["x"]}, "method (rating) has no option 'criteria'"),
        ({"name": "gap", "aspects": ["quality"]}, "method (gap) has no option 'aspects'"),
        ({"name": "pairwise", "max_pairs": 0}, "method.max_pairs must be at least 1, got 0"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(method: object, problem: str) -> None:
    assert problems("score.judge", method=method) == [problem]
