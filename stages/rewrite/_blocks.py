r"""Blocks of a completion: what stands between a heading in brackets and the next.

Accepted only where each heading stands exactly once: a model that writes two new answers has
not said which one counts, and one that never closes its answer may have been going on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Final

END: Final = "End"
"""The heading that closes the last block."""


def blocks(text: str, names: Sequence[str]) -> dict[str, str] | None:
    r"""The contents of the blocks; None unless each heading occurs once and in this order.

    Args:
        text: A completion.
        names: The headings before `[End]`, whose case and marks around them do not matter.

    Example:
        >>> blocks("Sure!\n**[New answer]**\nIt is 4.\n[END]", ["New answer"])
        {'New answer': 'It is 4.'}
        >>> blocks("[New answer]\n4\n[New answer]\n5\n[End]", ["New answer"]) is None
        True
        >>> blocks("[New answer]\n4", ["New answer"]) is None
        True
    """
    names = (*names, END)
    marks = [*_headings(names).finditer(text)]
    if [mark[1].casefold() for mark in marks] != [name.casefold() for name in names]:
        return None
    pairs = zip(names[:-1], marks[:-1], marks[1:], strict=True)
    return {name: text[mark.end() : after.start()].strip() for name, mark, after in pairs}


@cache
def _headings(names: tuple[str, ...]) -> re.Pattern[str]:
    named = "|".join(map(re.escape, names))
    return re.compile(
        rf"^[ \t#*_>`]*+\[[ \t]*({named})[ \t]*\][ \t*_:`]*+$", re.IGNORECASE | re.MULTILINE
    )
