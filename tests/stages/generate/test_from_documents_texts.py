"""Functions of `generate.from_documents` over texts and vectors, without a model."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from schemas.records import DOCUMENT_COLUMNS, digest
from stages.generate._parsing.sections import (
    answer_and_tests,
    one_section,
    problem_and_solution,
    sections,
)
from stages.generate.from_documents import SelfSupervised, from_documents
from stages.generate.from_documents.instruction_pretraining import synthesized_pairs
from stages.generate.from_documents.oss_instruct import snippet
from stages.generate.from_documents.passage_filters import communities
from stages.generate.from_documents.passages import cut, title
from stages.generate.from_documents.self_supervised import EXERCISES, material
from stages.generate.from_documents.selfcodealign import concepts
from stages.generate.from_documents.wavecoder import verdicts, written_row
from tests.support.rows import DATA, json_lines

BOOK = [row["text"] for row in json_lines(DATA / "samples/rust_book.jsonl.gz")]
GOLDEN = Path(__file__).parents[2] / "golden"
PAIR = ("Question", "Answer")


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Question: a\nAnswer: b", [("a", "b")]),
        ("Sure!\n**Question:** a\n\n**Answer:**\nb\nc", [("a", "b\nc")]),
        ("1. Question: a\n   Answer: b\n2. Question: c\n   Answer: d", [("a", "b"), ("c", "d")]),
        ("### Question 1:\na\n### Answer 1:\nb", [("a", "b")]),
        ("QUESTION: a\nanswer : b", [("a", "b")]),
        ("Question: a\nAnswer: b\nAnswer: c", [("a", "b\nAnswer: c")]),
        ("Answer: b\nQuestion: a", []),
        ("Question: a", []),
        ("Question: a\nAnswer:", []),
        ("Question: a\nQuestion: b\nAnswer: c", [("b", "c")]),
        ("", []),
        ("no labels", []),
    ],
)
def test_labelled_answers_are_read(text: str, pairs: list[tuple[str, str]]) -> None:
    assert [(g["Question"], g["Answer"]) for g in sections(text, PAIR)] == pairs
    one = one_section(text, PAIR)
    assert (one is not None) == (len(pairs) == 1)


@given(st.lists(st.tuples(*[st.text("ab \n1.?", min_size=1)] * 2), max_size=4))
def test_what_is_written_with_labels_is_read_again(pairs: list[tuple[str, str]]) -> None:
    expected = [(q.strip(), a.strip()) for q, a in pairs if q.strip() and a.strip()]
    text = "\n\n".join(f"Question: {q}\nAnswer: {a}" for q, a in expected)
    assert [(g["Question"], g["Answer"]) for g in sections(text, PAIR)] == expected


def test_raw_completions_without_labels_give_nothing() -> None:
    raw = json_lines(GOLDEN / "selfinstruct_ko_machine_generated.jsonl.gz")
    texts = [str(value) for row in raw for value in row.values()]
    assert len(texts) > 50
    for text in texts:
        assert sections(text, ("Revised question", "Revised answer")) == []
        assert problem_and_solution(text) is None
        assert answer_and_tests(text) is None
        assert synthesized_pairs(text) is None


def test_the_two_headings_of_oss_instruct() -> None:
    read = problem_and_solution
    assert read("x\n**[Problem Description]**\nA\nB\n[Solution] here:\nC") == ("A\nB", "C")
    for wrong in ("[Problem Description]\nA", "[Solution]\nA\n[Problem Description]\nB"):
        assert read(wrong) is None
    assert read("[Problem Description]\n[Solution]\nC") is None


def test_tests_stand_behind_their_heading() -> None:
    code = "```python\nassert f() == 1\n```"
    for mark in ("[Tests]", "### Tests", "**Tests:**", "Test:"):
        assert answer_and_tests(f"So.\n\n{mark}\n{code}") == ("So.", "assert f() == 1")
    assert answer_and_tests(f"So. {code}") is None
    assert answer_and_tests("So.\n[Tests]\nnone") is None
    assert answer_and_tests(f"[Tests]\n{code}") is None


def test_verdicts_and_rows_of_wavecoder() -> None:
    assert verdicts("1. Yes: a\n2) **no** - b\nOverall: no") == {1: (True, "a"), 2: (False, "b")}
    assert verdicts("fine") is None
    row = "Task: t\nInstruction: i\nInformation:\nSolution: s\n\nAnalysis:\n1. yes"
    assert written_row(row) == {"Task": "t", "Instruction": "i", "Information": "", "Solution": "s"}
    assert written_row(row.replace("Solution", "Result")) is None
    again = row.split("Analysis")[0]
    assert written_row(again + again) is None


def test_pairs_of_the_synthesizer() -> None:
    text = "<QUE> a <ANS> b </END>\n\n<QUE> A <ANS> c </END> <QUE> d <ANS> </END> <QUE> e <ANS> f"
    assert synthesized_pairs(text) == [("a", "b")]


def test_concepts_stand_between_commas() -> None:
    assert concepts("Concepts: a b, `c`, a b.\nMore") == ["a b", "c"]
    assert concepts(" , ") is None


@given(st.integers(0, 99), st.integers(1, 40))
def test_snippets_are_consecutive_lines(seed: int, height: int) -> None:
    code = "".join(f"line {n}\n" for n in range(height))
    lines = snippet(code, (1, 15), random.Random(seed))
    assert lines in code
    assert 1 <= lines.count("\n") <= 15


def test_comments_do_not_cut_code() -> None:
    code = "import os\n\n# Now the rest.\nx = 1"
    assert cut(code, 99) == ["import os", "# Now the rest.\nx = 1"]
    assert cut(code, 99, headings=False) == [code]


def test_titles_are_headings_or_names() -> None:
    assert title("a.md", "## The Heading ##\ntext") == "The Heading"
    assert title("A Book", "text") == "A Book"
    assert title("ch01-02.md", "text") is None
    assert title(None, "#no heading") is None


# --- communities


def brute_force(vectors: np.ndarray, threshold: float) -> list[int]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    neighbors = [
        [j for j in range(len(unit)) if unit[i] @ unit[j] >= threshold] for i in range(len(unit))
    ]
    centers = [-1] * len(unit)
    for i in sorted(range(len(unit)), key=lambda i: (-len(neighbors[i]), i)):
        if centers[i] < 0:
            for j in neighbors[i]:
                if centers[j] < 0:
                    centers[j] = i
    return centers


@given(st.integers(1, 30), st.integers(0, 10**6), st.sampled_from([0.3, 0.7, 0.9]))
def test_communities_are_those_of_brute_force(size: int, seed: int, threshold: float) -> None:
    # Whole numbers in few dimensions: many equal vectors, no cosine near a threshold.
    vectors = np.random.default_rng(seed).integers(-1, 2, (size, 3)).astype(np.float32)
    vectors[~vectors.any(axis=1)] = 1
    assert communities(vectors, threshold).tolist() == brute_force(vectors, threshold)


@pytest.mark.proof
def test_communities_are_those_of_sentence_transformers() -> None:
    from sentence_transformers import util

    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(40, 16)), 6, axis=0) + rng.normal(size=(240, 16)) / 2
    vectors = vectors.astype(np.float32)
    centers = communities(vectors, 0.7)
    expected = util.community_detection(vectors, threshold=0.7, min_community_size=1)
    assert {frozenset(c) for c in expected} == {
        frozenset(np.flatnonzero(centers == center).tolist()) for center in set(centers.tolist())
    }
    assert {c[0] for c in expected} == set(centers.tolist())


def test_nobody_is_alone_by_an_empty_vector() -> None:
    assert communities(np.zeros((3, 4), np.float32), 0.7).tolist() == [0, 1, 2]
    assert communities(np.zeros((0, 4), np.float32), 0.7).tolist() == []


# --- exercises

PASSAGE = """# Ships of 1911

