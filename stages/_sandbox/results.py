"""What the stage says of a row, whichever the method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from stages._sandbox.execute import Ended, Limits

_ADDRESS: Final = re.compile(r"\b0x[0-9a-f]{4,}")
_MAX_CHARS: Final = 300


class Result(NamedTuple):
    """The columns of a row but for their prefix; see the stage.

    Attributes:
        outcome: `pass`, `fail`, `error`, a limit, `unparsed`, or None.
        pass_rate: Cases that passed, of all, or of those that ran.
        passed: How many cases passed.
        ran: How many cases came to a verdict.
        not_ran: How many did not.
        error: The first cause, in a line.
        answer: The final answer of the method `answer`.
    """

    outcome: str | None
    pass_rate: float | None = None
    passed: int | None = None
    ran: int | None = None
    not_ran: int | None = None
    error: str | None = None
    answer: str | None = None


UNPARSED: Final = Result("unparsed")
NOTHING: Final = Result(None)

Case = tuple[str | None, str | None]
"""The outcome of a case, None where it did not run, and the cause."""


def combined(
    cases: Sequence[Case], overall: Case = (None, None), *, of_those_that_ran: bool = False
) -> Result:
    """The result of a row from those of its cases.

    Args:
        cases: Outcome and cause of each.
        overall: What ended the whole program before its end, if anything.
        of_those_that_ran: Whether the rate leaves out cases without a verdict. A program that
            hangs or quits has failed the rest of its cases; a checker that cannot be run says
            nothing of an answer.

    >>> combined([("pass", None), ("fail", "it is 3")])
    Result(outcome='fail', pass_rate=0.5, passed=1, ran=2, not_ran=0, error='it is 3', answer=None)
    """
    passed = sum(outcome == "pass" for outcome, _ in cases)
    ran = sum(outcome in {"pass", "fail", "error"} for outcome, _ in cases)
    # What cannot be read is neither right nor wrong.
    counted = ran if of_those_that_ran else sum(outcome != "unparsed" for outcome, _ in cases)
    worst = next((case for case in [overall, *cases] if case[0] not in {None, "pass"}), None)
    if worst is None:
        causes = [cause for outcome, cause in cases if outcome is None and cause]
        cause = causes[0] if causes else "it ended before its end"
        worst = ("pass", None) if ran == len(cases) else ("error", cause)
    outcome, error = worst
    return Result(
        outcome,
        passed / counted if counted else None,
        passed,
        ran,
        len(cases) - ran,
        shortened(error) if error else None,
    )


def shortened(error: str) -> str:
    """A cause as it is the same in every run: addresses left out, and cut.

    Args:
        error: What a program said.
    """
    return _ADDRESS.sub("0x...", error.strip())[:_MAX_CHARS]


def cut_short(ended: Ended, limits: Limits) -> Case | None:
    """The outcome of a run that a limit ended; None where it ended by itself.

    Args:
        ended: How it ended.
        limits: The limits.
    """
    match ended.cut:
        case None:
            return None
        case "timeout":
            return "timeout", f"it ran longer than {limits.seconds:g} s"
        case "memory":
            return "memory", f"it used more than {limits.memory_mb} MB"
        case "output":
            return "output", f"it wrote more than {limits.output_kb} KB"
        case "processes":
            return "processes", f"it started more than {limits.processes} processes"
    return "error", "its sandbox ended"


def exited(ended: Ended) -> Case:
    """The outcome of a program that ended with an exit code beside 0.

    Args:
        ended: How it ended.
    """
    lines = ended.stderr.strip().splitlines()
    last = lines[-1] if lines else ""
    if last.startswith("MemoryError"):
        return "memory", last
    code = f"signal {-ended.exit}" if ended.exit < 0 else f"exit code {ended.exit}"
    return "error", f"{last} ({code})" if last else code
