r"""The steps of a solution: its lines, or the sentences of its only one.

A label ("Step 2:", "2.") is no part of a step, and a line that does nothing but give the final
answer ("#### 5", "The answer is 5.") belongs to the step before it. All else of a step is as it
was written: what stands before a faulty step can be held against the old text word for word.

Example:
    >>> steps = split_steps("Step 1: 2 and 2 is 4.\nStep 2: 4 and 1 is 5.\n#### 5")
    >>> steps
    ['2 and 2 is 4.', '4 and 1 is 5.\n#### 5']
    >>> print(numbered(steps))
    Step 1: 2 and 2 is 4.
    Step 2: 4 and 1 is 5.
    #### 5
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_LABEL: Final = re.compile(
    r"[ \t>*_#]*(?:step[ \t]*(\d{1,3})[ \t]*[*_]*[ \t]*[:.)][*_]*|(\d{1,3})[.)](?=[ \t]))[ \t]*",
    re.IGNORECASE,
)
_SENTENCE: Final = re.compile(r"(?<=[.!?])[ \t]+(?=[^\s\d])|(?<=[。！？])")
_FINAL: Final = re.compile(
    r"[*_ ]*(?:####|(?:so|thus|hence|therefore)?,?[ ]*(?:the[ ]+)?(?:final[ ]+)?answer\b|答案)",
    re.IGNORECASE,
)


def split_steps(text: str) -> list[str]:
    """The steps of a solution, without their labels.

    Args:
        text: A solution.
    """
    return [step for _, step in labelled_steps(text)]


def labelled_steps(text: str) -> list[tuple[int | None, str]]:
    """The steps of a solution, each with the number of its label where it has one.

    Args:
        text: A solution.
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) == 1:
        lines = [part.strip() for part in _SENTENCE.split(lines[0]) if part.strip()]
    steps: list[tuple[int | None, str]] = []
    announces = any(_LABEL.match(line) for line in lines)
    for line in lines:
        if announces and not steps and line.endswith((":", "：")) and not _LABEL.match(line):
            continue  # "Here it is:" before labelled steps
        label = _LABEL.match(line)
        rest = line[label.end() :] if label else line
        if _FINAL.match(rest) and steps:
            steps[-1] = steps[-1][0], f"{steps[-1][1]}\n{rest}"
            continue
        if label and not rest:
            continue
        steps.append((int(label[1] or label[2]) if label else None, rest))
    return steps


def numbered(steps: Sequence[str], first: int = 1) -> str:
    """Steps with their numbers, one below the other.

    Args:
        steps: Some steps.
        first: The number of the first.
    """
    return "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, first))


def continued_from(steps: Sequence[str], at: int, text: str) -> list[str] | None:
    r"""The steps from one on as a model wrote them; None where it changed those before.

    Args:
        steps: The old steps.
        at: The position of the first that is written anew.
        text: What the model wrote: that step and those after it, or all of them.

    Example:
        >>> continued_from(["Two.", "Four."], 1, "Step 2: Five."), continued_from(
        ...     ["Two.", "Four."], 1, "Step 1: Two.\nStep 2: Five."
        ... )
        (['Five.'], ['Five.'])
        >>> continued_from(["Two.", "Four."], 1, "Step 1: Three.\nStep 2: Five.") is None
        True
    """
    written = labelled_steps(text)
    if not written:
        return None
    before = [step for _, step in written[:at]]
    if at and before == list(steps[:at]) and len(written) > at:
        return [step for _, step in written[at:]]
    label = written[0][0]
    if label is not None and label != at + 1:
        return None
    return [step for _, step in written]
