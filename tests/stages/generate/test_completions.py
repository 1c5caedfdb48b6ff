"""Forty completions and more for each parser, in the forms that chat models write.

They follow the documentation of providers and the habits of models, and were written before
the parsers were read: each is read rightly or called unreadable, and none that is unreadable
gives a value.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import Request
from pipeline.models.ask import is_refusal
from pipeline.models.structured_output import (
    Unreadable,
    choice_parser,
    json_parser,
)
from schemas.refusals import REFUSAL
from stages._llm.lists import listed_items
from stages._llm.preambles import instruction_text, without_preamble
from stages._llm.ratings import first_line_grade, rating
from stages.generate._parsing.lists import field_tasks, numbered_items
from stages.generate._parsing.sections import (
    PAIR,
    answer_and_tests,
    code_blocks,
    labelled_lines,
    problem_and_solution,
    sections,
)
from stages.generate.from_documents.wavecoder import verdicts
from stages.generate.system_prompt.profiles import parse_profile
from stages.generate.taxonomy.metadata import use_case_and_skills
from tests.conftest import ROOT
from tests.support.rows import json_lines

COMPLETIONS = ROOT / "tests/golden/completions"

SCHEMA = json.dumps(
    {
        "type": "object",
        "required": ["name", "age"],
        "properties": {field: {"type": "string", "minLength": 1} for field in ("name", "age")},
    }
)


def read_or_none(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except Unreadable:
        return None


def person(text: str) -> dict[str, str] | None:
    value = read_or_none(json_parser(SCHEMA), text)
    return value and {field: value[field] for field in ("name", "age")}


def fields(text: str) -> list[list[str] | None]:
    tasks = field_tasks(text, ("instruction", "input", "output"))
    return [values and list(values.values()) for _, values in tasks]


def met(text: str) -> dict[str, bool] | None:
    by_number = verdicts(text)
    return by_number and {str(number): is_met for number, (is_met, _) in by_number.items()}


def labelled(text: str) -> list[Any] | None:
    parts = use_case_and_skills(text)
    return parts and [*parts]


PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "lists": ("items", listed_items),
    "ratings": ("score", rating),
    "first_lines": ("score", first_line_grade),
    "yes_no": ("label", lambda text: read_or_none(choice_parser(["Yes", "No"]), text)),
    "preambles": ("rest", lambda text: instruction_text(text) or ""),
    "sections": ("pairs", lambda text: [[*p.values()] for p in sections(text, PAIR)] or None),
    "fields": ("tasks", fields),
    "code": ("blocks", lambda text: [b.rstrip() for b in code_blocks(text) if b.strip()]),
    "objects": ("object", person),
    "choices": ("choice", lambda t: read_or_none(choice_parser(["A", "B", "tie"]), t)),
    "verdicts": ("met", met),
    "labelled": ("parts", labelled),
    "refusals": ("refuses", lambda text: pl.Series([text]).str.contains(REFUSAL).item()),
}


def completions() -> Iterator[Any]:
    for name, (expected, _) in PARSERS.items():
        for number, row in enumerate(json_lines(COMPLETIONS / f"{name}.jsonl")):
            yield pytest.param(name, row["text"], row[expected], id=f"{name}-{number}")


def test_every_parser_has_forty_completions() -> None:
    sizes = {path.stem: len(json_lines(path)) for path in COMPLETIONS.glob("*.jsonl")}
    assert sizes.keys() == PARSERS.keys()
    assert min(sizes.values()) >= 40


@pytest.mark.parametrize(("name", "text", "expected"), completions())
def test_a_completion_is_read_rightly(name: str, text: str, expected: Any) -> None:
    assert PARSERS[name][1](text) == expected


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=str(i)) for i, r in
            enumerate(json_lines(COMPLETIONS / "ratings.jsonl"))]
)  # fmt: skip
def test_the_first_rating_anywhere_is_on_the_scale_too(row: dict[str, Any]) -> None:
    """It may be an earlier one than that which counts, but no half and none of ten."""
    lax = rating(row["text"], strict=False)
    assert lax in (None, row["score"]) or row["form"] == "corrected"


@pytest.mark.parametrize("row", json_lines(COMPLETIONS / "preambles.jsonl"))
def test_an_answer_loses_its_announcement_and_nothing_else(row: dict[str, Any]) -> None:
    text, rest = row["text"], without_preamble(row["text"])
    assert text.strip().endswith(rest)
    if row["rest"] == text:
        assert rest == text
    if rest not in (text, ""):
        assert text.index(":" if ":" in text else "：") < len(text) - len(rest)


@pytest.mark.parametrize("row", json_lines(COMPLETIONS / "refusals.jsonl"))
def test_a_fallback_is_asked_for_the_refusals_that_rows_are_tagged_by(row: dict[str, Any]) -> None:
    assert is_refusal(Request("?"), row["text"]) == row["refuses"]


def test_answers_that_begin_like_a_preamble_stay() -> None:
    for answer in (
        "Sure, I can meet on Monday: see you there.",
        "Here are the steps:\n\n1. Boil water.",
        "Here is a poem:\n\nRain, rain.",
        "This is why: light is scattered.",
        "Of course not. Here is where it gets hard: nobody knows.",
        "Question: who asked? Answer: nobody did.",
    ):
        assert without_preamble(answer) == answer


MARKS = (
    *("{n}. {t}", "{n}) {t}", "**{n}.** {t}", "**{n}. {t}**", "### {n}. {t}", "{n}、{t}"),
    *("Task {n}: {t}", "**Task {n}:** {t}", "({n}) {t}", "{n}\\. {t}", "- {t}", "* {t}", "• {t}"),
)
WORDS = st.lists(
    st.sampled_from(["rain", "snow", "wind", "hail", "sun", "fog"]), min_size=1, max_size=5
)
TEXTS = WORDS.map(" ".join)
ITEMS = st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=2)), min_size=2, max_size=5)


@given(
    ITEMS,
    st.sampled_from(MARKS),
    st.sampled_from(["\n", "\n\n"]),
    st.sampled_from(["", "Sure! Here they are:\n\n"]),
    st.sampled_from(["", "\n\nLet me know if you need more!"]),
    st.integers(1, 30),
)
def test_items_come_back_whole_whatever_their_mark(
    items: list[tuple[str, list[str]]], mark: str, gap: str, before: str, after: str, first: int
) -> None:
    texts = ["\n".join([head, *lines]) for head, lines in items]
    written = [
        "\n   ".join([mark.format(n=n, t=head), *lines])
        for n, (head, lines) in enumerate(items, first)
    ]
    assert listed_items(before + gap.join(written) + after) == texts


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1. a\n- b\n3. c", ["a", "b", "c"]),
        ("1. a:\n- b\n- c\n2. d", ["a:\n- b\n- c", "d"]),
        ("1. **a**\n- b\n2. **c**\n- d", ["a\n- b", "c\n- d"]),
        ("1. a\n2. b\n\n1. c\n2. d", ["a", "b", "c", "d"]),
        ("## Easy\n1. a\n2. b\n## Hard\n1. c", ["a", "b", "c"]),
        ("1. a\n   2. b\n   3. c", ["a", "b", "c"]),
        ("1. a\n2. b\n\n1. x\n\n3. c", ["a", "b\n\n1. x", "c"]),
        ("1. a\n\nb\n\n2. c\n\nd", ["a\n\nb", "c\n\nd"]),
        ("1. a\n2. b\n\nThese are two tasks.", ["a", "b"]),
        ("1. a\n2. b\n\n```\nx\n```", ["a", "b\n\n```\nx\n```"]),
        ("1. a\n2. b\n1999. was a year", ["a", "b\n1999. was a year"]),
    ],
)
def test_what_belongs_to_an_item(text: str, items: list[str]) -> None:
    assert listed_items(text) == items


@given(TEXTS, st.integers(-20, 20), st.sampled_from(["", "/5", " / 5", " out of 5"]))
def test_only_grades_of_the_scale_are_ratings(reason: str, grade: int, scale: str) -> None:
    expected = grade if 1 <= grade <= 5 else None
    for form in ("Score: {}", "**Score: {}**", "Rating: **{}**", "评分：{}", "### Score: {}."):
        assert rating(f"The {reason}.\n\n" + form.format(f"{grade}{scale}")) == expected
        assert rating(form.format(f"{grade}{scale}") + f"\n\nThe {reason}.") == expected
        assert rating(form.format(f"{grade}/10")) is None


@pytest.mark.parametrize("scale", [(0, 5), (1, 6)])
def test_a_choice_among_numbers_is_no_other_number(scale: tuple[int, int]) -> None:
    low, high = scale
    parse = choice_parser([str(grade) for grade in range(low, high + 1)])
    for form in ("{}", "{}.", "**{}**", "Score: {}", "**Score: {}**", "评分：{}", "Rating: {}",
                 "It is fine.\n\nScore: {}", "{}\n\nIt is fine.", "Score: {} (fine)"):  # fmt: skip
        for grade in range(-2, 20):
            expected = str(grade) if low <= grade <= high else None
            assert read_or_none(parse, form.format(grade)) == expected
        assert read_or_none(parse, form.format(f"3/{high}")) == "3"
        for other in ("3/10", "3 out of 10", "3.5", "3,5", "3-4", "3 - 4", "3 or 4", "3, 4", "3%"):
            assert read_or_none(parse, form.format(other)) is None


LABELS = [("True", "False"), ("A", "B", "tie"), ("yes", "no"), ("better", "equal", "worse")]
CLEAR = (
    *(
        "{0}",
        " {0}.",
        "**{0}**",
        "[[{0}]]",
        "Answer: {0}",
        "**Verdict:** {0}",
        "The answer is {0}.",
    ),
    *("{0}\n\nBoth are long.", "{0}, for it is longer.", "Both are long.\n\n**{0}**"),
    *("<answer>{0}</answer>", '{{"verdict": "{0}"}}', '```json\n{{"answer": "{0}"}}\n```'),
    *("\\boxed{{{0}}}", "{0}: it is longer."),
)
UNCLEAR = (
    *("{0}ish", "un{0}", "{0} or {1}", "{0}/{1}", "{0}, {1}", "not {0}", "{0} {1}", "{0}\n{1}"),
    *("Answer: {0} or {1}", "Neither {0} nor {1}", "{0} {0}", "Answer: not {0}"),
)


@pytest.mark.parametrize("labels", LABELS)
def test_a_label_is_read_where_one_is_given(labels: tuple[str, ...]) -> None:
    parse = choice_parser(labels)
    for label, other in zip(labels, [*labels[1:], labels[0]], strict=True):
        for form in CLEAR:
            for written in (label, label.lower(), label.upper(), label.capitalize()):
                assert read_or_none(parse, form.format(written)) == label, form
        for form in UNCLEAR:
            assert read_or_none(parse, form.format(label, other)) is None, form


def test_labels_of_two_lines_in_the_forms_of_chat_models() -> None:
    expected = ("poems", ["rhyme", "metre"])
    for text in (
        "Use case: poems\nSkills: rhyme; metre",
        "**Use case:** poems\n**Skills:** rhyme; metre",
        "**Use case**: poems\n**Skills**: rhyme, metre",
        "1. **Use case:** poems\n2. **Skills:** rhyme; metre",
        "### Use case\npoems\n\n### Skills\n- rhyme\n- metre",
        "Sure! Here it is:\n\nUse case: poems.\nSkills: rhyme; metre.\n\nI hope this helps!",
        "Use case： poems\nSkills： rhyme；metre",
    ):
        assert use_case_and_skills(text) == expected
    for text in ("Use case: poems", "Skills: rhyme", "Use case:\nSkills:", "", "I cannot do that."):
        assert use_case_and_skills(text) is None
    assert labelled_lines("B: two\nA: one", ("A", "B")) == {"A": "one", "B": "two"}
    profile = {"name": "Ada", "knows": "numbers", "speaks": "dryly", "refuses": "gossip"}
    for text in (
        "**Name:** Ada\n**Knows:** numbers\n**Speaks:** dryly\n**Refuses:** gossip",
        "### Name\nAda\n### Knows\nnumbers\n### Speaks\ndryly\n### Refuses\ngossip\n\nEnjoy!",
    ):
        assert parse_profile(text) == profile


def test_a_list_that_a_prompt_began_is_read_in_other_marks() -> None:
    for text in (" a\n10. b", " a\n10) b", " a\n**10.** b", " a\n10、b", " a\n### 10. b"):
        assert numbered_items(text) == ["a", "b"]


def test_headings_of_problem_and_tests() -> None:
    for text in (
        "[Problem Description]\nAdd.\n[Solution]\n2",
        "**[Problem Description]**\nAdd.\n\n**[Solution]**\n2",
        "**Problem Description**\nAdd.\n\n**Solution**\n2",
        "## Problem Description:\nAdd.\n## Solution:\n2",
    ):
        assert problem_and_solution(text) == ("Add.", "2")
    assert problem_and_solution("The solution\nAdd.\nProblem description\n2") is None
    for heading in ("[Tests]", "### Tests", "**Tests:**", "## Test cases", "**Unit tests**"):
        text = f"f = abs\n\n{heading}\n```python\nassert f(-1) == 1\n```"
        assert answer_and_tests(text) == ("f = abs", "assert f(-1) == 1")


RUNAWAY = (
    *("\n", " ", "*", "#", "- ", "1. a\n", "score: ", "score:\n", "```\n", "**", "| ", "Answer"),
    *("Question: ", "{", "[", "Sure! ", "Here is ", "> ", "4. Input: ", "Yes\n"),
)


@pytest.mark.parametrize("unit", RUNAWAY)
def test_a_model_that_runs_away_costs_no_quadratic_time(unit: str) -> None:
    text = unit * (20_000 // len(unit))
    start = time.process_time()
    for _, parse in PARSERS.values():
        parse(text)
    assert time.process_time() - start < 3