The ship sailed from Genoa to Lisbon in 14 days. It carried 300 people and `cargo`.

```
let x = 5;
```

- A list, which is no prose and has 99 things in it.

In Lisbon the captain, Anna Berg, left after 20 days. Nobody saw Carlo Rossi again.
"""


def exercise(name: str, seed: int = 0) -> tuple[str, str, str]:
    written = EXERCISES[name].write(material(PASSAGE, "Ships of 1911"), random.Random(seed))
    assert written is not None
    return written


def test_material_is_prose_and_what_it_names() -> None:
    source = material(PASSAGE, None)
    assert len(source.sentences) == 4
    assert source.body.startswith("The ship")
    assert [t for k, t in source.terms if k == "number"] == ["14", "300", "20"]
    names = [t for k, t in source.terms if k == "name"]
    assert names == ["Genoa", "Lisbon", "Anna Berg", "Carlo Rossi"]
    assert ("code", "`cargo`") in source.terms


def test_exercises_are_answered_by_the_passage() -> None:
    sentences = material(PASSAGE, None).sentences
    for seed in range(20):
        _, shown, answer = exercise("fill_in", seed)
        assert shown.replace("____", answer) in sentences
        _, shown, answer = exercise("choice", seed)
        gap, *options = shown.split("\n")
        assert answer in options
        fillers = [option.split(". ", 1)[1] for option in options]
        assert len(set(fillers)) == len(fillers) >= 3
        assert gap.replace("____", answer.split(". ", 1)[1]) in sentences
        _, shown, answer = exercise("complete", seed)
        assert f"{shown} {answer}" in sentences
        _, shown, answer = exercise("next_sentence", seed)
        assert f"{shown} {answer}" in " ".join(sentences)
        _, shown, answer = exercise("order", seed)
        numbered = dict(re.findall(r"^(\d)\. (.*)$", shown, re.MULTILINE))
        assert " ".join(numbered[n] for n in answer.split(", ")) == " ".join(sentences)
        assert answer != "1, 2, 3, 4"


def test_false_statements_are_false_and_corrected() -> None:
    sentences = material(PASSAGE, None).sentences
    said = Counter()
    for seed in range(60):
        asked, shown, answer = exercise("true_or_false", seed)
        statement = asked.split("Statement: ")[1]
        said[answer.split(".")[0]] += 1
        assert shown.startswith("The ship")
        assert (statement in sentences) == (answer == "True")
        if answer != "True":
            right, wrong = re.match(r"False\. It is (.*?), not (.*?): ", answer).groups()  # type: ignore[union-attr]
            assert right != wrong
            assert wrong in statement
            assert answer.split(": ", 1)[1] in sentences
    assert 15 < said["True"] < 45


def test_titles_and_keywords() -> None:
    assert exercise("title")[2] == "Ships of 1911"
    assert exercise("teach") == ('Tell me about "Ships of 1911".', "", material(PASSAGE, None).body)
    assert "Genoa, Lisbon, 14" in exercise("flashcards")[0]
    assert exercise("key_terms")[2].startswith("- Genoa\n- Lisbon\n- 14\n- 300\n- `cargo`")
    assert exercise("recite")[2].startswith(exercise("recite")[1])


@pytest.mark.parametrize(
    "text", ["", "# Only a heading", "Short.", "```\ncode here\n```", "- a\n- b"]
)
def test_without_material_there_is_no_exercise(text: str) -> None:
    for name, exercise_type in EXERCISES.items():
        assert exercise_type.write(material(text, None), random.Random(0)) is None, name


def book(texts: list[str]) -> pl.DataFrame:
    rows = [
        {"id": digest(t), "text": t, "origins": [{"source": "b", "index": i, "license": "MIT"}]}
        for i, t in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=DOCUMENT_COLUMNS).sort("id")


def test_a_real_book_gives_all_exercises_without_a_model(ctx: Context) -> None:
    rows = from_documents(ctx, book(BOOK[8:20]), method=SelfSupervised(), max_passages=60)
    kept = rows.filter(pl.col("drop_reason").is_null())
    assert set(kept["task_type"]) == set(EXERCISES)
    assert set(kept["skill"]) == {"memorise", "comprehend", "reflect"}
    exercises = rows.filter(pl.col("task_type").is_not_null())
    assert Counter(exercises["task_type"]) == dict.fromkeys(EXERCISES, 60)
    assert set(exercises["drop_reason"].drop_nulls()) <= {"no_material", "duplicate"}
    assert ctx.counters["requests"] == 0
    shuffled = from_documents(
        *(ctx, book(BOOK[8:20][::-1])), method=SelfSupervised(), max_passages=60
    )
    assert shuffled.sort("id", "task_type").equals(rows.sort("id", "task_type"))
