"""Verification functions of a model: AutoIF's published accuracies recomputed in the sandbox."""

from __future__ import annotations

import gzip
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from stages._sandbox.checkers import Outcome, cross_validated, expected_outcome, run_checkers
from stages._sandbox.execute import Limits
from tests.support.isolating import any_isolation


def outcomes(sources: list[str], texts: list[str]) -> list[list[Outcome]]:
    """What each function says of each text."""
    return run_checkers(sources, texts, Limits(seconds=5), any_isolation(), workers=2)


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a gzipped JSON Lines file."""
    return [json.loads(line) for line in gzip.open(path)]


def parsed(text: str) -> dict[str, Any] | None:
    """A completion of AutoIF: a JSON text, in a fence or not."""
    fenced = re.search(r"```json(.*?)```", text, re.DOTALL)
    try:
        result: dict[str, Any] = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return None
    return result


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, (23, 16, 9, 19)),
        pytest.param(1, (18, 13, 7, 14), marks=pytest.mark.proof),
        pytest.param(2, (24, 21, 9, 24), marks=pytest.mark.proof),
        pytest.param(3, (17, 13, 13, 13), marks=pytest.mark.proof),
        pytest.param(4, (24, 10, 10, 15), marks=pytest.mark.proof),
    ],
)
def test_published_accuracies_of_functions_as_written(
    number: int, expected: tuple[int, int, int, int], shared: Path
) -> None:
    """Cases of a constraint: all, and those that are kept in three ways to compare."""
    constraint = rows(shared / "references/autoif_functions_raw.jsonl.gz")[number]
    completions = [parsed(text) for text in constraint["gpt-answer"]]
    assert sum(c is None for c in completions) == (0, 2, 0, 1, 0)[number]
    usable = [c for c in completions if c is not None]
    cases = dict.fromkeys((c["input"], c["output"]) for one in usable for c in one["cases"])
    said = outcomes([one["func"] for one in usable], [text for text, _ in cases])
    # As the authors' code compares: a text is equal to no boolean, and its case vanishes.
    literal = [e if isinstance(e, bool) else None for _, e in cases]
    any_agrees = cross_validated(said, literal)
    most_agree = cross_validated(said, literal, min_agreeing=0.5)
    read = cross_validated(said, [expected_outcome(e) for _, e in cases])
    kept = (len(cases), len(any_agrees.cases), len(most_agree.cases), len(read.cases))
    assert kept == expected
    if number == 0:
        published = [0.562, 0.562, 0.938, 0.562, 0.562, 0.812, 0.688, 0.562]
        assert [round(float(a or 0), 3) for a in any_agrees.accuracies] == published
        assert any_agrees.functions == [2, 5]


def test_stored_accuracies_of_functions_that_were_kept(shared: Path) -> None:
    count = 0
    for row in rows(shared / "references/autoif_functions_validated.jsonl.gz"):
        said = outcomes([f for f, _ in row["eval_func"]], [text for text, _ in row["cases"]])
        result = cross_validated(said, [expected_outcome(e) for _, e in row["cases"]], -1)
        assert len(result.cases) == len(row["cases"])
        assert [float(a or 0) for a in result.accuracies] == [a for _, a in row["eval_func"]]
        count += len(row["eval_func"])
    assert count == 22


ODD: dict[str, tuple[str, Outcome | str]] = {
    "a text": ("def evaluate(r):\n    return 'true'", "True or False, got str"),
    "a number": ("def evaluate(r):\n    return 1", "True or False, got int"),
    "nothing": ("def evaluate(r):\n    pass", "True or False, got NoneType"),
    "like a boolean": (
        "class B(int):\n    __class__ = bool\n    def __eq__(self, o): return True\n"
        "def evaluate(r):\n    return B(1)",
        "True or False, got int",
    ),
    "no function": ("def check(r):\n    return True", "NameError"),
    "a helper": ("def evaluate(r):\n    return h(r)\ndef h(r):\n    return 'a' in r", True),
    "raises": ("def evaluate(r):\n    return r[99]", "IndexError"),
    "exits": ("import sys\ndef evaluate(r):\n    sys.exit(0)", "SystemExit"),
    "ends": ("import os\ndef evaluate(r):\n    os._exit(0)", "ended before its end"),
    "prints": ("print('true')\ndef evaluate(r):\n    print('true')", "got NoneType"),
    "loops": ("def evaluate(r):\n    while True: pass", "timeout"),
    "remembers": (
        "seen = []\ndef evaluate(r):\n    seen.append(r)\n    return len(seen) == 1", True
    ),
    "asks for its names": (
        "def evaluate(r):\n    return 'evaluate_of_another' in globals()", False
    ),
    "leaves a name": (
        "import builtins\nbuiltins.evaluate_of_another = 1\nevaluate_of_another = 1\n"
        "def evaluate(r):\n    return True", True
    ),
}  # fmt: skip


def test_only_a_boolean_is_an_outcome() -> None:
    said = run_checkers(
        [source for source, _ in ODD.values()], ["abc"] * 2, Limits(seconds=2), any_isolation(), 2
    )
    for (name, (_, expected)), outcome in zip(ODD.items(), said, strict=True):
        for one in outcome:  # the second call sees nothing of the first
            matches = expected in one if isinstance(expected, str) else one is expected
            assert matches, (name, outcome)


def test_functions_and_cases_judge_each_other() -> None:
    said: list[list[Outcome]] = [[True, True, False], [True, "error", False], ["timeout"] * 3]
    result = cross_validated(said, [True, False, None])
    assert result.cases == [0]
    assert result.accuracies == [Fraction(1), Fraction(1), Fraction(0)]
    assert result.functions == [0, 1]
    # No case stays: then nothing is known of a function.
    assert cross_validated(said, [None] * 3).accuracies == [None] * 3
    assert cross_validated(said, [True] * 3, min_agreeing=0.7).cases == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("true", True), (" False", False), ("TRUE", True), (1, None), (None, None)],
)
def test_expected_outcomes(value: object, expected: bool | None) -> None:
    assert expected_outcome(value) is expected
