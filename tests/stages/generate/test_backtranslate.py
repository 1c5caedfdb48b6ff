"""Backtranslation with a real small model, its ratings, and how texts are cut."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from pipeline.models.journal.journal import Journal
from schemas.records import record_id
from stages._llm.drafts import Draft
from stages.generate.backtranslate import backtranslate
from stages.generate.backtranslate.curation import (
    LikelihoodRating,
    TextRating,
    curate_by_likelihood,
    ratings,
)
from stages.generate.backtranslate.humback import Humback
from stages.generate.backtranslate.induction import Induction
from stages.generate.backtranslate.inverse import Inverse, code_of, is_idle
from stages.generate.backtranslate.longform import LongForm
from stages.generate.from_documents.passages import cut, paragraphs
from tests.conftest import ROOT
from tests.support.options import problems
from tests.support.rows import conversations, documents, json_lines, kept
from tests.support.scripted import Answer, scripted

BOOK = json_lines(ROOT / "data/samples/rust_book.jsonl.gz")
MODEL = LanguageModel("scripted")


@pytest.mark.proof
def test_a_real_model_writes_rates_and_can_be_read_again(
    tinylm: LanguageModel, ctx: Context
) -> None:
    options: dict[str, Any] = {
        "max_tokens": 32,
        "method": Humback(
            passage_characters=(200, 300),
            max_passages=8,
            curation=LikelihoodRating(min_score=2.5),
        ),
    }
    book = documents([row["text"] for row in BOOK[:12]])
    rows = backtranslate(ctx, book, model=tinylm, **options)
    texts = dict(zip(book["id"], book["text"], strict=True))
    reasons = set(rows["drop_reason"].drop_nulls())
    assert "not_sampled" in reasons
    assert rows.filter(pl.col("journal").list.len() > 0).height == 8
    assert not kept(rows).is_empty()
    journal = Journal(ctx.store / "journal")
    for row in kept(rows).iter_rows(named=True):
        user, assistant = (m["content"] for m in row["messages"])
        assert assistant in texts[row["parents"][0]]
        [key] = row["journal"]
        assert journal.get_many([key])[key]["text"].strip() == user
        assert 2.5 <= row["curation_score"] <= 5
        assert row["id"] == record_id(row["messages"])
        assert row["origins"][0]["license"] == "MIT"
    low = rows.filter(pl.col("drop_reason") == "low_score")
    assert (low["curation_score"] < 2.5).all()
    again = Context.scratch(ctx.store.parent)
    assert backtranslate(again, book, model=tinylm, **options).equals(rows)
    assert again.counters["requests"] == 0


def rater(said: str) -> Any:
    def answer(prompt: str) -> Answer:
        rating = "Rate it from 1 to 5" in prompt
        return (said if rating else "Explain what is said here."), "stop"

    return answer


@pytest.mark.parametrize(
    ("said", "curation", "reason", "score"),
    [
        ("Fine.\nScore: 5", TextRating(), None, 5.0),
        ("Fine.\nScore: 4", TextRating(), "low_score", 4.0),
        ("Fine.\nScore: 4", TextRating(min_score=4), None, 4.0),
        ("Score: 5 I think", TextRating(), "score_unparsed", None),
        ("Score: 5 I think", TextRating(strict=False), None, 5.0),
        ("Fine.\nScore: 1", TextRating(min_score=None), None, 1.0),
        ("not rated", None, None, None),
    ],
)
def test_ratings_decide(
    ctx: Context, said: str, curation: TextRating | None, reason: str | None, score: float | None
) -> None:
    method = Humback(curation=curation)
    context = scripted(ctx, rater(said))
    rows = backtranslate(
        context, documents(["A whale is no fish. " * 20]), model=MODEL, method=method
    )
    assert rows["drop_reason"].to_list() == [reason]
    assert rows["curation_score"].to_list() == [score]
    assert rows["journal"].list.len().to_list() == [1 + (curation is not None)]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("Explain.", "stop"), "instruction_too_short"),
        (("x" * 801, "stop"), "instruction_too_long"),
        (("Explain what the", "length"), "instruction_cut"),
        (("the prompt is too long", "error"), None),
    ],
)
def test_instructions_are_checked(ctx: Context, answer: Answer, reason: str | None) -> None:
    context = scripted(ctx, lambda _: answer)
    rows = backtranslate(context, documents(["A whale is no fish. " * 20]), model=MODEL)
    assert rows["drop_reason"].to_list() == [reason]
    assert (rows["error"].to_list() == [answer[0]]) == (answer[1] == "error")


def test_every_passage_is_a_row(ctx: Context) -> None:
    texts = ["", "short", "# A\n\n" + "long " * 100, "x" * 5000]
    rows = backtranslate(scripted(ctx, rater("Score: 5")), documents(texts), model=MODEL)
    reasons = sorted(str(reason) for reason in rows["drop_reason"])
    assert reasons == ["None", "passage_too_long", "passage_too_short", "passage_too_short"]


def test_more_documents_do_not_disturb_the_choice(ctx: Context) -> None:
    texts = [f"Text number {n} of a long shelf. " * 10 for n in range(30)]

    def selected(texts: list[str], seed: int = 0, **options: int) -> set[str]:
        context = scripted(ctx, rater("Score: 5"))
        rows = backtranslate(
            context, documents(texts), model=MODEL, method=Humback(**options), seed=seed
        )
        return {messages[-1]["content"] for messages in kept(rows)["messages"]}

    few, many = selected(texts[:20], max_passages=10), selected(texts, max_passages=10)
    assert len(few) == len(many) == 10
    assert many & set(texts[:20]) <= few
    assert selected(texts, max_passages=10, seed=1) != many
    parted = ["\n\n".join(f"{t} {n} " + "word " * 500 for n in range(4)) for t in texts[:3]]
    assert len(selected(parted, max_passages_per_document=2)) == 6


@given(st.lists(st.sampled_from(["# Head", "one two", "```\na\n\n\nb\n```", "x" * 30, "  "])))
def test_passages_are_the_text_in_order(parts: list[str]) -> None:
    text = "\n\n".join(parts)
    passages = cut(text, 40)
    at = 0
    for passage in passages:
        start = text.index(passage, at)
        assert not text[at:start].strip()
        at = start + len(passage)
    assert not text[at:].strip()
    whole = [text[a:b] for a, b in paragraphs(text)]
    assert all(len(p) <= 40 or p in whole for p in passages)
    assert all(p.count("```") % 2 == 0 for p in passages)
    assert all("\n# Head" not in p for p in passages)


def test_passages_of_a_real_book_lose_no_character() -> None:
    for row in BOOK:
        passages = cut(row["text"], 1000)
        assert "".join("".join(passages).split()) == "".join(row["text"].split())


def test_a_likelihood_rating_is_the_expectation(ctx: Context, tinylm: LanguageModel) -> None:
    engine = ctx.open(tinylm)
    fields = {"passage": "Whales are mammals.", "instruction": "What are whales?"}
    draft = Draft(("d",), fields)
    sequences = ratings(engine, draft)
    tails = {engine.tokenizer.decode(s.tokens[s.start :]).strip() for s in sequences}
    assert tails == {"1", "2", "3", "4", "5"}
    logs = np.array([values.sum() for values in engine.loglikelihood(sequences)], np.float64)
    p = np.exp(logs) / np.exp(logs).sum()
    curate_by_likelihood(engine, [draft])
    assert draft["curation_score"] == pytest.approx(float(p @ np.arange(1, 6)), abs=1e-6)
    curate_by_likelihood(engine, [])


def test_a_model_trained_backwards_is_shown_the_passage_alone(ctx: Context) -> None:
    context = scripted(ctx, lambda _: ("What is a whale?", "stop"))
    text = "A whale is no fish. " * 20
    rows = backtranslate(
        *(context, documents([text])),
        model=MODEL,
        method=Humback(backward_model=True, curation=None),
        system="From the web.",
    )
    assert context.engine.calls[0][0].prompt == (("user", text.strip()),)
    assert [m["role"] for m in rows["messages"][0]] == ["system", "user", "assistant"]


def test_longform_has_three_styles_and_no_curation(ctx: Context) -> None:
    context = scripted(ctx, lambda _: ("What is a whale, please?", "stop"))
    texts = [f"Text number {n} of a long shelf. " * 10 for n in range(30)]
    rows = backtranslate(context, documents(texts), model=MODEL, method=LongForm())
    assert rows["drop_reason"].null_count() == 30
    styles = [json.loads(extra)["style"] for extra in rows["extra"]]
    assert set(styles) == {"instruction", "chat", "query"}
    assert len(context.engine.calls) == 1
    prompts = [request.prompt[-1][1] for request in context.engine.calls[0]]
    assert sum("search engine" in text for text in prompts) == styles.count("query")


CODE = "Here it is:\n```python\ndef f(x):\n    return x + 1\n```\nDone."


def test_code_gets_the_candidate_that_it_answers_best(ctx: Context) -> None:
    pool = conversations([("Add one.", CODE), ("Hi.", "Hello."), ("P", "```\nprint(1)\n# x\n```")])
    samples = iter(range(100))

    def coder(text: str) -> Answer:
        if "Is the answer a correct" in text:
            return ("yes" if "task 3" in text else "no"), "stop"
        return f"Write a function, task {next(samples)}.", "stop"

    context = scripted(ctx, coder)
    rows = backtranslate(context, None, pool, model=MODEL, method=Inverse(num_candidates=5))
    assert Counter(rows["drop_reason"]) == {
        **{None: 1, "not_best": 4, "no_code": 1, "idle_code": 1},
    }
    best = kept(rows)
    assert best["messages"][0][0]["content"] == "Write a function, task 3."
    assert best["messages"][0][1]["content"] == "```python\ndef f(x):\n    return x + 1\n```"
    assert best["curation_score"].to_list() == [1.0]
    assert {request.sample for request in context.engine.calls[0]} == {0, 1, 2, 3, 4}


def test_the_first_block_counts_and_python_without_a_fence() -> None:
    assert code_of(CODE + "\n```\nassert f(1) == 2\n```") == code_of(CODE)
    shell = "```bash\npip install x\n```"
    assert code_of(f"{shell}\n{CODE}") == shell
    assert code_of("  ~~~js\n  let x = 1\n  ~~~") == "```js\nlet x = 1\n```"
    plain = "import os\n\nprint(os.name)"
    assert code_of(plain) == f"```python\n{plain}\n```"
    for prose in ("One", "x = -1", "Neo: 'We got away.'", "def f(x) do\n  x", "", "a\x00b"):
        assert code_of(prose) is None, prose


@pytest.mark.parametrize(
    "line",
    ["print 1", "from a import b", "# x", "// x", "", "  import a", "/* x", " * x", " *", " */",
     "-- x", "--"],
)  # fmt: skip
def test_idle_code_is_any_of_lines_that_do_nothing(line: str) -> None:
    assert is_idle(f"```\n{line}\nprint(2)\n```")
    assert not is_idle(f"```\n{line}\nprinted = 2\n```")


@pytest.mark.parametrize("line", ["*p = f(x);", "--n;", "**p = 1;", "--i, f(i);"])
def test_code_that_begins_like_a_comment_is_code(line: str) -> None:
    assert not is_idle(f"```c\n{line}\n```")


def test_the_numbers_of_inverse_instruct_are_the_authors(ctx: Context) -> None:
    """2,048 tokens at 0.8, however long, where the other methods have 256 and a cap."""
    pool = conversations([("Add one.", CODE)])
    context = scripted(ctx, lambda text: ("yes" if "Answer yes" in text else "Do. " * 900, "stop"))
    rows = backtranslate(context, None, pool, model=MODEL, method=Inverse(num_candidates=2))
    written = context.engine.calls[0][0].decoding
    assert (written.max_tokens, written.temperature, written.top_p) == (2048, 0.8, 1.0)
    assert len(kept(rows)["messages"][0][0]["content"]) > 3000
    own = {"temperature": 0.1, "max_tokens": 9, "instruction_characters": (1, 50)}
    rows = backtranslate(context, None, pool, model=MODEL, method=Inverse(), **own)
    assert set(rows["drop_reason"]) == {"instruction_too_long"}
    written = context.engine.calls[-1][0].decoding
    assert (written.max_tokens, written.temperature, written.top_p) == (9, 0.1, 1.0)


def test_pairs_of_a_group_get_the_instruction_that_was_inferred(ctx: Context) -> None:
    pool = conversations([("2", "4"), ("3", "6"), ("5", "10"), ("7", "14")])
    context = scripted(
        ctx, lambda text: (("no" if "Answer yes" in text else "Double it, please."), "stop")
    )
    method = Induction(num_candidates=2, num_shots=3)
    rows = kept(backtranslate(context, None, pool, model=MODEL, method=method))
    assert len(rows) == 4
    assert {m[0]["content"] for m in rows["messages"]} == {
        f"Double it, please.\n\n{n}" for n in (2, 3, 5, 7)
    }
    assert rows["input_start"].to_list() == [len("Double it, please.\n\n")] * 4
    assert {tuple(p) for p in rows["parents"]} == {(i,) for i in pool["id"]}
    shown = context.engine.calls[0][0].prompt[-1][1]
    assert shown.count("Input:") == 3


def test_a_missing_edge_is_an_error(ctx: Context) -> None:
    context = scripted(ctx, lambda _: ("x", "stop"))
    with pytest.raises(UserError, match="inverse must have an input for 'rows'"):
        backtranslate(context, documents(["a"]), model=MODEL, method=Inverse())
    with pytest.raises(UserError, match="humback must have an input for 'documents'"):
        backtranslate(context, model=MODEL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": {"name": "humback", "passage_characters": [3, 2]}},
            "method.passage_characters must be increasing, got [3, 2]",
        ),
        ({"instruction_characters": [0, 2]}, "instruction_characters[0] must be at least 1, got 0"),
        (
            {"method": {"name": "longform", "styles": []}},
            "method.styles must be of at least 1 element, got []",
        ),
        (
            {"method": {"name": "inverse", "num_candidates": 0}},
            "method.num_candidates must be at least 1, got 0",
        ),
        (
            {"method": {"name": "inverse", "max_passages": 3}},
            "method (inverse) has no option 'max_passages'",
        ),
        (
            {"method": {"name": "humback", "curation": {"name": "likelihood", "strict": False}}},
            "method.curation (likelihood) has no option 'strict'",
        ),
        (
            {"method": {"name": "humback", "curation": {"name": "text", "min_score": 6}}},
            "method.curation.min_score must be between 1 and 5, got 6",
        ),
    ],
)
def test_a_recipe_s_mistakes(options: dict[str, Any], message: str) -> None:
    assert problems("generate.backtranslate", **options) == [message]


def test_recipes_name_a_method_and_its_curation() -> None:
    for method in ("humback", "longform", "inverse", "induction"):
        assert problems("generate.backtranslate", method=method) == []
        curated = {"name": method, "curation": {"name": "likelihood"}}
        assert problems("generate.backtranslate", method=curated) == []
        assert problems("generate.backtranslate", method={"name": method, "curation": None}) == []
