"""The judges of Humback, AlpaGasus and DEITA: their questions, scores and thresholds."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import LanguageModel
from stages._llm.humback import rating_question
from stages._llm.ratings import first_line_grade, rating
from stages.generate.backtranslate import backtranslate
from stages.score.judge import judge
from stages.score.judge.alpagasus import HALF_POINTS, AlpaGasus
from stages.score.judge.deita import Deita
from stages.score.judge.humback import Humback
from stages.select.diverse import diverse
from stages.select.diverse.methods import Threshold
from tests.support.options import NO_MODEL, problems
from tests.support.rows import conversations, documents, kept
from tests.support.scripted import Answer, scripted

RANKING = "array_sum(judge_complexity_turns * judge_quality_turns)"
"""DEITA's score of a conversation."""

GOLDEN = "word to describe UI with helpful tooltips", "User-friendly or intuitive UI"
"""The pair whose quality the authors publish."""


def by_answer(rows: pl.DataFrame, result: pl.DataFrame) -> dict[str, dict]:
    answers = rows["messages"].list.last().struct.field("content")
    return dict(zip(answers, result.to_dicts(), strict=True))


# Humback


def graded(text: str) -> Answer:
    """A model that reasons, is unsure, or does not say."""
    if "perfect" in text.split("Answer: ")[1]:
        return "A score: 3 would be too low for this.\nScore: 5", "stop"
    if "middling" in text.split("Answer: ")[1]:
        return "It is good.\n\n**Score: 3**", "stop"
    return "It deserves a good grade, 5 perhaps.", "stop"


def test_reasoned_grades_of_rows_that_exist(ctx: Context) -> None:
    rows = conversations([("Why?", "perfect"), ("Why?", "middling"), ("Why?", "else"), ("Why?",)])
    context = scripted(ctx, graded)
    result = judge(context, rows, model=NO_MODEL, method=Humback())
    grades = by_answer(rows, result)
    assert [grades[a]["judge_humback"] for a in ("perfect", "middling", "else")] == [5, 3, None]
    assert Counter(result["drop_reason"]) == {None: 3, "unreadable": 1}
    assert json.loads(grades["else"]["evidence"])["response_end"].endswith("5 perhaps.")
    assert grades["Why?"]["error"] == "there is no answer to judge"
    assert "judge_from_logprobs" not in result.columns
    assert {r.decoding.max_tokens for r in context.engine.calls[0]} == {512}
    lax = judge(scripted(ctx, graded), rows, model=NO_MODEL, method=Humback(strict=False))
    assert by_answer(rows, lax)["perfect"]["judge_humback"] == 3


def test_the_question_is_that_of_the_pairs_that_are_made(ctx: Context) -> None:
    """Also its key: what one stage has asked the other need not ask again."""

    def script(text: str) -> Answer:
        return ("Fine.\nScore: 5" if "from 1 to 5" in text else "What is a whale?"), "stop"

    making = scripted(ctx, script)
    book = documents(["A whale is no fish. " * 20])
    rows = kept(backtranslate(making, book, model=NO_MODEL, system="From the web."))
    assert rows["messages"][0][0]["role"] == "system"
    judging = scripted(ctx, script)
    judge(judging, rows, model=NO_MODEL, method=Humback())
    assert judging.engine.calls[-1] == making.engine.calls[-1]


def test_several_turns_are_one_instruction(ctx: Context) -> None:
    rows = conversations([("A?", "B.", "C?", "D.")])
    context = scripted(ctx, lambda _: ("Score: 4", "stop"))
    judge(context, rows, model=NO_MODEL, method=Humback())
    shown = context.engine.calls[0][0].prompt[-1][1]
    assert "Instruction: User:\nA?\n\nAssistant:\nB.\n\nUser:\nC?\n\nAnswer: D." in shown


def test_a_weak_model_is_asked_for_the_number_alone(ctx: Context, tinylm: LanguageModel) -> None:
    rows = conversations([("Why?", "Because."), ("What?", "That.")])
    result = judge(ctx, rows, model=tinylm, method=Humback(reasons=False), min_mass=0)
    assert result["judge_humback"].is_between(1, 5).all()
    assert "judge_from_logprobs" in result.columns
    assert "number" in rating_question("A", "B", "number").splitlines()[-1]


# AlpaGasus


