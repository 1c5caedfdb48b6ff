"""Markdown in which data is data: what a row holds is never read as markup.

Whatever comes from rows or sources stands in a code span or a code block, where nothing is
live: no HTML, no link, no emphasis, no table border. Control characters and those that turn
the direction of a text are escaped (`\\u001b`).
"""

from __future__ import annotations

import re
from textwrap import wrap
from typing import Any, Final

from pipeline.terminal import visible, visible_line

_AS_IT_IS: Final[dict[str, Any]] = {
    "expand_tabs": False,
    "replace_whitespace": False,
    "break_long_words": False,
    "break_on_hyphens": False,
}


def code(text: str, limit: int = 200) -> str:
    r"""A text on one line, as a code span that may stand in a table too.

    Args:
        text: Any text.
        limit: The most characters; a longer text ends with an ellipsis.

    >>> code("a | <b>`c`</b>")
    '``a \\u007c <b>`c`</b>``'
    """
    text = text if len(text) <= limit else text[:limit] + "…"
    # A code span ends neither at a backslash nor within a table's cell but at the bar.
    line = visible_line(text).replace("|", "\\u007c")
    if not line.strip():
        line = "\\u0020" * len(line) or "(empty)"
    ticks = "`" * (1 + _longest_run(line, "`"))
    pad = " " if line[0] in "` " or line[-1] in "` " else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def block(text: str, language: str = "text") -> str:
    """A text as a code block that no line of it can end.

    Args:
        text: Any text.
        language: What it is written in.

    >>> print(block("```", "text"))
    ````text
    ```
    ````
    """
    fence = "`" * max(3, 1 + _longest_run(text, "`"))
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def _longest_run(text: str, character: str) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(character)}+", text)), default=0)


def quoted(text: str, width: int = 100) -> str:
    r"""A row's text for a code block of a card: long lines are broken at spaces.

    A code block is as wide as its longest line. The hub makes a tag of every link to arXiv
    that a card holds, wherever it stands; one of a row is none of the data set's.

    Args:
        text: Any text.
        width: The most characters of a line that has a space to break at.

    >>> print(quoted("a long line\nsee arxiv.org/abs/1", 6))
    a long
    line
    see
    arxiv.org\u002fabs/1
    """
    lines = [
        line if len(line) <= width else "\n".join(wrap(line, width, **_AS_IT_IS))
        for line in text.split("\n")
    ]
    return re.sub(r"(arxiv\.org)/", r"\1\\u002f", "\n".join(lines), flags=re.I)
