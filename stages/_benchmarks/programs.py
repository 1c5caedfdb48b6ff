"""Functions that a model completed, put through their tests in a sandbox.

HumanEval: Evaluating Large Language Models Trained on Code (Chen et al. 2021, arXiv:2107.03374;
openai/human-eval).

As in the paper: a function's head and description are continued, the continuation ends where
something else begins at the margin, and the whole must pass the item's tests within 3 seconds;
pass@1 of one greedy answer. Ours: of an answer with fenced blocks these are the program, behind
the head, whose imports it may need; the sandbox, which no answer can talk out of a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pipeline.models.counting import is_counting
from stages._sandbox.blocks import program_of
from stages._sandbox.cases import cases_of
from stages._sandbox.execute import Limits, Run, execute
from stages._sandbox.isolation import isolation
from stages._sandbox.verdicts import judged

PASS: Final = "pass@1"
SCORED_BY: Final = "programs"
"""What a task's `metadata` say of how it is scored."""

_LIMITS: Final = Limits(seconds=3)
_LANGUAGES: Final = ("python", "py", "python3", "")


def program(prompt: str, answer: str) -> str:
    """The whole program.

    Args:
        prompt: The head of the function.
        answer: What the model wrote.

    Example:
        >>> program("def one():\\n", "    return 1")
        'def one():\\n    return 1'
        >>> program("def one():\\n    'One.'\\n", "Here:\\n```python\\ndef one(): return 1\\n```")
        "def one():\\n    'One.'\\n\\ndef one(): return 1\\n"
    """
    block = program_of(answer, _LANGUAGES, "all") if "```" in answer else None
    return f"{prompt}\n{block}" if block else prompt + answer


def scorer(unsafe: bool) -> Callable[[Mapping[str, Any], Sequence[str]], dict[str, float]]:
    """What the harness calls for each document with its answers, as `process_results`.

    Args:
        unsafe: Whether programs may run where nothing on this machine isolates them.
    """

    def score(doc: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
        if is_counting():  # nothing was written
            return {PASS: 0.0}
        cases = cases_of(doc["test"], doc["entry_point"])
        assert cases is not None  # `layouts` leaves out items of which it is
        source = program(doc["prompt"], answers[0])
        run = Run("steps", source=source, steps=cases.steps, imports=cases.imports)
        ((ended,),) = execute([[run]], _LIMITS, isolation(unsafe))
        return {PASS: float(judged(cases, ended, _LIMITS).outcome == "pass")}

    return score