def test_half_points_decide(ctx: Context) -> None:
    """Keep 4.5 and more: whole grades could not say so, and -1 is no score."""
    said = {"a": "4.5\n\nGood.", "b": "4\nFine.", "c": "Good answer.\nScore: 5", "d": "6", "e": "5"}
    rows = conversations([(f"Q{a}?", a) for a in said])

    def script(text: str) -> Answer:
        return said[text.split("Response:\n")[1][0]], "stop"

    context = scripted(ctx, script)
    result = judge(context, rows, model=NO_MODEL, method=AlpaGasus())
    scores = {a: row["judge_accuracy"] for a, row in by_answer(rows, result).items()}
    assert scores == {"a": 4.5, "b": 4.0, "c": None, "d": None, "e": 5.0}
    assert Counter(result["drop_reason"]) == {None: 3, "unreadable": 2}
    (system, _), (user, question) = context.engine.calls[0][0].prompt
    assert (system, user) == ("system", "user")
    assert "accuracy" in question
    decoding = context.engine.calls[0][0].decoding
    assert (decoding.temperature, decoding.max_tokens, decoding.choice) == (0, 256, ())


def test_the_other_dimension(ctx: Context) -> None:
    rows = conversations([("Q?", "A.")])
    context = scripted(ctx, lambda _: ("3.5", "stop"))
    result = judge(context, rows, model=NO_MODEL, method=AlpaGasus(dimension="helpfulness"))
    assert result["judge_helpfulness"].to_list() == [3.5]
    assert "helpfulness" in context.engine.calls[0][0].prompt[-1][1]


FORMS = ("{}", "**{}**", "Score: {}", "**Score:** {}/5", "{} out of 5", "# {}", "Accuracy: {}.")


@given(st.sampled_from(sorted(HALF_POINTS)), st.sampled_from(FORMS), st.text("abc d\n"))
def test_every_half_point_is_read_in_every_form(score: str, form: str, rest: str) -> None:
    assert first_line_grade(form.format(score) + "\n\n" + rest) == HALF_POINTS[score]
    between = HALF_POINTS[score] - 0.25
    if between > 0:
        assert first_line_grade(form.format(between) + "\n" + rest) == between
    assert first_line_grade(form.format(f"-{score}") + "\n" + rest) is None
    assert first_line_grade(form.format(f"1{score}") + "\n" + rest) is None


@pytest.mark.parametrize(
    ("line", "grade"),
    [
        ("3 (out of 10)", None),
        ("3 (of 10)", None),
        ("Score (out of 10): 4", None),
        ("Score (1-5): 4", 4.0),
        ("4, out of 5", 4.0),
        ("1: The response is right.", None),
        ("1 - The response is right.", None),
        ("4.5 - it is right", 4.5),
    ],
)
def test_other_scales_and_items_of_lists_are_no_grades(line: str, grade: float | None) -> None:
    assert first_line_grade(line) == grade


@pytest.mark.parametrize(
    ("line", "grade"),
    [
        ("Score: 4 (out of 10)", None),
        ("Score: 4, out of 10", None),
        ("Score (out of 10): 4", None),
        ("Score: 4 (out of 5)", 4),
        ("Rating (1-5): 4", 4),
    ],
)
def test_a_rating_on_another_scale_is_none(line: str, grade: int | None) -> None:
    assert rating(line) == grade


