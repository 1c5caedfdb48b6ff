r"""Lists in completions: from what a chat model writes to its items.

Models are asked for one item a line, numbered, and answer in the Markdown of their training:
bold or escaped numbers, headings, "Task 1:", other scripts' commas, bullets, a fence, a table
or JSON, with a preamble and a closing remark. An item has all its lines: what stands below a
title, nested lists and code. A text without a list has no items.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

_NOUN: Final = (
    "(?:task|instruction|question|prompt|problem|exercise|example|item|topic|concept|skill|rule"
    "|suggestion|idea|query|request|action|constraint|任务|指令|问题|题目)"
)
_NUMBERED: Final = re.compile(
    rf"""
    (?P<indent>[ \t]*+) (?:>[ \t]?)*+
    (?P<heading>\#{{1,6}}[ \t]*+)? (?P<bold>\*\*|__)? [ \t]*+
    (?:
        (?P<noun>{_NOUN}[ \t]*+\#?[ \t]*+) (?P<count>\d{{1,3}})
        (?: (?P<close>\*\*|__)? [ \t]*+ (?:[.):：．）]|[-–—](?=\s)) | (?=\**[ \t]*+$) )
      |
        [(（]? (?P<number>\d{{1,3}}) [ \t]?+
        (?: \\?[.)] (?=\s|$|\*\*|__|[^\x00-\x7f]) | [、．）] )
    )
    (?P<after>\*\*|__)? [ \t]*+ (?P<text>.*)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BULLET: Final = re.compile(r"(?P<indent>[ \t]*+)[-*+•‣◦●·–][ \t]++(?P<text>\S.*)")
_HEADING: Final = re.compile(r"[ \t]*+(#{1,6})[ \t]")
_FENCE: Final = re.compile(r"[ \t]*+(`{3,}|~{3,})")
_FENCED: Final = re.compile(r"^[ \t]*(`{3,}|~{3,})[^`\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.M | re.S)
_RULE: Final = re.compile(r"[ \t]*+(?:(?:-[ \t]*+){3,}|(?:\*[ \t]*+){3,}|(?:_[ \t]*+){3,})")
_TITLE: Final = re.compile(
    r"(\*\*|__)(?=\S)(?P<title>(?:(?!\1).)+?)\1(?P<colon>[ \t]*[:：])?(?P<rest>(?:[ \t]+[-–—])?.*)"
)
_BOLD_LABEL: Final = re.compile(rf"(?:\*\*|__){_NOUN}(?:\*\*|__)?[ \t]*[:：](?:\*\*|__)?", re.I)
_CLOSING: Final = re.compile(
    r"\W*(?:and so on|etc\.?$"
    r"|(?:please )?(?:let me know|feel free)|i hope|hope (?:this|these|that)|would you like"
    r"|if you(?:['’]d|['’]re| need| want| have| would)|(?:these|those|all of these) (?:tasks"
    r"|questions|instructions|prompts|examples|items|ideas|suggestions)|希望|如果你|如果您|如需)",
    re.IGNORECASE,
)
_QUOTES: Final = (('"', '"'), ("“", "”"), ("«", "»"), ("「", "」"))
_COLUMNS: Final = re.compile(rf"\W*{_NOUN}s?\W*", re.IGNORECASE)
_COUNTS: Final = re.compile(r"\W*(?:no|nr|n|number|id|index|序号|编号)?\W*", re.IGNORECASE)
_PLAIN: Final = 7
"""The level of a mark that is no heading: below those of all headings."""
_LARGEST_GAP: Final = 5
"""A model may skip a number; a larger one at the start of a line is a year or an amount."""


@dataclass
class _Item:
    """An item with its lines as they stand below its mark."""

    number: int
    first: str
    level: int
    lines: list[str] = field(default_factory=list)
    nested: bool = False

    @property
    def announces(self) -> bool:
        """Whether a list without indent belongs to it: after a colon, a title or such a list."""
        lines = [line for line in (self.first, *self.lines) if line.strip()]
        bare = lines[-1].rstrip("*_ \t") if lines else ":"
        titled = self.level < _PLAIN or re.fullmatch(r"\s*(\*\*|__).+\1\s*", self.first)
        return bool(titled) or bare.endswith((":", "：")) or self.nested

    @property
    def paragraphs(self) -> bool:
        """Whether a paragraph follows that is neither indented nor code."""
        return any(not a.strip() and _is_prose(b) for a, b in pairwise(self.lines))


def listed_items(text: str) -> list[str]:
    r"""The items of a list, each with all its lines; what surrounds the list is left out.

    The first mark says what kind of list it is: numbers ("1.", "2)", "**3.**", "### 4.",
    "5、", "Task 6:") or bullets. Indented marks, numbers out of order, bullets behind a colon
    or a title, and code belong to the item that they stand in. A bold title loses its stars
    and stays.

    Args:
        text: A completion.

    Returns:
        The items; none where the text has no list. A table is read by the column whose head
        names the items, JSON where it is a list of texts.

    Example:
        >>> listed_items("Sure!\n\n**1.** Name a river.\n2) Sort:\n- b\n- a\n\nEnjoy!")
        ['Name a river.', 'Sort:\n- b\n- a']
        >>> listed_items("I cannot help with that.")
        []
    """
    text = text.replace("\r\n", "\n")
    items = _json_items(text) or _marked_items(text.split("\n")) or _table_items(text)
    if not items:
        items = [item for _, block in _FENCED.findall(text) for item in listed_items(block)]
    tidy = (_tidy(item) for item in items)
    return [item for item in tidy if item]


def _json_items(text: str) -> list[str]:
    for candidate in (text, *(block for _, block in _FENCED.findall(text))):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
    return []


def _marked_items(lines: Sequence[str]) -> list[str]:
    """The items behind marks of the kind of the first one."""
    outside = _outside_fences(lines)
    marks = [_NUMBERED.fullmatch(line) if free else None for line, free in outside]
    bullets = [_BULLET.fullmatch(line) if free else None for line, free in outside]
    start = next((i for i, pair in enumerate(zip(marks, bullets, strict=True)) if any(pair)), None)
    if start is None:
        return []
    if marks[start] is None:
        return _bulleted(outside[start:], bullets[start:])
    return _numbered(outside[start:], marks[start:], bullets[start:])


def _outside_fences(lines: Sequence[str]) -> list[tuple[str, bool]]:
    """Each line, and whether it stands outside of fenced code and is no rule."""
    result, fence = [], ""
    for line in lines:
        mark = _FENCE.match(line)
        if fence:
            result.append((line, False))
            fence = "" if mark and mark[1].startswith(fence) else fence
        elif mark:
            result.append((line, False))
            fence = mark[1]
        else:
            result.append(("" if _RULE.fullmatch(line) else line, True))
    return result


def _bulleted(
    lines: Sequence[tuple[str, bool]], marks: Sequence[re.Match[str] | None]
) -> list[str]:
    limit = _indent(marks[0]) + 1
    items: list[_Item] = []
    for (line, free), mark in zip(lines, marks, strict=True):
        if mark is not None and _indent(mark) <= limit:
            items.append(_Item(len(items) + 1, mark["text"], _PLAIN))
        elif not (free and _HEADING.match(line)):
            items[-1].lines.append(line)
    return _texts(items)


def _numbered(
    lines: Sequence[tuple[str, bool]],
    marks: Sequence[re.Match[str] | None],
    bullets: Sequence[re.Match[str] | None],
) -> list[str]:
    """Items in the order of their numbers; other numbers are text of the item before."""
    numbers = [_number(mark) if mark else None for mark in marks]
    limit = _indent(marks[0]) + 1
    items: list[_Item] = []
    nested = new_section = False
    for position, ((line, free), mark) in enumerate(zip(lines, marks, strict=True)):
        heading, bullet = _HEADING.match(line) if free else None, bullets[position]
        if mark is not None:
            indented = _indent(mark) > limit
            begins = not (indented and (nested or new_section)) and (
                (new_section and not indented)
                or _follows(items, numbers[position:], indented, _are_alike(numbers))
            )
            if begins:
                level = len((mark["heading"] or "").strip()) or _PLAIN
                items.append(_Item(_number(mark), _after_mark(mark), level))
                nested = new_section = False
                continue
            nested = nested or indented
        elif heading and len(heading[1]) <= items[-1].level:
            new_section = True
        elif bullet is not None and _indent(bullet) <= limit:
            items[-1].nested = items[-1].announces
            if not items[-1].nested:
                items.append(_Item(items[-1].number, bullet["text"], _PLAIN))
                continue
        if not new_section:
            items[-1].lines.append(line)
    return _texts(items)


def _follows(
    items: Sequence[_Item], rest: Sequence[int | None], indented: bool, alike: bool
) -> bool:
    """Whether the first number of the rest is the next one of the list.

    Args:
        items: Before it.
        rest: The numbers of the lines from its line on, None where a line has none.
        indented: It stands further in than the first.
        alike: All numbers are one: Markdown counts by itself.
    """
    number, last = rest[0] or 0, items[-1].number if items else 0
    if not items or last < number <= last + _LARGEST_GAP:
        return True
    if indented:
        return False
    # A second list, rather than one within an item of the first.
    return alike or (number == 1 and len(items) > 1 and last + 1 not in rest)


def _are_alike(numbers: Sequence[int | None]) -> bool:
    return len({number for number in numbers if number is not None}) == 1


def _indent(mark: re.Match[str] | None) -> int:
    return len(mark["indent"].expandtabs(4)) if mark else 0


def _number(mark: re.Match[str]) -> int:
    return int(mark["number"] or mark["count"])


def _after_mark(mark: re.Match[str]) -> str:
    """The text behind a mark, without the end of an emphasis that began before the number."""
    text = mark["text"]
    opened = mark["bold"]
    closed = mark["close"] or mark["after"]
    if opened and not closed:
        return text.replace(opened, "", 1)
    return text if opened or not closed else closed + text


def _is_prose(line: str) -> bool:
    return bool(line.strip()) and not line[0].isspace() and _FENCE.match(line) is None


def _texts(items: Sequence[_Item]) -> list[str]:
    """The items' texts, the last one without the remark that ends the completion."""
    last = items[-1]
    whole = "\n".join(last.lines).rstrip().split("\n")
    has_paragraphs = len(items) == 1 or any(item.paragraphs for item in items[:-1])
    end = len(whole)
    for position, line in enumerate(whole):
        after_blank = position > 0 and not whole[position - 1].strip()
        remark = _is_prose(line) and _CLOSING.match(line) is not None
        if remark or (after_blank and not has_paragraphs and _is_prose(line)):
            end = position
            break
    last.lines = whole[:end]
    return ["\n".join((item.first, *_dedented(item.lines))) for item in items]


def _dedented(lines: Sequence[str]) -> list[str]:
    """Lines without the indent that those of them share that are not blank."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    return [line[min(indents, default=0) :].rstrip() for line in lines]


def _tidy(item: str) -> str:
    """An item without the marks of a title, the label of its kind and quotation marks."""
    item = re.sub(r"\n{3,}", "\n\n", item.strip())
    label = _BOLD_LABEL.match(item)
    item = item[label.end() :].strip() if label else item
    head, newline, body = item.partition("\n")
    title = _TITLE.fullmatch(head)
    if title and (
        not title["rest"].strip()
        or title["colon"]
        or title["title"].rstrip().endswith((":", "："))
        or title["rest"].lstrip().startswith(("-", "–", "—"))
    ):
        item = f"{title['title']}{title['colon'] or ''}{title['rest']}{newline}{body}"
    return unquoted(item.strip())


def unquoted(text: str) -> str:
    """A text without the quotation marks that enclose it whole.

    Example:
        >>> unquoted('"Go."'), unquoted('"Go" and "stop"')
        ('Go.', '"Go" and "stop"')
    """
    for opening, closing in _QUOTES:
        inner = text[1:-1]
        if len(text) > 1 and text[0] == opening and text[-1] == closing:
            return text if opening in inner or closing in inner else inner.strip()
    return text


def _table_items(text: str) -> list[str]:
    """The cells of the column whose head names the items, or of the only one besides the count."""
    rows = [line.strip() for line in text.split("\n") if line.strip().startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    if len(cells) < 3 or not all(re.fullmatch(r":?-+:?", cell) for cell in cells[1]):
        return []
    head, body = cells[0], cells[2:]
    if any(len(row) != len(head) for row in body):
        return []
    named = [i for i, name in enumerate(head) if _COLUMNS.fullmatch(name)]
    chosen = named or [i for i, name in enumerate(head) if not _COUNTS.fullmatch(name)]
    return [row[chosen[0]] for row in body] if len(chosen) == 1 else []
