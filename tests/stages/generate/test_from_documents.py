"""Documents become rows: each method sends its requests in order, and every row says why."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models import Embedder, LanguageModel
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from schemas.records import DOCUMENT_COLUMNS, digest
from stages.generate.from_documents import (
    AgentInstruct,
    Aitp,
    Bonito,
    Fanno,
    InstructionPretraining,
    Mammoth2,
    OssInstruct,
    SelfCodeAlign,
    SelfSupervised,
    WaveCoder,
    bonito,
    fanno,
    from_documents,
    mammoth2,
    selfcodealign,
    wavecoder,
)
from stages.generate.from_documents.agentinstruct_skills import SKILLS
from stages.generate.from_documents.context import DocumentMethod
from tests.support.rows import DATA, json_lines
from tests.support.scripted import Answer, ScriptedContext, scripted

MODEL = LanguageModel("none")
BOOK = [row["text"] for row in json_lines(DATA / "samples/rust_book.jsonl.gz")]
WHALES = "Whales are mammals. They breathe air, and they live in the sea. " * 4
TREES = "Trees are plants that grow tall. Their leaves turn light into sugar. " * 4


def documents(texts: list[str], license: str | None = "MIT") -> pl.DataFrame:
    rows = [
        {"id": digest(t), "text": t, "origins": [{"source": "s", "index": i, "license": license}]}
        for i, t in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=DOCUMENT_COLUMNS).sort("id")


def run(context: Context, texts: list[str], method: DocumentMethod, **options: Any) -> pl.DataFrame:
    model = MODEL if method.uses_model else None
    return from_documents(
        *(context, documents(texts)),
        method=method,  # type: ignore[arg-type]
        model=model,
        **options,
    )


def kept(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("drop_reason").is_null() & pl.col("error").is_null())


def turns(rows: pl.DataFrame) -> list[list[str]]:
    return [[m["content"] for m in messages] for messages in kept(rows)["messages"]]


def reasons(rows: pl.DataFrame) -> Counter:
    return Counter(rows["drop_reason"].to_list())


def last_turns(context: Any) -> list[list[str]]:
    """The last turn of every request, call by call."""
    return [[request.prompt[-1][1] for request in call] for call in context.engine.calls]


# --- fanno


def fanno_model(text: str) -> Answer:
    """Screens out whales, writes another question each time, answers at another length."""
    if text.endswith("Answer yes or no."):
        unclear = "worth learning" in text and "hales" in text
        advertised = "advertisement?" in text or "private things" in text
        return ("no" if unclear or advertised else "yes"), "stop"
    number = int(digest(text)[:6], 16)
    if text.startswith("Paragraph:"):
        return f'"Why would anybody build house {number}?"\nIts plan is square.', "stop"
    return "word " * (number % 50 + 1), "stop"


def test_fanno_screens_seeds_and_thinks_differently(ctx: Context) -> None:
    texts = [f"{TREES} Tree {n}." for n in range(30)] + [WHALES]
    context = scripted(ctx, fanno_model)
    rows = run(context, texts, Fanno(num_seed_passages=2, passages_per_round=10, num_rows=200))
    counts = reasons(rows)
    assert counts["unclear_passage"] == 1
    seeds = rows.filter(pl.col("round") == 0)
    # Two passages in every combination of 4 demands, 12 kinds and 2 forms.
    assert Counter(zip(seeds["task_type"], seeds["level"], strict=True)) == {
        (kind, demand): 4 for kind in fanno.TASK_TYPES for demand in fanno.DIFFICULTIES
    }
    # 192 seeds and one round of ten are enough; the other passages say so.
    assert Counter(rows["round"]) == {0: 192, 1: 10, None: 19}
    assert counts["target_count_reached"] == 18
    calls = last_turns(context)
    assert [len(call) for call in calls] == [31, 30, 30, 192, 192, 10, 10]
    assert all("must not speak of a given text" in text for text in calls[3])
    for text in calls[5]:
        assert text.count("- Why would anybody build house") == 3
        assert 'does not begin like "Why would anybody build", ' in text
    question, answer = turns(rows)[0]
    assert question.startswith("Why would anybody")
    assert question.endswith("\n\nIts plan is square.")
    assert set(answer.split()) == {"word"}
    assert kept(rows)["journal"].list.len().to_list() == [5] * 202


def test_fanno_without_seeds_says_so(ctx: Context) -> None:
    def silent(text: str) -> Answer:
        return ("", "stop") if text.startswith("Paragraph:") else fanno_model(text)

    rows = run(
        scripted(ctx, silent), [f"{TREES} {n}" for n in range(5)], Fanno(num_seed_passages=2)
    )
    assert reasons(rows) == {"written_unparsed": 192, "no_seeds": 3}


class WithEncoder(ScriptedContext):
    """A context whose encoder tells whales, trees and houses from each other, and no more."""

    def open(self, model: Any) -> Any:  # type: ignore[override]
        return self if isinstance(model, Embedder) else self.engine

    def encode(self, texts: list[str]) -> np.ndarray:
        words = ("Whales", "Trees", "build house")
        return np.array([[w in text for w in words] for text in texts], np.float32)


def test_what_says_the_same_is_left_out(ctx: Context) -> None:
    texts = [WHALES, WHALES + "They sing.", TREES, "Stones are heavy things to carry. " * 7]
    context = WithEncoder(ctx.files, ctx.work, ctx.store)
    context.engine = scripted(ctx, lambda t: fanno_model(t.replace("hales", ""))).engine
    method = Fanno(num_seed_passages=1, per_passage=6)
    rows = run(context, texts, method, embedder=Embedder("none"))
    # One of the passages on whales; then of six seeds one, and nothing new after it.
    assert reasons(rows) == {None: 1, "same_community": 1 + 5 + 2}
    duplicates = rows.filter(pl.col("drop_reason") == "same_community")
    evidence = [json.loads(text) for text in duplicates["evidence"]]
    centers = [e["document"] for e in evidence if "document" in e]
    assert len(centers) == 1
    assert centers[0] in {digest(t) for t in texts[:2]}
    [kept_one] = turns(rows)
    assert {e["instruction"] for e in evidence if "instruction" in e} == {
        kept_one[0].split("\n")[0]
    }


def test_the_bandit_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 90, 200)
    shown = np.zeros(200, np.int64)

    class First:
        """Draws the best, so that the outcome can be worked out."""

        def sample(self, of: list[int], number: int) -> list[int]:
            assert len(of) == 10
            return of[:number]

    counts, total = [0] * 200, 200
    scaled = [(n - min(lengths)) / (max(lengths) - min(lengths)) for n in lengths.tolist()]
    for choice in fanno.bandit(lengths, shown, 60, 3, First()):  # type: ignore[arg-type]
        both = zip(scaled, counts, strict=True)
        value = [s + 3 * np.sqrt(2 * np.log(total) / (c + 1)) for s, c in both]
        assert choice == sorted(range(200), key=lambda i: (-value[i], i))[:3]
        for i in choice:
            counts[i] += 1
        total += 3
    assert shown.tolist() == counts
    assert fanno.bandit(np.array([4, 4]), np.zeros(2, np.int64), 1, 3, First2())[0] == [0, 1]


class First2:
    def sample(self, of: list[int], number: int) -> list[int]:
        return of[:number]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Explain why the sky is blue.", None),
        ("I know the context of a rename.", None),
        ("Based on the story, who won?", "banned_keyword"),
        ("Summarise these texts in a line.", "banned_keyword"),
        ("Name it?", "banned_keyword"),
        ("Sort this list", "too_short"),
        ("Sort it.", None),
        ("Erkläre, warum der Himmel blau ist.", "outside_ascii"),
        ("1 + 1 = 2 and 2 + 2 = ?", "few_letters"),
    ],
)
def test_fannos_rules(text: str, reason: str | None) -> None:
    rejection = fanno.unusable(text)
    assert (rejection[0] if rejection else None) == reason
    assert (fanno.unusable(text, ascii_only=False) is None) == (reason in (None, "outside_ascii"))


# --- bonito


def test_bonito_draws_types_and_shows_the_passage(ctx: Context) -> None:
    said = "**Instruction:** Is it so?\n**Answer:** Yes."
    context = scripted(ctx, lambda _: (said, "stop"))
    rows = run(context, [TREES, WHALES], Bonito(per_passage=16))
    assert Counter(rows["task_type"]) == dict.fromkeys(bonito.TASK_TYPES, 2)
    assert turns(rows)[0] in ([f"Is it so?\n\n{t.strip()}", "Yes."] for t in (TREES, WHALES))
    assert kept(rows)["input_start"].to_list() == [11, 11]
    [request, *_] = context.engine.calls[0]
    assert (request.decoding.temperature, request.decoding.top_p) == (0.5, 0.95)
    assert request.decoding.max_tokens == 256
    one = run(context, [TREES, WHALES], Bonito(task_types=("summarization",)))
    assert one["task_type"].to_list() == ["summarization"] * 2


def test_the_released_bonito_is_asked_in_its_form(ctx: Context) -> None:
    said = "{{context}}\nIs that {{ 7 * 7 }}?<|pipe|>\nYes."
    context = scripted(ctx, lambda _: (said, "stop"))
    rows = run(
        *(context, [TREES]),
        Bonito(task_model=True, task_types=("yes-no question answering",)),
    )
    prompt = context.engine.calls[0][0].prompt
    task = "yes-no question answering"
    assert prompt == f"<|tasktype|>\n{task}\n<|context|>\n{TREES.strip()}\n<|task|>\n"
    # What the model wrote is a value and no template.
    assert turns(rows) == [[f"{TREES.strip()}\nIs that {{{{ 7 * 7 }}}}?", "Yes."]]
    assert bonito.task_and_answer("a<|pipe|>b<|pipe|>c") is None
    assert bonito.task_and_answer("a<|pipe|> ") is None


# --- mammoth2

PAGE = (
    """Exercises. **Question 1:** What is 3 + 4?
