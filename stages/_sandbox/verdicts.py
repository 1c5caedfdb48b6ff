"""The verdict on a program that was put through test code.

A case counts as passed where its recorded values are right; one that asserts inside the program's
process also needs the program's regular end, with a number that it is sent only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages._sandbox.cases import Cases
from stages._sandbox.execute import Ended, Limits
from stages._sandbox.harness import LOADING
from stages._sandbox.results import Case, Result, combined, cut_short
from stages._sandbox.values import decode


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
