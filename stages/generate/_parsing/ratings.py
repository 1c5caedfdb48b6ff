r"""Ratings in completions: from what a chat model writes to a number from 1 to 5.

The ratings are those of Instruction Backtranslation (Li et al. 2023, arXiv:2308.06259). What
is on another scale, between two grades or none of the five is no rating.
"""

from __future__ import annotations

import re
from typing import Final

HIGHEST: Final = 5

_MARKUP: Final = re.compile(r"</\w+>|\\boxed|[*_`\"'{}\[\]$]+")
_TAG: Final = re.compile(r"<(score|rating)>", re.IGNORECASE)
_LABEL: Final = r"(?:score|rating|grade|评分|分数|得分|评级)"
_VALUE: Final = r"""
    (?P<value>[-+]?\d+(?:[.,]\d+)?)
    [ \t]*(?P<rest>[^\n]*)
"""
_LINE: Final = re.compile(
    rf"""
    ^[ \t\#>-]*+ (?:(?:my|the|final|overall|total)[ \t]+)*+ {_LABEL}
    [ \t]*+ (?:\([^)\n]*\)|out[ \t]of[ \t]\d+)? [ \t]*+
    (?: [:：=] \s*+ | \n\s*+ | [ \t]is[ \t]++ ) {_VALUE}
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_ANYWHERE: Final = re.compile(rf"score[:：]\s*{_VALUE}", re.IGNORECASE | re.VERBOSE)
_AT_END: Final = re.compile(
    rf".*{_LABEL}(?:[:：]|[ \t]is)\s*{_VALUE}\s*\Z", re.IGNORECASE | re.VERBOSE | re.DOTALL
)
_ALONE: Final = re.compile(rf"\s*{_VALUE}\s*\Z", re.VERBOSE)
_SCALE: Final = re.compile(r"(?:/|out[ \t]of)[ \t]*(\d+)[ \t]*", re.IGNORECASE)
_UNIT: Final = re.compile(r"(?:stars?\b|points?\b|分|星)[ \t]*", re.IGNORECASE)
_ECHO: Final = re.compile(r"(?:-|–|—|to|or|~|至|或)[ \t]*\d", re.IGNORECASE)
_END: Final = re.compile(r"[.。!！]?\s*\Z|[,，;；(（][ \t]*\D|[-–—:][ \t]+\D|[.。][ \t]+\D")


def rating(text: str, strict: bool = True) -> int | None:
    """The rating 1 to 5 of a completion; None without one.

    Args:
        text: A completion.
        strict: The last rating that begins a line ("Score: 4", "**Rating:** 4/5") or ends
            the text counts. Otherwise the first "score: n" anywhere does, as in the
            unofficial Humback code, which finds a third more ratings (and reads reasoning
            such as "not yet a score: 5").

    Example:
        >>> rating("Not a score: 5 yet. Score: 2"), rating("Not a score: 5 yet.", strict=False)
        (2, 5)
        >>> rating("**Rating: 4/5**"), rating("Score: 4/10"), rating("Score: 3 or 4")
        (4, None, None)
    """
    plain = _MARKUP.sub("", _TAG.sub(r"\1: ", text))
    if not strict:
        grades = (_anywhere(match) for match in _ANYWHERE.finditer(plain))
        return next((grade for grade, counts in grades if counts), None)
    written = [grade for grade, counts in map(_standing, _LINE.finditer(plain)) if counts]
    at_end = _AT_END.match(plain) or _ALONE.match(plain)
    ending = _standing(at_end)[0] if at_end else None
    return ending or (written[-1] if written else None)


def _anywhere(match: re.Match[str]) -> tuple[int | None, bool]:
    """As `_standing`, whatever prose follows."""
    rest = match["rest"]
    if _ECHO.match(rest) or rest.startswith("%"):
        return None, False
    return _grade(match["value"], _SCALE.match(rest)), True


def _standing(match: re.Match[str]) -> tuple[int | None, bool]:
    """The grade, None for one of another scale, and whether it is a rating and no echo of one."""
    rest = match["rest"]
    if _ECHO.match(rest):
        return None, not rest.rstrip().endswith(str(HIGHEST))
    scale = _SCALE.match(rest)
    rest = rest[scale.end() :] if scale else rest
    unit = _UNIT.match(rest)
    rest = rest[unit.end() :] if unit else rest
    grade = _grade(match["value"], scale)
    return (grade, True) if _END.match(rest) else (None, True)


def _grade(value: str, scale: re.Match[str] | None) -> int | None:
    number = float(value.replace(",", "."))
    if scale is not None and int(scale[1]) != HIGHEST:
        return None
    return int(number) if number in range(1, HIGHEST + 1) else None
