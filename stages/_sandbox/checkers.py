"""Verification functions that a model wrote, `evaluate(response) -> bool`: run, and validated.

AutoIF (Dong et al. 2024, arXiv:2406.13542). As in the paper: functions and cases of a constraint
judge each other; a case stays if enough functions agree with it, a function if it agrees with
enough of the cases that stayed. As in the authors' code: one agreeing function is enough for a
case, and .8 for a function (the paper: above .5 both). Ours: expected outcomes that are the texts
"true" and "false" are read as what they say (in the code they equal nothing, so that cases vanish);
a function that returns anything but True or False has said nothing, as has one that fails;
functions may have others beside them, which the code's separate namespaces do not find.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from stages._sandbox.execute import Ended, Limits, Run, execute
from stages._sandbox.isolation import Isolation
from stages._sandbox.values import decode

Outcome = bool | str
"""What a function said of a text: True, False, or why it said neither."""


def checker_runs(source: str, texts: Sequence[str], function: str = "evaluate") -> list[Run]:
    """One run for each text, so that no call sees what another left.

    Args:
        source: The function, with others beside it.
        texts: What it is called with.
        function: Its name.
    """
    steps = [("case", f"__record__(0, {function}(__value__))")]
    return [Run("steps", source=source, steps=steps, value=text) for text in texts]


def outcome_of(ended: Ended) -> Outcome:
    """What a function said.

    Args:
        ended: How its run ended.
    """
    if ended.cut:
        return ended.cut
    for event in ended.events:
        match event:
            case ("raised", _, _, str(message)):
                return message
            case ("value", 0, str(text)) if ended.is_complete:
                try:
                    value = decode(text)
                except ValueError:
                    break
                if isinstance(value, bool):
                    return value
                return f"it must return True or False, got {type(value).__name__}"
    return "it ended before its end"


def run_checkers(
    sources: Sequence[str],
    texts: Sequence[str],
    limits: Limits,
    isolation: Isolation,
    workers: int = 1,
) -> list[list[Outcome]]:
    """Call every function with every text.

    Args:
        sources: The functions.
        texts: The texts.
        limits: Of each call.
        isolation: What isolates them.
        workers: Functions at a time.

    Returns:
        For each function what it said of each text.
    """
    jobs = [checker_runs(source, texts) for source in sources]
    ended = execute(jobs, limits, isolation, workers=workers)
    return [[outcome_of(end) for end in ends] for ends in ended]


def expected_outcome(value: Any) -> bool | None:
    """The outcome that a case expects; None where it is none.

    Args:
        value: What a model wrote: a boolean, or its text.

    >>> expected_outcome("False"), expected_outcome(True), expected_outcome("maybe")
    (False, True, None)
    """
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    return {"true": True, "false": False}.get(text)


class Validated(NamedTuple):
    """What is left of the functions and cases of a constraint.

    Attributes:
        cases: The positions of the cases that stay.
        accuracies: Of every function, the part of these that it agrees with; None without any.
        functions: The positions of the functions that stay.
    """

    cases: list[int]
    accuracies: list[Fraction | None]
    functions: list[int]


def cross_validated(
    outcomes: Sequence[Sequence[Outcome]],
    expected: Sequence[bool | None],
    min_agreeing: float = 0.0,
    min_accuracy: float = 0.8,
) -> Validated:
    """Let functions and cases judge each other.

    Args:
        outcomes: For each function what it said of each case.
        expected: What each case expects; None agrees with nothing.
        min_agreeing: A case stays if more than this part of the functions agree with it.
        min_accuracy: A function stays if it agrees with at least this part of these.

    >>> cross_validated([[True, False], [True, "timeout"]], [True, True])
    Validated(cases=[0], accuracies=[Fraction(1, 1), Fraction(1, 1)], functions=[0, 1])
    """
    agrees = [[o is e for o, e in zip(row, expected, strict=True)] for row in outcomes]
    needed = min_agreeing * len(agrees)
    cases = [n for n in range(len(expected)) if sum(row[n] for row in agrees) > needed]
    accuracies = [
        Fraction(sum(row[n] for n in cases), len(cases)) if cases else None for row in agrees
    ]
    functions = [n for n, a in enumerate(accuracies) if a is not None and a >= min_accuracy]
    return Validated(cases, accuracies, functions)