*Answer:* It is 7, since 3 - (-4) = 7. Click here!

Q: Which animal breathes air?   A: The
whale does. """
    + "Some other text stands here. " * 8
)


def test_pairs_are_extracted_and_never_invented(ctx: Context) -> None:
    def reader(text: str) -> Answer:
        if text.startswith("This question"):
            return "Revised question: R?\nRevised answer: Because of S.", "stop"
        return (
            "Question: what is 3 + 4?\nAnswer: It is 7, since 3 - (-4) = 7.\n\n"
            "Question: Which animal breathes air?\nAnswer: The whale does\n\n"
            "Question: What is 3 + 4?\nAnswer: It is 7, since 3 + 4 = 7.\n\n"
            "Question: Which animal swims?\nAnswer: The whale does."
        ), "stop"

    context = scripted(ctx, reader)
    rows = run(context, [PAGE], Mammoth2())
    assert reasons(rows) == {None: 1, "not_in_document": 2, "duplicate": 1}
    sides = [json.loads(text).get("side") for text in rows["evidence"].drop_nulls()]
    assert sorted(filter(None, sides)) == ["answer", "question"]
    assert turns(rows) == [["R?", "Because of S."]]
    assert json.loads(kept(rows)["extra"][0])["answer"].startswith("It is 7")
    assert len(last_turns(context)[1]) == 2
    plain = run(scripted(ctx, reader), [PAGE], Mammoth2(refine=False))
    assert ["Which animal breathes air?", "The whale does"] in turns(plain)


def test_a_page_without_pairs_says_so(ctx: Context) -> None:
    assert reasons(run(scripted(ctx, lambda _: ("VOID.", "stop")), [PAGE], Mammoth2())) == {
        "no_pairs": 1
    }
    assert reasons(run(scripted(ctx, lambda _: ("Hm.", "stop")), [PAGE], Mammoth2())) == {
        "pairs_unparsed": 1
    }


def test_only_what_is_there_is_contained() -> None:
    for part in ("What is 3 + 4?", "the whale does", "3 - (-4) = 7", "它"):
        assert mammoth2.contained(part, PAGE + "它们"), part
    for part in ("", "...", "3 + (-4) = 7", "whale breathes", "hale does", "the WHALES does"):
        assert not mammoth2.contained(part, PAGE), part


# --- aitp


def test_questions_are_scored_before_they_are_answered(ctx: Context) -> None:
    def model(text: str) -> Answer:
        if "Judge this question" in text:
            quality = 3 if "vague" in text else 8
            score = {"quality": quality, "difficulty": 6, "needs_more": "this text" in text}
            return json.dumps(score), "stop"
        if text.startswith("Text:") and "questions or tasks" in text:
            return "1. What is a tree?\n2. Something vague\n3. What does this text say?", "stop"
        return "A tall plant.", "stop"

    context = scripted(ctx, model)
    rows = run(context, [TREES], Aitp(per_passage=3))
    assert reasons(rows) == {None: 1, "low_quality": 1, "needs_context": 1}
    assert turns(rows) == [["What is a tree?", "A tall plant."]]
    assert kept(rows)["level"].to_list() == ["6"]
    assert [len(call) for call in last_turns(context)] == [1, 3, 1]
    assert len(run(scripted(ctx, model), [TREES], Aitp())) == 2


def test_one_question_needs_no_list_and_may_go_without_a_score(ctx: Context) -> None:
    def model(text: str) -> Answer:
        assert "Judge this question" not in text
        return ("What is a tree?" if "questions or tasks" in text else "A tall plant."), "stop"

    rows = run(scripted(ctx, model), [TREES], Aitp(per_passage=1, min_quality=None))
    assert turns(rows) == [["What is a tree?", "A tall plant."]]
    assert kept(rows)["level"].to_list() == [None]
    rows = run(scripted(ctx, model), [TREES], Aitp(per_passage=2, min_quality=None))
    assert reasons(rows) == {"questions_unparsed": 1}


# --- instruction pre-training


def synthesizer(text: str) -> Answer:
    about = "trees" if "Trees" in text.split("<CON>")[-1] else "whales"
    if "<CON>" in text:
        return f"<QUE> What of {about}? <ANS> All. </END>\n\n<QUE> cut <ANS> off", "length"
    return f"Question: What of {about}?\nAnswer: All.\n\nQuestion: Why?\nAnswer: So.", "stop"


def test_rows_hold_several_texts_and_learn_from_the_earlier(ctx: Context) -> None:
    context = scripted(ctx, synthesizer)
    texts = [f"{TREES}{n}" for n in range(3)]
    rows = run(context, texts, InstructionPretraining())
    assert [len(call) for call in context.engine.calls] == [2, 1]
    later = context.engine.calls[1][0].prompt
    assert [role for role, _ in later] == ["user", "assistant", "user"]
    assert later[1][1] == "Question: What of trees?\nAnswer: All.\n\nQuestion: Why?\nAnswer: So."
    assert sorted(rows["parents"].list.len()) == [1, 2]
    longest = max(turns(rows), key=len)
    assert len(longest) == 8
    assert longest[0].endswith("\n\nWhat of trees?")
    assert longest[2] == "Why?"
    assert {p for row in rows["parents"] for p in row} == {digest(t) for t in texts}


def test_the_released_synthesizer_and_one_text(ctx: Context) -> None:
    context = scripted(ctx, synthesizer)
    rows = run(
        context, [TREES, WHALES], InstructionPretraining(task_model=True, output_format="text")
    )
    first, second = (context.engine.calls[n][0].prompt for n in (0, 1))
    assert first.startswith("<s> <CON> ")
    assert first.endswith(" </CON>\n\n")
    assert second.startswith(first + "<QUE> What of ")
    assert second.count("</s><s> <CON> ") == 1
    [[text]] = turns(rows)
    assert "cut" not in text
    assert text.count("Question: What of") == 2
    assert text.count("\nAnswer: All.") == 2
    assert text.index("Question") < max(text.index("Trees"), text.index("Whales"))


def test_what_cannot_be_read_ends_a_row(ctx: Context) -> None:
    def half(text: str) -> Answer:
        return ("Nothing.", "stop") if "Whales" in text else synthesizer(text)

    rows = run(scripted(ctx, half), [TREES, WHALES], InstructionPretraining())
    assert reasons(rows) == {None: 1, "pairs_unparsed": 1}
    context = scripted(ctx, synthesizer)
    context.engine.context_tokens = 450
    rows = run(context, [TREES, WHALES], InstructionPretraining())
    assert rows["parents"].list.len().to_list() == [1, 1]  # no room for both in one prompt


def test_joined_texts_name_all_licences(ctx: Context) -> None:
    frame = pl.concat([documents([TREES], "MIT"), documents([WHALES], "CC0-1.0")]).sort("id")
    options: dict[str, Any] = {"method": InstructionPretraining(), "model": MODEL}
    rows = from_documents(scripted(ctx, synthesizer), frame, **options)
    assert rows["origins"][0][0]["license"] == "CC0-1.0 AND MIT"
    frame = pl.concat([documents([TREES], None), documents([WHALES])]).sort("id")
    rows = from_documents(scripted(ctx, synthesizer), frame, **options)
    assert rows["origins"][0][0]["license"] is None


# --- agentinstruct


def agents(text: str) -> Answer:
    if "Rewrite this text as" in text:
        return "A poem of trees.", "stop"
    if "Suggest three changes" in text:
        return "1. Ask for reasons.\n2. Ask for two.\n3. Forbid the letter e.", "stop"
    if "suggested change is made" in text:
        return "The harder one.", "stop"
    if "Write one instruction" in text:
        return "The first one.", "stop"
    return "An answer.", "stop"


def test_flows_transform_ask_refine_and_answer(ctx: Context) -> None:
    context = scripted(ctx, agents)
    rows = run(context, [TREES], AgentInstruct(per_passage=len(SKILLS)))
    assert rows["skill"].sort().to_list() == sorted(SKILLS)
    for row in rows.iter_rows(named=True):
        skill, extra = SKILLS[row["skill"]], json.loads(row["extra"])
        assert row["task_type"] in skill.types
        assert extra["form"] in skill.forms
        plain = TREES.strip() if extra["form"] == "as it is" else "A poem of trees."
        question = f"The harder one.\n\n{plain}" if skill.includes_text else "The harder one."
        assert [m["content"] for m in row["messages"]] == [question, "An answer."]
        assert extra["first_instruction"] == "The first one."
        assert extra["suggestion"] in agents("Suggest three changes")[0]
    transformed = [json.loads(e)["form"] != "as it is" for e in rows["extra"]]
    assert [len(call) for call in last_turns(context)] == [sum(transformed), 9, 9, 9, 9]
    quick = scripted(ctx, agents)
    run(quick, [TREES], AgentInstruct(refine=False, skills=("estimation",)))
    assert [len(call) for call in last_turns(quick)] == [1, 1]


def test_skills_have_forms_and_types() -> None:
    assert len(SKILLS) >= 5
    for skill in SKILLS.values():
        assert skill.forms
        assert len(skill.types) >= 5
        assert all(skill.types.values())


# --- code

CODE = (
    '''import math


def area(radius):
    """The area of a circle."""
    return math.pi * radius ** 2

# A comment after a blank line begins nothing new.
def ring(outer, inner):
    return area(outer) - area(inner)


print(ring(2, 1))
'''
    + "x = 1\n" * 30
)


def test_problems_come_from_consecutive_lines(ctx: Context) -> None:
    seen: list[str] = []

    def magician(text: str) -> Answer:
        seen.append(text.split("problem:\n\n")[1].split("\n\nPresent")[0])
        number = len(seen)
        return f"[Problem Description]\nDo {number}.\n\n[Solution]\nDone {number}.", "stop"

    context = scripted(ctx, magician)
    rows = run(context, [CODE, TREES * 9], OssInstruct(per_passage=12))
    for text in seen:
        assert text in CODE or text in TREES * 9
        assert 1 <= len(text.splitlines()) <= 15
    counts = reasons(rows)
    assert counts["repeated_snippet"] >= 11  # all of one line, eleven times
    assert counts[None] == len(seen) == len({"".join(t.split()) for t in seen})
    request = context.engine.calls[0][0]
    assert request.prompt[0][0] == "system"
    assert request.decoding.temperature == 0
    assert {json.loads(e)["snippet"].strip("\n") for e in kept(rows)["extra"]} == {
        t.strip("\n") for t in seen
    }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("[Problem Description]\nA\n[Solution]\nB", "repeated_instruction"),
        ("## [solution]\nB\n## [Problem description]\nA", "problem_unparsed"),
        ("[Problem Description]\nA", "problem_unparsed"),
        (
            "[Problem Description]\nA\n```\nx = 1\n```\n[Solution]\n```py\nx  =  1\n```",
            "solution_copies_problem",
        ),
    ],
)
def test_problems_are_read_and_filtered(ctx: Context, answer: str, reason: str) -> None:
    rows = run(scripted(ctx, lambda _: (answer, "stop")), [CODE, CODE[::-1]], OssInstruct())
    assert reason in rows["drop_reason"].to_list()


def _with_tests(coder: Callable[[str], Answer], tests: str, text: str) -> Answer:
    return coder(text)[0].replace("assert f(-1) == 1", tests), "stop"


def test_concepts_become_tasks_with_tests(ctx: Context) -> None:
    def coder(text: str) -> Answer:
        if text.startswith("Code:"):
            return "closures, recursion, closures.\nThat is all.", "stop"
        if text.startswith("Write one programming task"):
            return "Write a function f in Python.", "stop"
        return (
            "Here:\n```python\nf = abs\n```\n\n[Tests]\n```python\nassert f(-1) == 1\n```",
            "stop",
        )

    context = scripted(ctx, coder)
    rows = run(context, [CODE], SelfCodeAlign(num_samples=3))
    assert len(rows) == 3
    assert reasons(rows)["duplicate"] == 2
    row = kept(rows).row(0, named=True)
    assert row["tests"] == "assert f(-1) == 1"
    assert [m["content"] for m in row["messages"]] == [
        "Write a function f in Python.",
        "Here:\n```python\nf = abs\n```",
    ]
    assert row["level"] in ("easy", "medium", "hard")
    assert row["task_type"] in selfcodealign.TASK_TYPES
    assert json.loads(row["extra"])["concepts"] == ["closures", "recursion"]
    assert "Concepts: closures, recursion" in last_turns(context)[1][0]
    assert [r.sample for r in context.engine.calls[2]] == [0, 1, 2]
    untested = scripted(ctx, lambda t: ("No tests.", "stop") if "[Tests]" in t else coder(t))
    assert reasons(run(untested, [CODE], SelfCodeAlign())) == {"answered_unparsed": 10}
    for tests in ("# assert f(-1) == 1", "def run():\n    assert f(-1) == 1", "f(-1)"):
        lax = scripted(ctx, partial(_with_tests, coder, tests))
        assert reasons(run(lax, [CODE], SelfCodeAlign())) == {"tests_assert_nothing": 10}, tests
    assert len(kept(run(lax, [CODE], SelfCodeAlign(language="Rust")))) == 1
    rows = kept(run(scripted(ctx, coder), [CODE], SelfCodeAlign(write_tests=False)))
    assert rows["tests"].to_list() == [None]


def test_functions_are_drawn_twice_as_often_as_classes_and_programs(ctx: Context) -> None:
    def coder(text: str) -> Answer:
        if text.startswith("Code:"):
            return "closures", "stop"
        return ("A task.", "stop") if text.startswith("Write one") else ("No tests.", "stop")

    codes = [f"{CODE}\nn = {n}" for n in range(300)]
    method = SelfCodeAlign(num_samples=1, write_tests=False)
    rows = run(scripted(ctx, coder), codes, method)
    drawn = Counter(rows["task_type"])
    weights = {name: weight / 4 for name, weight in selfcodealign.TASK_TYPES.items()}
    assert set(drawn) == set(weights)
    for name, weight in weights.items():
        assert abs(drawn[name] - 300 * weight) < 4 * (300 * weight) ** 0.5, drawn
    assert all(70 < n < 130 for n in Counter(rows["level"]).values())
    every = run(scripted(ctx, coder), codes[:1], replace(method, per_passage=9))
    assert len(set(zip(every["task_type"], every["level"], strict=True))) == 9


def discriminating(text: str) -> Answer:
    """Accepts what is about a circle."""
    if text.startswith("Check a training row"):
        fine = "circle" in text.split("\nCode:\n")[-1]
        number = text.split("\n\n")[1].count("\n")
        lines = [f"{n}. yes: fine" for n in range(1, number + 1)]
        return "\n".join(
            lines if fine else [*lines[:1], "2. no: it is no circle", *lines[2:]]
        ), "stop"
    circle = "circle" in text.split("\nCode:\n")[-1]
    what = "circle" if circle else "line"
    return (
        f"Task: a {what}\nInstruction: Write it in Python.\nInformation: <noinput>\n"
        f"Solution: def {what}(): pass"
    ), "stop"


def test_the_discriminator_teaches_the_generator(ctx: Context) -> None:
    texts = [f"{CODE}# {n} circle" if n % 2 else CODE.replace("circle", f"l{n}") for n in range(12)]
    context = scripted(ctx, discriminating)
    rows = run(
        *(context, texts),
        WaveCoder(passages_per_round=4, task_types=("generation",)),
        per_document=1,
    )
    counts = reasons(rows)
    assert counts["rule_broken"] > 1
    assert counts[None] + counts.get("duplicate", 0) > 1
    evidence = json.loads(rows.filter(pl.col("drop_reason") == "rule_broken")["evidence"][0])
    assert evidence["reason"] == "it is no circle"
    calls = last_turns(context)
    assert [len(call) for call in calls] == [4] * 6
    assert not any("were accepted" in t or "were refused" in t for t in calls[0])
    later = [t for call in calls[2::2] for t in call]
    assert all("were accepted" in t or "were refused" in t for t in later)
    assert any("- it is no circle" in t for t in later)
    assert turns(rows)[0] == ["Write it in Python.", "def circle(): pass"]
    assert rows["round"].drop_nulls().unique().sort().to_list() == [1, 2, 3]
    few = scripted(ctx, discriminating)
    stopped = run(
        *(few, texts),
        WaveCoder(passages_per_round=4, task_types=("generation",), num_rows=1),
    )
    assert 0 < reasons(stopped)["target_count_reached"] <= 8


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("generation", "Information: A. B. C.\nSolution: x", "information_too_long"),
        ("repair", "Information: A. B. C.\nSolution: x", "verdicts_unparsed"),
        ("generation", "Information: none\nSolution: <noinput>", "empty_part"),
        ("generation", "Solution: x", "written_unparsed"),
    ],
)
def test_rows_of_wavecoder_have_a_form(ctx: Context, kind: str, row: str, reason: str) -> None:
    def model(text: str) -> Answer:
        return f"Task: t\nInstruction: Write Python.\n{row}", "stop"

    rows = run(scripted(ctx, model), [CODE], WaveCoder(task_types=(kind,)))
    assert reasons(rows) == {reason: 1}


def test_every_kind_of_wavecoder_has_rules(ctx: Context) -> None:
    assert all(len(wavecoder.rules(name)) >= 4 for name in wavecoder.TASK_TYPES)


# --- what is common


@pytest.mark.proof
@pytest.mark.parametrize(
    "method", [Fanno(num_seed_passages=1, per_passage=1), OssInstruct()], ids=lambda m: m.name
)
def test_a_live_model_loses_nothing(
    ctx: Context, tinylm: LanguageModel, method: DocumentMethod
) -> None:
    rows = from_documents(
        *(ctx, documents(BOOK[:3])),
        method=method,  # type: ignore[arg-type]
        model=tinylm,
        max_passages=2,
        passage_characters=(200, 400),
        filter_passages=False,
        max_tokens=12,
    )
    ids = set(documents(BOOK[:3])["id"])
    assert {p for parents in rows["parents"] for p in parents} <= ids
    assert rows["journal"].list.len().max() > 0
    lost = rows["drop_reason"].is_not_null() | rows["error"].is_not_null()
    assert len(kept(rows)) == (~lost).sum()
    for row in kept(rows).iter_rows(named=True):
        assert row["messages"][-1]["role"] == "assistant"


def test_more_documents_do_not_disturb_the_choice(ctx: Context) -> None:
    texts = [f"{TREES} {n}" for n in range(12)]
    few, many = (
        run(ctx, some, SelfSupervised(task_types=("complete", "order")))
        for some in (texts[:6], texts)
    )
    assert set(kept(few)["id"]) <= set(kept(many)["id"]) | set(
        many.filter(pl.col("drop_reason") == "duplicate")["id"]
    )
    other = run(ctx, texts, SelfSupervised(task_types=("complete", "order")), seed=1)
    assert set(other["id"]) != set(many["id"])
    parted = run(ctx, texts, SelfSupervised(task_types=("order",)), max_passages=5)
    assert reasons(parted)["not_sampled"] == 7


def test_empty_documents_say_so(ctx: Context, caplog: pytest.LogCaptureFixture) -> None:
    rows = run(scripted(ctx, agents), ["", "short", "   \n" * 99], AgentInstruct())
    assert reasons(rows) == {"passage_too_short": 3}
    assert "from_documents: none of 3 drafts became a row" in caplog.text
    assert len(run(scripted(ctx, agents), [], Mammoth2())) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "bonito", "task_types": ["any"]}, "is an option of method"),
        (
            {"method": {"name": "bonito", "task_types": ["summarisation"]}},
            "method.task_types must be some of .*summarization.*, got \\['summarisation'\\]",
        ),
        ({"method": {"name": "bonito", "task_types": []}}, "method.task_types must be some of"),
        ({"method": {"name": "agentinstruct", "skills": ["sums"]}}, "method.skills must be"),
        ({"method": {"name": "mammoth2", "task_types": ["a"]}}, "has no option 'task_types'"),
        ({"method": {"name": "mammoth2", "per_passage": 2}}, "has no option 'per_passage'"),
        ({"method": {"name": "aitp", "task_model": True}}, "has no option 'task_model'"),
        ({"method": {"name": "aitp", "min_quality": 11}}, "method.min_quality must be"),
        ({"method": {"name": "bonito", "per_passage": 0}}, "method.per_passage must be at least 1"),
        ({"method": {"name": "fanno", "passages_per_round": 0}}, "passages_per_round must be"),
        ({"method": {"name": "oss-instruct", "snippet_lines": [0, 2]}}, "snippet_lines.* must be"),
        ({"method": {"name": "oss-instruct", "snippet_lines": [3, 2]}}, "must be increasing"),
        ({"method": "ossinstruct"}, "there is no 'ossinstruct'"),
        ({"passage_characters": [3, 2]}, "passage_characters must be increasing, got"),
        ({"dedup_thresholds": [0.7, 1.2]}, "must be between 0 and 1, got 1.2"),
        ({"num_rows": 3}, "'num_rows' is an option of method: fanno"),
    ],
)
def test_wrong_options_are_named_before_anything_runs(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    _, problems = bind(find("generate.from_documents"), options, {}, tmp_path)
    assert len(problems) == 1
    assert re.search(message, problems[0].what), problems[0].what


METHODS = ["fanno", "instruction-pretraining", "bonito", "agentinstruct", "mammoth2", "aitp"]
METHODS += ["self-supervised", "selfcodealign", "wavecoder", "oss-instruct"]
IDLE: dict[str, Any] = {"count": 1, "num_rows": 3, "passages_per_round": 3, "ascii_only": False}
IDLE |= {"num_seed_passages": 3, "num_shots": 2, "output_format": "text", "refine": False}
IDLE |= {"min_quality": 3, "num_samples": 2, "language": "C", "snippet_lines": [1, 2]}
IDLE |= {"task_model": True, "skills": ["coding"], "per_passage": 2}
OWNERS = {
    "num_rows": "fanno wavecoder", "passages_per_round": "fanno wavecoder",
    "ascii_only": "fanno", "num_seed_passages": "fanno", "task_model": "bonito "
    "instruction-pretraining", "num_shots": "fanno wavecoder instruction-pretraining",
    "output_format": "instruction-pretraining", "refine": "agentinstruct mammoth2",
    "min_quality": "aitp", "num_samples": "selfcodealign", "language": "selfcodealign",
    "snippet_lines": "oss-instruct", "skills": "agentinstruct", "count": "",
    "per_passage": " ".join(m for m in METHODS if m != "mammoth2"),
}  # fmt: skip


@pytest.mark.parametrize("option", IDLE)
@pytest.mark.parametrize("method", METHODS)
def test_an_option_without_effect_cannot_be_written(
    method: str, option: str, tmp_path: Path
) -> None:
    raw = {"method": {"name": method, option: IDLE[option]}}
    options, problems = bind(find("generate.from_documents"), raw, {}, tmp_path)
    if method in OWNERS[option].split():
        assert not problems
        value = IDLE[option]
        value = tuple(value) if isinstance(value, list) else value
        assert getattr(options.method, option) == value
    else:
        assert [p.path for p in problems] == [("method", option)]


EMBEDDER = Embedder("none")


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"model": None}, "model"),
        ({"method": SelfSupervised(), "model": None, "filter_passages": True}, "filter_passages"),
        ({"judge": MODEL}, "judge"),
        ({"method": Fanno(), "filter_passages": False, "judge": MODEL}, "judge"),
        ({"dedup_thresholds": (0.5, 0.5)}, "dedup_thresholds"),
    ],
)
def test_models_that_are_missing_or_idle_are_named(wrong: dict[str, Any], option: str) -> None:
    stage = find("generate.from_documents")
    assert stage.check is not None

    def check(**options: Any) -> None:
        defaults = {o.name: o.default for o in stage.options}
        stage.check(SimpleNamespace(**defaults | options))  # type: ignore[misc]

    good: dict[str, Any] = {"method": Bonito(), "model": MODEL}
    for options in (
        {},
        {"method": SelfSupervised(), "model": None},
        {"method": SelfSupervised(), "model": None, "filter_passages": True, "judge": MODEL},
        {"method": Aitp(), "judge": MODEL},
        {"filter_passages": True, "judge": MODEL},
        {"dedup_thresholds": (0.5, 0.5), "embedder": EMBEDDER},
    ):
        check(**good | options)
    with pytest.raises(OptionError) as caught:
        check(**good | wrong)
    assert caught.value.option == option
    assert caught.value.what.startswith(f"{option} must be ")