# DEITA


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A causal model of 16 tokens, the grades among them: all its probabilities are at hand."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    words = ["<unk>", "<s>", "</s>", *"123456", *"#:.?abc"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    folder = tmp_path_factory.mktemp("scorer")
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    set_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlamaConfig(
        **{"vocab_size": len(words), "num_hidden_layers": 2, "max_position_embeddings": 1024},
        **{"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.5, **sizes},
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return LanguageModel(model=str(folder))


def expectation(folder: str, text: str) -> float:
    """DEITA's score of a prompt as its code computes it: a softmax over six logits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1].double()
    grades = torch.tensor([tokenizer.convert_tokens_to_ids(str(k)) for k in range(1, 7)])
    return float((torch.softmax(logits[grades], 0) * torch.arange(1, 7)).sum())


def prompt(aspect: str, instruction: str, response: str) -> str:
    """The released scorers' input, written out once more."""
    if aspect == "complexity":
        return (
            "You are a helpful assistant. Please identify the complexity score of the following "
            f"user query. \n##Query: {instruction}  \n##Complexity: "
        )
    return (
        "You are a helpful assistant. Please identify the quality score of the Response "
        f"corresponding to the Question. \n #Question#:\n{instruction}\n#Response#:\n{response} "
        "\n##Quality: "
    )


TURNS = [("a?", "b."), ("aab?", "ca."), ("c?", "bb.", "cab?", "a."), ("b?", "c.", "b?")]


@pytest.mark.parametrize("aspect", ["complexity", "quality"])
def test_scores_are_those_of_deita_s_code(ctx: Context, scorer: LanguageModel, aspect: str) -> None:
    rows = conversations(TURNS)
    result = judge(ctx, rows, model=scorer, method=Deita(aspect=aspect), min_mass=0.0)
    scores = zip(rows["messages"].to_list(), result[f"judge_{aspect}_turns"], strict=True)
    for messages, turns in scores:
        texts = [m["content"] for m in messages]
        pairs = list(zip(texts[::2], texts[1::2], strict=False))
        expected = [expectation(scorer.model, prompt(aspect, *pair)) for pair in pairs]
        assert turns.to_list() == pytest.approx(expected, abs=1e-4)
    sums = result[f"judge_{aspect}_turns"].list.sum()
    assert result[f"judge_{aspect}"].to_list() == pytest.approx(sums.to_list())
    assert len({round(s, 3) for s in sums}) > 2, "a scorer that tells nothing apart tests nothing"
    assert result["judge_from_logprobs"].all()


def test_a_grade_that_is_missing_is_none(ctx: Context) -> None:
    """Where the authors' code takes 3.0."""
    context = scripted(ctx, lambda _: ("good", "stop"))
    rows = conversations([("a?", "b.")])
    result = judge(context, rows, model=NO_MODEL, method=Deita(aspect="quality"))
    assert result["drop_reason"].to_list() == ["unreadable"]
    assert result["judge_quality"].to_list() == result["judge_quality_turns"].to_list() == [None]
    assert context.engine.calls[0][0].prompt == prompt("quality", "a?", "b.")


def loop_of_deita(rows: pl.DataFrame, threshold: float, size: int) -> set[str]:
    """The authors' filter with batches of one row, over the products summed over turns."""
    products = [
        float(np.sum(np.array(a) * np.array(b)))
        for a, b in zip(rows["judge_complexity_turns"], rows["judge_quality_turns"], strict=True)
    ]
    order = np.argsort(-np.array(products), kind="stable")
    vectors = np.array(rows["vector"].to_list())
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = [order[0]]
    for row in order[1:]:
        if len(chosen) == size:
            break
        if not (units[chosen] @ units[row] > threshold).any():
            chosen.append(row)
    return {rows["id"][int(row)] for row in chosen}


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.3, 0.9, 0.99]))
def test_the_selection_is_the_loop_of_deita(seed: int, size: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 4, 40)
    columns = {
        f"judge_{aspect}_turns": [rng.uniform(1, 6, n).tolist() for n in lengths]
        for aspect in ("complexity", "quality")
    }
    vectors = rng.normal(size=(8, 4))[rng.integers(0, 8, 40)] + rng.normal(size=(40, 4)) / 5
    rows = pl.DataFrame(
        {"id": [f"{n:02}" for n in range(40)], "vector": vectors.astype(np.float32), **columns},
        schema_overrides={"vector": pl.List(pl.Float32)},
    )
    ctx = Context(Path(), Path(), Path())
    method = Threshold(threshold=threshold)
    result = diverse(ctx, rows, method=method, score=RANKING, budget=size)
    picked = set(rows["id"].filter(result["drop_reason"].is_null()))
    assert picked == loop_of_deita(rows, threshold, size)


def released(name: str) -> str | None:
    """The folder or the cached name of a released scorer; None where it is not at hand."""
    from huggingface_hub import try_to_load_from_cache

    variable = os.environ.get(f"GRISTMILL_{name.upper().replace('-', '_')}")
    cached = try_to_load_from_cache(f"hkust-nlp/{name}", "config.json")
    return variable or (f"hkust-nlp/{name}" if isinstance(cached, str) else None)


@pytest.mark.proof
def test_the_released_quality_scorer_gives_the_published_score(ctx: Context) -> None:
    model = released("deita-quality-scorer")
    if model is None:
        pytest.skip("needs the weights of hkust-nlp/deita-quality-scorer")
    result = judge(
        ctx,
        conversations([GOLDEN]),
        model=LanguageModel(model=model),
        method=Deita(aspect="quality"),
    )
    assert result["judge_quality"].to_list() == pytest.approx([2.0230105920381902], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "deita"}, "the option 'method.aspect' is missing"),
        (
            {"method": "humback", "samples": 3},
            "samples must be left out with method: humback, got 3",
        ),
        (
            {"method": "alpagasus", "min_mass": 0.0},
            "min_mass must be left out with method: alpagasus, got 0.0",
        ),
        (
            {"method": {"name": "humback", "reasons": False, "strict": False}},
            "method.strict must be left out with reasons: false, got false",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_runs(options: dict, problem: str) -> None:
    assert problems("score.judge", **options) == [problem]
    assert problems("score.judge", method={"name": "humback", "reasons": False}, min_mass=0.0) == []
