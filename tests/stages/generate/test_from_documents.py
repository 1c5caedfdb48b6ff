"""Documents become rows: each method asks its steps in its order, and every line says why."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Embedder, LanguageModel
from schemas.records import DOCUMENT_COLUMNS, digest
from stages.generate.from_documents import (
    WAYS,
    _check,
    bonito,
    fanno,
    from_documents,
    mammoth2,
)
from stages.generate.from_documents.agentinstruct_skills import SKILLS
from tests.support.options import options_of
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


def run(context: Context, texts: list[str], method: str, **options: Any) -> pl.DataFrame:
    model = None if method == "self-supervised" else MODEL
    return from_documents(context, documents(texts), method=method, model=model, **options)


def kept(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("drop_reason").is_null() & pl.col("error").is_null())


def turns(rows: pl.DataFrame) -> list[list[str]]:
    return [[m["content"] for m in messages] for messages in kept(rows)["messages"]]


def reasons(rows: pl.DataFrame) -> Counter:
    return Counter(rows["drop_reason"].to_list())


def asked(context: Any) -> list[list[str]]:
    """The last turn of every request, call by call."""
    return [[request.prompt[-1][1] for request in call] for call in context.engine.asked]


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
    made = run(context, texts, "fanno", seed_passages=2, window=10, count=200)
    counts = reasons(made)
    assert counts["unclear_passage"] == 1
    seeds = made.filter(pl.col("round") == 0)
    # Two passages in every combination of 4 demands, 12 kinds and 2 forms.
    assert Counter(zip(seeds["task_type"], seeds["level"], strict=True)) == {
        (kind, demand): 4 for kind in fanno.KINDS for demand in fanno.DEMANDS
    }
    # 192 seeds and one round of ten are enough; the other passages say so.
    assert Counter(made["round"]) == {0: 192, 1: 10, None: 19}
    assert counts["enough_instructions"] == 18
    calls = asked(context)
    assert [len(call) for call in calls] == [31, 30, 30, 192, 192, 10, 10]
    assert all("must not speak of a given text" in text for text in calls[3])
    for text in calls[5]:
        assert text.count("- Why would anybody build house") == 3
        assert 'does not begin like "Why would anybody build", ' in text
    question, answer = turns(made)[0]
    assert question.startswith("Why would anybody")
    assert question.endswith("\n\nIts plan is square.")
    assert set(answer.split()) == {"word"}
    assert kept(made)["journal"].list.len().to_list() == [5] * 202


def test_fanno_without_seeds_says_so(ctx: Context) -> None:
    def silent(text: str) -> Answer:
        return ("", "stop") if text.startswith("Paragraph:") else fanno_model(text)

    made = run(scripted(ctx, silent), [f"{TREES} {n}" for n in range(5)], "fanno", seed_passages=2)
    assert reasons(made) == {"written_unparsed": 192, "no_seeds": 3}


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
    options: dict[str, Any] = {"embedder": Embedder("none"), "seed_passages": 1}
    made = run(context, texts, "fanno", **options, per_passage=6)
    # One of the passages on whales; then of six seeds one, and nothing new after it.
    assert reasons(made) == {None: 1, "same_community": 1 + 5 + 2}
    near = made.filter(pl.col("drop_reason") == "same_community")
    told = [json.loads(text) for text in near["evidence"]]
    twins = [e["document"] for e in told if "document" in e]
    assert len(twins) == 1
    assert twins[0] in {digest(t) for t in texts[:2]}
    [kept_one] = turns(made)
    assert {e["instruction"] for e in told if "instruction" in e} == {kept_one[0].split("\n")[0]}


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
    for taken in fanno.bandit(lengths, shown, 60, 3, First()):  # type: ignore[arg-type]
        both = zip(scaled, counts, strict=True)
        value = [s + 3 * np.sqrt(2 * np.log(total) / (c + 1)) for s, c in both]
        assert taken == sorted(range(200), key=lambda i: (-value[i], i))[:3]
        for i in taken:
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
        ("Based on the story, who won?", "keyword"),
        ("Summarise these texts in a line.", "keyword"),
        ("Name it?", "keyword"),
        ("Sort this list", "too_short"),
        ("Sort it.", None),
        ("Erkläre, warum der Himmel blau ist.", "outside_ascii"),
        ("1 + 1 = 2 and 2 + 2 = ?", "few_letters"),
    ],
)
def test_fannos_rules(text: str, reason: str | None) -> None:
    found = fanno.unusable(text)
    assert (found[0] if found else None) == reason
    assert (fanno.unusable(text, ascii_only=False) is None) == (reason in (None, "outside_ascii"))


# --- bonito


def test_bonito_draws_types_and_shows_the_passage(ctx: Context) -> None:
    said = "**Instruction:** Is it so?\n**Answer:** Yes."
    context = scripted(ctx, lambda _: (said, "stop"))
    made = run(context, [TREES, WHALES], "bonito", per_passage=16)
    assert Counter(made["task_type"]) == dict.fromkeys(bonito.TASKS, 2)
    assert turns(made)[0] in ([f"Is it so?\n\n{t.strip()}", "Yes."] for t in (TREES, WHALES))
    assert kept(made)["input_start"].to_list() == [11, 11]
    [request, *_] = context.engine.asked[0]
    assert (request.decoding.temperature, request.decoding.top_p) == (0.5, 0.95)
    assert request.decoding.max_tokens == 256
    one = run(context, [TREES, WHALES], "bonito", task_types=("summarization",))
    assert one["task_type"].to_list() == ["summarization"] * 2


def test_the_released_bonito_is_asked_in_its_form(ctx: Context) -> None:
    said = "{{context}}\nIs that {{ 7 * 7 }}?<|pipe|>\nYes."
    context = scripted(ctx, lambda _: (said, "stop"))
    made = run(context, [TREES], "bonito", tuned=True, task_types=("yes-no question answering",))
    prompt = context.engine.asked[0][0].prompt
    task = "yes-no question answering"
    assert prompt == f"<|tasktype|>\n{task}\n<|context|>\n{TREES.strip()}\n<|task|>\n"
    # What the model wrote is a value and no template.
    assert turns(made) == [[f"{TREES.strip()}\nIs that {{{{ 7 * 7 }}}}?", "Yes."]]
    assert bonito.piped("a<|pipe|>b<|pipe|>c") is None
    assert bonito.piped("a<|pipe|> ") is None


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
    made = run(context, [PAGE], "mammoth2")
    assert reasons(made) == {None: 1, "not_in_document": 2, "duplicate": 1}
    sides = [json.loads(text).get("side") for text in made["evidence"].drop_nulls()]
    assert sorted(filter(None, sides)) == ["answer", "question"]
    assert turns(made) == [["R?", "Because of S."]]
    assert json.loads(kept(made)["extra"][0])["answer"].startswith("It is 7")
    assert len(asked(context)[1]) == 2
    plain = run(scripted(ctx, reader), [PAGE], "mammoth2", refine=False)
    assert ["Which animal breathes air?", "The whale does"] in turns(plain)


def test_a_page_without_pairs_says_so(ctx: Context) -> None:
    assert reasons(run(scripted(ctx, lambda _: ("VOID.", "stop")), [PAGE], "mammoth2")) == {
        "no_pairs": 1
    }
    assert reasons(run(scripted(ctx, lambda _: ("Hm.", "stop")), [PAGE], "mammoth2")) == {
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
    made = run(context, [TREES], "aitp", per_passage=3)
    assert reasons(made) == {None: 1, "low_quality": 1, "needs_context": 1}
    assert turns(made) == [["What is a tree?", "A tall plant."]]
    assert kept(made)["level"].to_list() == ["6"]
    assert [len(call) for call in asked(context)] == [1, 3, 1]
    assert len(run(scripted(ctx, model), [TREES], "aitp")) == 2


# --- instruction pre-training


def synthesizer(text: str) -> Answer:
    about = "trees" if "Trees" in text.split("<CON>")[-1] else "whales"
    if "<CON>" in text:
        return f"<QUE> What of {about}? <ANS> All. </END>\n\n<QUE> cut <ANS> off", "length"
    return f"Question: What of {about}?\nAnswer: All.\n\nQuestion: Why?\nAnswer: So.", "stop"


def test_rows_hold_several_texts_and_learn_from_the_earlier(ctx: Context) -> None:
    context = scripted(ctx, synthesizer)
    texts = [f"{TREES}{n}" for n in range(3)]
    made = run(context, texts, "instruction-pretraining")
    assert [len(call) for call in context.engine.asked] == [2, 1]
    later = context.engine.asked[1][0].prompt
    assert [role for role, _ in later] == ["user", "assistant", "user"]
    assert later[1][1] == "Question: What of trees?\nAnswer: All.\n\nQuestion: Why?\nAnswer: So."
    assert sorted(made["parents"].list.len()) == [1, 2]
    longest = max(turns(made), key=len)
    assert len(longest) == 8
    assert longest[0].endswith("\n\nWhat of trees?")
    assert longest[2] == "Why?"
    assert {p for row in made["parents"] for p in row} == {digest(t) for t in texts}


def test_the_released_synthesizer_and_one_text(ctx: Context) -> None:
    context = scripted(ctx, synthesizer)
    made = run(context, [TREES, WHALES], "instruction-pretraining", tuned=True, form="text")
    first, second = (context.engine.asked[n][0].prompt for n in (0, 1))
    assert first.startswith("<s> <CON> ")
    assert first.endswith(" </CON>\n\n")
    assert second.startswith(first + "<QUE> What of ")
    assert second.count("</s><s> <CON> ") == 1
    [[text]] = turns(made)
    assert "cut" not in text
    assert text.count("Question: What of") == 2
    assert text.count("\nAnswer: All.") == 2
    assert text.index("Question") < max(text.index("Trees"), text.index("Whales"))


def test_what_cannot_be_read_ends_a_row(ctx: Context) -> None:
    def half(text: str) -> Answer:
        return ("Nothing.", "stop") if "Whales" in text else synthesizer(text)

    made = run(scripted(ctx, half), [TREES, WHALES], "instruction-pretraining")
    assert reasons(made) == {None: 1, "pairs_unparsed": 1}
    context = scripted(ctx, synthesizer)
    context.engine.context_tokens = 450
    made = run(context, [TREES, WHALES], "instruction-pretraining")
    assert made["parents"].list.len().to_list() == [1, 1]  # no room for both in one prompt


def test_joined_texts_name_all_licences(ctx: Context) -> None:
    frame = pl.concat([documents([TREES], "MIT"), documents([WHALES], "CC0-1.0")]).sort("id")
    way: dict[str, Any] = {"method": "instruction-pretraining", "model": MODEL}
    made = from_documents(scripted(ctx, synthesizer), frame, **way)
    assert made["origins"][0][0]["license"] == "CC0-1.0 AND MIT"
    frame = pl.concat([documents([TREES], None), documents([WHALES])]).sort("id")
    made = from_documents(scripted(ctx, synthesizer), frame, **way)
    assert made["origins"][0][0]["license"] is None


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
    made = run(context, [TREES], "agentinstruct", per_passage=len(SKILLS))
    assert made["skill"].sort().to_list() == sorted(SKILLS)
    for row in made.iter_rows(named=True):
        skill, extra = SKILLS[row["skill"]], json.loads(row["extra"])
        assert row["task_type"] in skill.types
        assert extra["form"] in skill.forms
        plain = TREES.strip() if extra["form"] == "as it is" else "A poem of trees."
        question = f"The harder one.\n\n{plain}" if skill.shown else "The harder one."
        assert [m["content"] for m in row["messages"]] == [question, "An answer."]
        assert extra["first_instruction"] == "The first one."
        assert extra["suggestion"] in agents("Suggest three changes")[0]
    transformed = [json.loads(e)["form"] != "as it is" for e in made["extra"]]
    assert [len(call) for call in asked(context)] == [sum(transformed), 9, 9, 9, 9]
    quick = scripted(ctx, agents)
    run(quick, [TREES], "agentinstruct", refine=False, task_types=("estimation",))
    assert [len(call) for call in asked(quick)] == [1, 1]


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
    made = run(context, [CODE, TREES * 9], "oss-instruct", per_passage=12)
    for text in seen:
        assert text in CODE or text in TREES * 9
        assert 1 <= len(text.splitlines()) <= 15
    counts = reasons(made)
    assert counts["repeated_snippet"] >= 11  # all of one line, eleven times
    assert counts[None] == len(seen) == len({"".join(t.split()) for t in seen})
    request = context.engine.asked[0][0]
    assert request.prompt[0][0] == "system"
    assert request.decoding.temperature == 0
    assert {json.loads(e)["snippet"].strip("\n") for e in kept(made)["extra"]} == {
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
    made = run(scripted(ctx, lambda _: (answer, "stop")), [CODE, CODE[::-1]], "oss-instruct")
    assert reason in made["drop_reason"].to_list()


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
    made = run(context, [CODE], "selfcodealign", samples=3)
    assert len(made) == 3
    assert reasons(made)["duplicate"] == 2
    row = kept(made).row(0, named=True)
    assert row["tests"] == "assert f(-1) == 1"
    assert [m["content"] for m in row["messages"]] == [
        "Write a function f in Python.",
        "Here:\n```python\nf = abs\n```",
    ]
    assert row["level"] in ("medium", "hard")
    assert row["task_type"] in WAYS["selfcodealign"].task_types
    assert json.loads(row["extra"])["concepts"] == ["closures", "recursion"]
    assert "Concepts: closures, recursion" in asked(context)[1][0]
    assert [r.sample for r in context.engine.asked[2]] == [0, 1, 2]
    untested = scripted(ctx, lambda t: ("No tests.", "stop") if "[Tests]" in t else coder(t))
    assert reasons(run(untested, [CODE], "selfcodealign")) == {"answered_unparsed": 10}


def discriminating(text: str) -> Answer:
    """Accepts what is about a circle."""
    if text.startswith("Check a training row"):
        told = text.split("\nCode:\n")[-1]
        fine = "circle" in told
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
    made = run(*(context, texts, "wavecoder"), window=4, task_types=("generation",), per_document=1)
    counts = reasons(made)
    assert counts["rule_broken"] > 1
    assert counts[None] + counts.get("duplicate", 0) > 1
    told = json.loads(made.filter(pl.col("drop_reason") == "rule_broken")["evidence"][0])
    assert told["reason"] == "it is no circle"
    calls = asked(context)
    assert [len(call) for call in calls] == [4] * 6
    assert not any("were accepted" in t or "were refused" in t for t in calls[0])
    later = [t for call in calls[2::2] for t in call]
    assert all("were accepted" in t or "were refused" in t for t in later)
    assert any("- it is no circle" in t for t in later)
    assert turns(made)[0] == ["Write it in Python.", "def circle(): pass"]
    assert made["round"].drop_nulls().unique().sort().to_list() == [1, 2, 3]
    few = scripted(ctx, discriminating)
    stopped = run(few, texts, "wavecoder", window=4, task_types=("generation",), count=1)
    assert 0 < reasons(stopped)["enough_rows"] <= 8


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

    made = run(scripted(ctx, model), [CODE], "wavecoder", task_types=(kind,))
    assert reasons(made) == {reason: 1}


def test_every_kind_of_wavecoder_has_rules(ctx: Context) -> None:
    from stages.generate.from_documents.wavecoder import KINDS, rules

    assert all(len(rules(kind)) >= 4 for kind in KINDS)


# --- what is common


@pytest.mark.parametrize("method", ["fanno", "oss-instruct"])
def test_a_live_model_loses_nothing(ctx: Context, tinylm: LanguageModel, method: str) -> None:
    made = from_documents(
        *(ctx, documents(BOOK[:3])),
        method=method,
        model=tinylm,
        max_passages=2,
        passage_characters=(200, 400),
        per_passage=1,
        seed_passages=1,
        screen=False,
        max_tokens=12,
    )
    ids = set(documents(BOOK[:3])["id"])
    assert {p for parents in made["parents"] for p in parents} <= ids
    assert made["journal"].list.len().max() > 0
    told = made["drop_reason"].is_not_null() | made["error"].is_not_null()
    assert len(kept(made)) == (~told).sum()
    for row in kept(made).iter_rows(named=True):
        assert row["messages"][-1]["role"] == "assistant"


def test_more_documents_do_not_disturb_the_choice(ctx: Context) -> None:
    texts = [f"{TREES} {n}" for n in range(12)]
    few, many = (
        run(ctx, given, "self-supervised", task_types=("complete", "order"))
        for given in (texts[:6], texts)
    )
    assert set(kept(few)["id"]) <= set(kept(many)["id"]) | set(
        many.filter(pl.col("drop_reason") == "duplicate")["id"]
    )
    other = run(ctx, texts, "self-supervised", task_types=("complete", "order"), seed=1)
    assert set(other["id"]) != set(many["id"])
    parted = run(ctx, texts, "self-supervised", max_passages=5, task_types=("order",))
    assert reasons(parted)["not_sampled"] == 7


def test_empty_documents_say_so(ctx: Context, caplog: pytest.LogCaptureFixture) -> None:
    made = run(scripted(ctx, agents), ["", "short", "   \n" * 99], "agentinstruct")
    assert reasons(made) == {"passage_too_short": 3}
    assert "from_documents: none of 3 drafts became a row" in caplog.text
    assert len(run(scripted(ctx, agents), [], "mammoth2")) == 0


GOOD: dict[str, Any] = {"method": "bonito", "model": MODEL}


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": None},
        {"method": "self-supervised", "model": None, "screen": True},
        {"method": "aitp", "tuned": True},
        {"task_types": ("summarisation",)},
        {"method": "mammoth2", "task_types": ("any",)},
        {"passage_characters": (3, 2)},
        {"snippet_lines": (0, 2)},
        {"per_passage": 0},
        {"window": 0},
    ],
)
def test_mistakes_are_told_before_anything_runs(wrong: dict[str, Any]) -> None:
    _check(options_of(from_documents, **GOOD))
    _check(options_of(from_documents, method="self-supervised"))
    with pytest.raises(UserError):
        _check(options_of(from_documents, **GOOD | wrong))
