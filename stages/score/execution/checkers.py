"""Answers against verification functions that a model wrote.

AutoIF (Dong et al. 2024, arXiv:2406.13542): functions `evaluate(response)` for a constraint, each
run on the answer; the rate of those that return True is what the paper (above .5) and the authors'
code (above 0) keep answers by: `select.top`, or `thresholds` of it. How functions themselves are
validated is in `stages/_sandbox/checkers.py`.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from pipeline.types import option_group
from schemas.records import response
from stages._sandbox.checkers import Outcome, checker_runs, outcome_of
from stages._sandbox.results import NOTHING, Case, Result, combined, cut_short
from stages.score.execution.options import Sandboxed, column_of, texts_of, values_of


@option_group
class Checkers(Sandboxed):
    """Verification functions of the row, called with its answer.

    Args:
        name: The method.
        checkers: The column, or `extra.FIELD`, of Python functions: a text, or a list of texts.
        function: The function that is called; others may stand beside it.
    """

    name: Literal["checkers"] = "checkers"
    checkers: str = "checkers"
    function: str = "evaluate"

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        return ["messages", column_of(self.checkers)]

    def run(self, rows: pl.DataFrame) -> list[Result]:
        """Call each row's functions."""
        answers = rows.select(response()).to_series().to_list()
        sources = [texts_of(value) for value in values_of(rows, self.checkers)]
        jobs = [
            [run for code in codes for run in checker_runs(code, [answer], self.function)]
            if answer
            else []
            for answer, codes in zip(answers, sources, strict=True)
        ]
        results = []
        for ended in self.execute(jobs):
            cases = [cut_short(end, self.limits) or _case(outcome_of(end)) for end in ended]
            results.append(combined(cases, of_those_that_ran=True) if cases else NOTHING)
        return results


def _case(outcome: Outcome) -> Case:
    match outcome:
        case bool():
            return ("pass", None) if outcome else ("fail", None)
    return None, outcome
