"""Parsers of completions with labels: pure functions from raw text to fields.

A model that runs away fills its completion with blank lines, spaces or stars up to the
limit. Patterns therefore begin in the line that they match and use possessive quantifiers
(`*+`), which do not backtrack: otherwise they would take quadratic time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

PAIR: Final = ("Question", "Answer")

_AROUND: Final = " \t\r\n*"
_RULE: Final = re.compile(r"[\s#*]*")
_BLOCK: Final = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
_TESTS: Final = re.compile(
    r"^(?:[^\S\n]|[#*])*+(?:\[tests?\]|(?:unit )?tests?\s*:?)[*: \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


def sections(text: str, labels: Sequence[str], empty: str = "") -> list[dict[str, str]]:
    r"""Groups of "Label: content", one for each time that all labels occur in their order.

    Marks before and around a label do not matter, nor does its case. A label out of order
    is part of the content before it. Groups that lack a label or a content are left out.

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
    named = "|".join(re.escape(label) for label in labels)
    pattern = rf"^([ \t#*>-]*+(?:\d+[.)])?[ \t*]*+(?:{named})[ \t]*+\d*[ \t*]*+:[*]*)"
    _, *parts = re.split(pattern, text, flags=re.IGNORECASE | re.MULTILINE)
    groups: list[dict[str, str]] = []
    for mark, content in zip(parts[::2], parts[1::2], strict=True):
        label = next(name for name in labels if name.casefold() in mark.casefold())
        expected = labels[len(groups[-1])] if groups and len(groups[-1]) < len(labels) else None
        if label == expected:
            groups[-1][label] = content
        elif label == labels[0]:
            groups.append({label: content})
        elif groups:
            last = [*groups[-1]][-1]
            groups[-1][last] += mark + content
    tidy = [{name: text.strip(_AROUND) for name, text in group.items()} for group in groups]
    return [
        group
        for group in tidy
        if len(group) == len(labels) and all(group[name] for name in labels if name != empty)
    ]


def one_section(text: str, labels: Sequence[str]) -> dict[str, str] | None:
    """The only group of `sections`; None unless there is exactly one."""
    groups = sections(text, labels)
    return groups[0] if len(groups) == 1 else None


def code_blocks(text: str) -> list[str]:
    """The contents of the fenced blocks of a text."""
    return _BLOCK.findall(text)


def answer_and_tests(text: str) -> tuple[str, str] | None:
    """An answer and the code of the tests that follow a heading; None without either.

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
    answer, tests = "\n".join(lines).strip(), code_blocks(text[mark.end() :])
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
        next((i for i, line in enumerate(lines) if heading in line.lower()), None)
        for heading in ("[problem description]", "[solution]")
    )
    if problem is None or solution is None or problem >= solution:
        return None
    first = "".join(lines[problem + 1 : solution]).strip()
    second = "".join(lines[solution + 1 :]).strip()
    return (first, second) if first and second else None
