"""Constraints of every kind: unknown ones are errors, blank texts follow none, negations negate."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages._constraints.conflicts import CONFLICTS, conflict, conflicts
from stages._constraints.constraint import ConstraintError, constraint, kinds, variants
from stages._constraints.lengths import BANDS, FLEXIBLE, bounds, target_of
from stages._constraints.units import sentences
from tests.stages._constraints.examples import IFBENCH, IFEVAL, LENGTHS, WORDS
from tests.support.rows import json_lines

EXAMPLES = {**IFEVAL, **IFBENCH, **LENGTHS}
NEGATED = [kind for kind, (args, *_) in EXAMPLES.items() if constraint(kind, args).negation()]

texts = st.text(st.sampled_from("tT mill.,*-[]<>\"'\n?!" + string.ascii_letters), max_size=80)


def test_there_is_an_example_of_every_kind() -> None:
    assert set(EXAMPLES) == set(kinds())


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_kind_holds_of_what_follows_it_alone(kind: str) -> None:
    arguments, right, wrong = EXAMPLES[kind]
    checked = constraint(kind, arguments)
    assert checked.holds(right)
    assert checked.holds_loosely(right)
    assert not checked.holds(wrong)


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("blank", ["", " ", "\n\t\n"])
def test_a_blank_text_follows_nothing(kind: str, blank: str) -> None:
    checked = constraint(kind, EXAMPLES[kind][0])
    assert not checked.holds(blank)
    assert not checked.holds_loosely(blank)


@pytest.mark.parametrize("kind", NEGATED)
@given(text=texts)
def test_a_negation_holds_of_exactly_the_other_texts(kind: str, text: str) -> None:
    checked = constraint(kind, EXAMPLES[kind][0])
    negated = checked.negation()
    assert negated is not None
    assert negated.negation() == checked
    if text.strip():
        assert checked.holds(text) != negated.holds(text)


@pytest.mark.parametrize("kind", EXAMPLES)
@given(text=texts)
def test_loose_is_never_stricter_than_strict(kind: str, text: str) -> None:
    checked = constraint(kind, EXAMPLES[kind][0])
    assert checked.holds_loosely(text) >= checked.holds(text)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_wording_says_every_argument(kind: str) -> None:
    checked = constraint(kind, EXAMPLES[kind][0])
    for number in range(len(checked.wordings)):
        worded = checked.worded(number)
        assert worded == worded.strip()
        for name, value in checked.arguments.items():
            if value is None or name in ("mode", "match"):
                continue
            for item in value if isinstance(value, list) else [value]:
                assert str(item) in worded
    negated = checked.negation()
    assert negated is None or negated.worded() != checked.worded()


@pytest.mark.parametrize("kind", EXAMPLES)
def test_arguments_survive_json(kind: str) -> None:
    checked = constraint(kind, EXAMPLES[kind][0])
    again = json.loads(json.dumps(checked.arguments))
    # As benchmarks' files have them: with those of all other kinds, that are null.
    padded = {**dict.fromkeys(["num_words", "keyword", "language", "N"]), **again}
    assert constraint(kind, padded) == checked


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("keywords:exist", {}),
        ("", {}),
        ("fr:punctuation:no_comma", {}),
        ("punctuation:no_comma", {"num_words": 3}),
        ("length_constraints:number_words", {}),
        ("length_constraints:number_words", {"num_words": 0}),
        ("length_constraints:number_words", {"num_words": 5.5}),
        ("length_constraints:number_words", {"num_words": 5, "relation": "more than"}),
        ("keywords:existence", {"keywords": []}),
        ("keywords:existence", {"keywords": [" "]}),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1}),
        ("language:response_language", {"language": "Klingon"}),
        ("length:words", {"mode": "between", "number": 5}),
        ("length:words", {"mode": "between", "number": 5, "second": 4}),
        ("length:words", {"mode": "at most", "number": 5, "second": 6}),
        ("length:token", {"target": "20"}),
    ],
)
def test_what_is_no_constraint_is_an_error(kind: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConstraintError):
        constraint(kind, arguments)


def test_a_keyword_is_a_text_and_no_pattern() -> None:
    assert constraint("keywords:existence", {"keywords": ["C++ (new)"]}).holds("In c++ (NEW).")
    assert not constraint("keywords:existence", {"keywords": ["m.ll"]}).holds(WORDS)


def test_the_eight_variants() -> None:
    assert variants("a*\nb\nc*") == [
        *("a*\nb\nc*", "b\nc*", "a*\nb", "b"),
        *("a\nb\nc", "b\nc", "a\nb", "b"),
    ]


def test_the_conflict_table_is_symmetric_and_of_known_kinds() -> None:
    assert {kind for pair in CONFLICTS for kind in pair} <= set(kinds())
    built = [constraint(kind, arguments) for kind, (arguments, *_) in EXAMPLES.items()]
    for one in built:
        assert conflict(one, one)
        for other in built:
            assert conflict(one, other) == conflict(other, one)


def test_a_word_is_not_asked_for_and_forbidden() -> None:
    forbidden = constraint("keywords:forbidden_words", {"forbidden_words": ["Rain"]})
    asked = constraint("keywords:existence", {"keywords": ["rain"]})
    other = constraint("keywords:existence", {"keywords": ["snow"]})
    assert conflicts([asked, forbidden])
    assert not conflicts([forbidden, other])


def test_codi_evals_bounds_are_reproduced(shared: Path) -> None:
    rows = json_lines(shared / "references/codi_eval_length.jsonl.gz")
    same = []
    for row in rows:
        numbers = [int(number) for number in re.findall(r"\d+", row["instruction"])]
        if len(numbers) == 1 + (row["mode"] == "between"):
            lower, upper = bounds(row["mode"], *numbers)
            same.append([lower, upper or 10_000] == row["label"])
    assert len(same) > 600
    assert sum(same) / len(same) > 0.97


def test_ruler_takes_the_authors_bands() -> None:
    for target, (lower, upper) in BANDS.items():
        wide = FLEXIBLE[target]
        assert wide[0] <= lower
        assert wide[1] is None or wide[1] >= (upper or 0)
        assert target_of(lower) != target
        assert target_of(lower + 1) == target
        assert upper is None or (target_of(upper), target_of(upper + 1)) == (target, None)


def test_after_a_blank_line_only_bullets_may_follow() -> None:
    checked = constraint("format:no_bullets_bullets")
    assert checked.holds("It rains. It snows.\n\n* rain\n* snow")
    assert not checked.holds("It rains. It snows.\n\nIt does.\n\n* rain\n* snow")


@given(st.text(alphabet="*-a \n\t", max_size=30))
def test_bullets_are_as_many_as_where_blank_lines_belong_to_them(text: str) -> None:
    number = len(re.findall(r"^\s*(?:\*[^*].*|-.*)$", text, re.MULTILINE))
    kind = "detectable_format:number_bullet_lists"
    for bullets in range(1, 6):
        assert constraint(kind, {"num_bullets": bullets}).check(text) == (number == bullets)


def test_bullets_behind_many_blank_lines_are_soon_counted() -> None:
    bullets = constraint("detectable_format:number_bullet_lists", {"num_bullets": 1})
    assert bullets.check("\n" * 200_000 + "- a")


PLAIN = st.sampled_from(
    (
        "Dog",
        "cat's",
        "a",
        "3",
        "No",
        "e.g",
        "Dr",
        "Mr.X",
        "“Go",
        "1990",
        "ärgern",
        "中文",
        "x_y",
        "-",
    )
)
PARTS = st.tuples(PLAIN, st.sampled_from((".", "!", "?", "...", "?!", ",", ".”", ".)", "")))


@given(st.lists(st.tuples(PARTS, st.sampled_from((" ", "\n", "\n\n", "  ", "")))))
def test_sentences_are_those_of_untrained_punkt(parts: list[Any]) -> None:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    text = "".join(word + end + blank for (word, end), blank in parts)
    expected = PunktSentenceTokenizer().tokenize(text) if text.strip() else []
    assert [*sentences(text)] == expected
