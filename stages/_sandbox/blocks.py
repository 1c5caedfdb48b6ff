"""The program in an answer: its fenced blocks of one language, or the whole answer as code."""

from __future__ import annotations

import ast
import re
from typing import Final, Literal

from stages._sandbox.definitions import parsed

Blocks = Literal["all", "first", "last", "longest"]

_FENCE: Final = re.compile(
    r"^(?P<indent>[ \t]*+)(?P<fence>`{3,}+|~{3,}+)[ \t]*+(?P<language>[^\s`{]*+)[^\n`]*+\n"
    r"(?P<code>.*?)(?:^(?P=indent) {0,3}(?P=fence)[`~]*[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)


def program_of(answer: str, languages: tuple[str, ...], blocks: Blocks) -> str | None:
    r"""The program that an answer gives; None where there is none.

    Blocks of other languages, such as an output, do not count; blocks without a language do
    where none has a right one. An answer without any fence is code if it is a Python module
    that does something.

    Args:
        answer: The text of an answer.
        languages: Names behind the fence, in lower case.
        blocks: Which of several blocks: all, one after the other, or one of them.

    >>> program_of("Here:\n```python\nx = 1\n```\nIt gives\n```\n1\n```", ("python",), "all")
    'x = 1\n'
    >>> program_of("I cannot write that.", ("python",), "all") is None
    True
    """
    matches = [(m["language"].lower(), _dedented(m)) for m in _FENCE.finditer(answer)]
    if not matches:
        return answer if _does_something(answer) else None
    codes = [code for language, code in matches if language in languages]
    codes = [code for code in codes or [c for name, c in matches if not name] if code.strip()]
    if not codes:
        return None
    if blocks == "all":
        return "\n".join(codes)
    return {"first": codes[0], "last": codes[-1], "longest": max(codes, key=len)}[blocks]


def _dedented(match: re.Match[str]) -> str:
    indent = match["indent"]
    lines = match["code"].splitlines(keepends=True)
    return "".join(line.removeprefix(indent) for line in lines)


def _does_something(text: str) -> bool:
    """Whether it is a Python module of more than names, numbers and texts."""
    tree = parsed(text)
    if tree is None:
        return False
    return any(not isinstance(node, ast.Expr) or _calls(node.value) for node in tree.body)


def _calls(expression: ast.expr) -> bool:
    return any(isinstance(node, ast.Call) for node in ast.walk(expression))
