"""Parsers of completions with labels: pure functions from raw text to fields.

A model that runs away fills its completion with blank lines, spaces or stars up to the
limit. Patterns therefore begin in the line that they match and use possessive quantifiers
(`*+`), which do not backtrack: otherwise they would take quadratic time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from stages._llm.preambles import without_preamble

PAIR: Final = ("Question", "Answer")

_AROUND: Final = " \t\r\n*"
_RULE: Final = re.compile(r"[\s#*]*")
_RULES_AROUND: Final = re.compile(r"\A(?:\s*-{3,}[ \t]*(?:\n|\Z))+|(?:(?:\n|\A)[ \t]*-{3,}\s*)+\Z")
_BLOCK: Final = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n"
    r"(?P<code>.*?)^(?P=indent) {0,3}(?P=fence)[`~]*[ \t]*$",
    re.DOTALL | re.MULTILINE,
)
_TESTS: Final = re.compile(
    r"^(?:[^\S\n]|[#*])*+(?:\[tests?\]|(?:unit )?tests?(?: cases?)?\s*:?)[*: \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


def sections(text: str, labels: Sequence[str], empty: str = "") -> list[dict[str, str]]:
    r"""Groups of "Label: content", one for each time that all labels occur in their order.

    Marks before and around a label do not matter, nor does its case. A heading or an emphasis
    needs no colon. A label out of order, or in fenced code, is part of the content before it.
    Groups that lack a label or a content are left out.

    Args:
        text: A completion.
        labels: In their order.
        empty: The label whose content may be empty.

    Returns:
        For each group its contents by label.

    Example:
        >>> sections("Sure!\n**Question:** Who?\nAnswer: Ada.\nQuestion: When?", PAIR)
        [{'Question': 'Who?', 'Answer': 'Ada.'}]
    """
    groups: list[dict[str, str]] = []
    for label, mark, content in _labelled(text, labels):
        expected = labels[len(groups[-1])] if groups and len(groups[-1]) < len(labels) else None
        if label == expected:
            groups[-1][label] = content
        elif label == labels[0]:
            groups.append({label: content})
        elif groups:
            last = [*groups[-1]][-1]
            groups[-1][last] += mark + content
    tidy = [{name: _tidy(text) for name, text in group.items()} for group in groups]
    return [
        group
        for group in tidy
        if len(group) == len(labels) and all(group[name] for name in labels if name != empty)
    ]


def labelled_lines(text: str, labels: Sequence[str]) -> dict[str, str] | None:
    r"""The first paragraph below or behind each label, in whatever order they stand.

    Args:
        text: A completion.
        labels: All of them must occur, with a content.

    Returns:
        The contents by label; None where one is missing.

    Example:
        >>> labelled_lines("**B:** two\n### A\none\n\nEnjoy!", ("A", "B"))
        {'A': 'one', 'B': 'two'}
    """
    contents: dict[str, str] = {}
    for label, _, content in _labelled(text, labels):
        contents.setdefault(label, _tidy(content).partition("\n\n")[0])
    ordered = {label: contents.get(label, "") for label in labels}
    return ordered if all(ordered.values()) else None


def _labelled(text: str, labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """Each label that stands before a content, with its mark as written and the content."""
    text = text.replace("\r\n", "\n")
    named = "|".join(re.escape(label) for label in labels)
    pattern = (
        rf"^[ \t#*>_-]*+(?:\d+[.)])?[ \t*_]*+(?:{named})[ \t]*+#?\d*[ \t*_]*+[:：][*_]*"
        rf"|^[ \t>]*+(?:\#{{1,6}}[ \t]*+[*_]*|\*\*|__)[ \t]*+(?:{named})[ \t]*+\#?\d*[*_]*[ \t]*+$"
    )
    blocks = [match.span() for match in _BLOCK.finditer(text)]
    marks = [
        match
        for match in re.finditer(pattern, text, flags=re.IGNORECASE | re.MULTILINE)
        if not any(start < match.start() < end for start, end in blocks)
    ]
    ends = [match.start() for match in marks[1:]] + [len(text)] * bool(marks)
    return [
        (_named(match[0], labels), match[0], text[match.end() : end])
        for match, end in zip(marks, ends, strict=True)
    ]


def _named(mark: str, labels: Sequence[str]) -> str:
    return next(name for name in labels if name.casefold() in mark.casefold())


def _tidy(content: str) -> str:
    """A content without rules, white space and the half of an emphasis around it."""
    content = _RULES_AROUND.sub("", content).strip()
    bare = content.strip(_AROUND)
    return content if bare.count("**") % 2 and not content.count("**") % 2 else bare


def one_section(text: str, labels: Sequence[str]) -> dict[str, str] | None:
    """The only group of `sections`; None unless there is exactly one."""
    groups = sections(text, labels)
    return groups[0] if len(groups) == 1 else None


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    r"""The fenced blocks of a text: what follows each opening fence in its line, and the code.

    Example:
        >>> fenced_blocks("Here:\n```python\nf = abs\n```\nand\n~~~\n1\n~~~")
        [('python', 'f = abs\n'), ('', '1\n')]
    """
    blocks = _BLOCK.finditer(text.replace("\r\n", "\n"))
    return [
        (match["info"].strip(), re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M))
        for match in blocks
    ]


def code_blocks(text: str) -> list[str]:
    """The contents of the fenced blocks of a text, without the indent of their fences."""
    return [code for _, code in fenced_blocks(text)]


def answer_and_tests(text: str) -> tuple[str, str] | None:
    """An answer and the code of the tests that follow a heading; None without either.

    An announcement before the answer is left out.

    Example:
        >>> answer_and_tests("f = abs\\n[Tests]\\n```\\nassert f(-1) == 1\\n```")
        ('f = abs', 'assert f(-1) == 1')
    """
    mark = _TESTS.search(text)
    if mark is None:
        return None
    lines = text[: mark.start()].split("\n")
    while lines and _RULE.fullmatch(lines[-1]):
        lines.pop()
    answer, tests = without_preamble("\n".join(lines)), code_blocks(text[mark.end() :])
    return (answer, "\n".join(tests).strip()) if answer and any(map(str.strip, tests)) else None


def problem_and_solution(text: str) -> tuple[str, str] | None:
    r"""The texts that follow the two headings of OSS-Instruct, each to the end of its part.

    None where a heading or a text is missing, or the headings are in the other order.

    Example:
        >>> problem_and_solution("[Problem Description]\nAdd.\n[Solution]\n2 + 3")
        ('Add.', '2 + 3')
    """
    lines = text.splitlines(keepends=True)
    problem, solution = (
        next((i for i, line in enumerate(lines) if _is_heading(line, heading)), None)
        for heading in ("problem description", "solution")
    )
    if problem is None or solution is None or problem >= solution:
        return None
    first = "".join(lines[problem + 1 : solution]).strip()
    second = "".join(lines[solution + 1 :]).strip()
    return (first, second) if first and second else None


def _is_heading(line: str, heading: str) -> bool:
    """Whether a heading stands in brackets in a line, or alone in it with marks around it."""
    marked = re.fullmatch(r"[ \t]*(?:#+|\*\*|__)[ \t]*(.*?)[\s:*_]*", line.lower())
    return f"[{heading}]" in line.lower() or bool(marked and marked[1] == heading)
