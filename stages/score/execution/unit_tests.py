"""Unit tests: the program of an answer, put through the test code of its row.

`cases` and `stages/_sandbox` say why no verdict can be faked. A case counts as passed where its
recorded values are right; one that asserts inside the program's process also needs the program's
regular end, with a number that it is sent only then.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from pipeline.types import option_group
from schemas.records import response
from stages._sandbox.blocks import Blocks, program_of
from stages._sandbox.cases import cases_of
from stages._sandbox.execute import Run
from stages._sandbox.results import NOTHING, UNPARSED, Result
from stages._sandbox.verdicts import judged
from stages.score.execution.options import Sandboxed, column_of, texts_of, values_of


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
