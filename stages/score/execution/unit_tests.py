"""Unit tests: the program of an answer, put through the test code of its row.

`cases` and `stages/_sandbox` say why no verdict can be faked. A case counts as passed where its
recorded values are right; one that asserts inside the program's process also needs the program's
regular end, with a number that it is sent only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import polars as pl

from pipeline.types import option_group
from schemas.records import response
from stages._sandbox.cases import Cases, cases_of
from stages._sandbox.execute import Ended, Limits, Run
from stages._sandbox.harness import LOADING
from stages._sandbox.values import decode
from stages.score.execution.blocks import Blocks, program_of
from stages.score.execution.options import Sandboxed, column_of, texts_of, values_of
from stages.score.execution.result import (
    NOTHING,
    UNPARSED,
    Case,
    Result,
    combined,
    cut_short,
)


@option_group
class Tests(Sandboxed):
    """The answer's program against the test code of its row.

    Args:
        name: The method.
        tests: The column of test code, or `extra.FIELD`: a text, or a list of texts. Cases are
            its asserts, its functions `test...`, methods of `unittest.TestCase` and of classes
            `Test...`, `check(candidate)`, and calls of functions that assert; they run after all
            that is set up. Tests that import pytest need `packages`.
        entry_point: The column, or `extra.FIELD`, with the name of the function that
            `check(candidate)` is called with, as HumanEval has it.
        languages: The names behind the fences of a program's blocks.
        blocks: Which of an answer's blocks are the program.
    """

    __test__ = False  # a name that pytest would collect

    name: Literal["tests"] = "tests"
    tests: str = "tests"
    entry_point: str | None = None
    languages: tuple[str, ...] = ("python", "py", "python3")
    blocks: Blocks = "all"

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        sources = [self.tests, *([self.entry_point] if self.entry_point else [])]
        return ["messages", *map(column_of, sources)]

    def run(self, rows: pl.DataFrame) -> list[Result]:
        """Run each row's tests."""
        answers = rows.select(response()).to_series().to_list()
        points = values_of(rows, self.entry_point) if self.entry_point else [None] * len(rows)
        tests = ["\n".join(texts_of(value)) for value in values_of(rows, self.tests)]
        cases = [cases_of(t, p) if t else None for t, p in zip(tests, points, strict=True)]
        programs = [
            program_of(answer, self.languages, self.blocks) if answer else None
            for answer in answers
        ]
        jobs = [
            [Run("steps", source=program, steps=case.steps, imports=case.imports)]
            if program and case
            else []
            for program, case in zip(programs, cases, strict=True)
        ]
        results = []
        ended = self.execute(jobs)
        for answer, test, case, end in zip(answers, tests, cases, ended, strict=True):
            if not answer or not test:
                results.append(NOTHING)
            else:
                results.append(judged(case, end[0], self.limits) if case and end else UNPARSED)
        return results


def judged(cases: Cases, ended: Ended, limits: Limits) -> Result:
    """The result of test code.

    Args:
        cases: The cases.
        ended: How their run ended.
        limits: Its limits.
    """
    values, passed, raised = _read(ended)
    verdicts: list[Case] = []
    for number in cases.numbers:
        checks = cases.checks[number]
        wrong = [n for n, check in checks.items() if n in values and not check.holds(values[n])]
        # What is recorded is known to be right; what passed inside, only of a complete run.
        is_known = bool(checks) and checks.keys() <= values.keys()
        if wrong:
            verdicts.append(
                ("fail", f"{checks[wrong[0]].text:.150}: got {values[wrong[0]]!r:.100}")
            )
        elif number in raised:
            verdicts.append(raised[number])
        elif number in passed and (ended.is_complete or is_known):
            missing = checks.keys() - values.keys()
            verdicts.append(
                ("error", "an assertion was not reached") if missing else ("pass", None)
            )
        else:
            verdicts.append((None, None))
    return combined(verdicts, _overall(cases, ended, raised, limits))


def _overall(cases: Cases, ended: Ended, raised: Mapping[int, Case], limits: Limits) -> Case:
    """What ended the program before all its cases ran."""
    if (cut := cut_short(ended, limits)) is not None:
        return cut
    for number in (LOADING, *range(len(cases.steps))):
        if number in raised and (number == LOADING or cases.steps[number][0] == "setup"):
            return raised[number]
    if not ended.is_complete:
        code = f"signal {-ended.exit}" if ended.exit < 0 else f"exit code {ended.exit}"
        return "error", f"it ended before its tests did ({code})"
    return None, None


def _read(ended: Ended) -> tuple[dict[int, Any], set[int], dict[int, Case]]:
    """The recorded values, the steps that passed, and what others raised.

    A value that was recorded twice is none: a program may send what it likes.
    """
    values: dict[int, Any] = {}
    twice: set[int] = set()
    passed: set[int] = set()
    raised: dict[int, Case] = {}
    for event in ended.events:
        match event:
            case ("value", int(number), str(text)):
                twice |= {number} & values.keys()
                try:
                    values[number] = decode(text)
                except ValueError:
                    twice.add(number)
            case ("passed", int(step)):
                passed.add(step)
            case ("raised", int(step), ("fail" | "error" | "memory") as outcome, str(message)):
                raised.setdefault(step, (outcome, message))
    return {n: value for n, value in values.items() if n not in twice}, passed, raised
