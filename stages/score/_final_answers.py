"""The final answer of a text as several scores read it, and the options that say how.

A pattern of the recipe's own comes first, then the marks that `stages/_text/final_answer.py`
knows, then the last number, where that is asked for.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

from stages._text.final_answer import final_answer

_LAST_NUMBER: Final = re.compile(r"[-−]?[$€£¥]?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?%?")


def _one_group(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"must be a regular expression, got {value}: {error}") from error
    if groups != 1:
        raise ValueError(f"must have one group, got {value} with {groups}")
    return value


Pattern = Annotated[str, AfterValidator(_one_group)]
"""A regular expression whose one group is the final answer."""


def read_answer(text: str, pattern: str | None, max_words: int, *, last_number: bool) -> str | None:
    """The final answer of a text; None where it has none.

    Args:
        text: An answer, or a solution.
        pattern: A regular expression whose one group is the final answer; the last match counts.
        max_words: How many words are a short answer.
        last_number: Whether the last number of a text is its answer, where nothing else is.

    Example:
        >>> read_answer("We add 3 and 4, so we have got 7 of them.", None, 6, last_number=True)
        '7'
    """
    if pattern and (matches := re.findall(pattern, text)):
        return str(matches[-1]).strip()
    final = final_answer(text, max_words)
    if final is None and last_number:
        numbers = _LAST_NUMBER.findall(text)
        return numbers[-1] if numbers else None
    return final
