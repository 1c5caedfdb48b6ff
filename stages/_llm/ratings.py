r"""Ratings in completions: from what a chat model writes to a number.

`rating`: the grade from 1 to 5 of Instruction Backtranslation (Li et al. 2023,
arXiv:2308.06259), which ends the answer. `first_line_grade`: the number that AlpaGasus (Chen et
al. 2023, arXiv:2307.08701) reads off the first line. `leading_scores`: the two numbers of Vicuna's
judge (Zheng et al. 2023, arXiv:2306.05685). What is on another scale, or stands
between two grades, is no rating.
"""

from __future__ import annotations

import re
from typing import Final

from stages._llm.preambles import without_preamble

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
    [ \t]*+ (?P<of>\([^)\n]*\)|out[ \t]of[ \t]\d+)? [ \t]*+
    (?: [:：=] \s*+ | \n\s*+ | [ \t]is[ \t]++ ) {_VALUE}
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_ANYWHERE: Final = re.compile(rf"score[:：]\s*{_VALUE}", re.IGNORECASE | re.VERBOSE)
_AT_END: Final = re.compile(
    rf".*{_LABEL}(?:[:：]|[ \t]is)\s*{_VALUE}\s*\Z", re.IGNORECASE | re.VERBOSE | re.DOTALL
)
_TWO: Final = re.compile(r"\s*(\d+(?:\.\d+)?)[ \t]*[ \t,;/][ \t]*(\d+(?:\.\d+)?)[ \t.]*(?:\n|\Z)")
_FIRST: Final = re.compile(
    rf"""
    \s*+ [\#>]*+ (?:-[ \t])?+ [ \t]*+
    (?P<label> (?:[^\W\d]+[ \t]+){{0,3}} (?:{_LABEL}|accuracy|helpfulness)
    (?P<of>[ \t]*\([^)\n]*\))? (?:[ \t]*[:：=]|[ \t]+is\b) )? \s*+ {_VALUE}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LISTED: Final = re.compile(r"[.。)][ \t]+\S")
"""What follows the number of an item of a list."""
_FIRST_LISTED: Final = re.compile(r"(?::|[ \t]*[-–—])[ \t]+\S")
"""What may follow 1 where it counts the first reason, and is no grade."""
_ALONE: Final = re.compile(rf"\s*{_VALUE}\s*\Z", re.VERBOSE)
_SCALE: Final = re.compile(
    r"[(,（，]?[ \t]*(?:/|(?:out[ \t])?of\b)[ \t]*(\d+)[ \t]*[)）]?[ \t]*", re.IGNORECASE
)
_LABEL_SCALE: Final = re.compile(r"(?:[-–~至/]|\bto|\bof)[ \t]*(\d+)[ \t]*\)?\Z", re.IGNORECASE)
_UNIT: Final = re.compile(r"(?:stars?\b|points?\b|分|星)[ \t]*", re.IGNORECASE)
_ECHO: Final = re.compile(r"(?:-|–|—|to|or|~|至|或)[ \t]*\d", re.IGNORECASE)
_END: Final = re.compile(r"[.。!！]?\s*\Z|[,，;；(（][ \t]*\D|[-–—:][ \t]+\D|[.。][ \t]+\D")


def rating(text: str, strict: bool = True) -> int | None:
    """The rating 1 to 5 of a completion; None without one.

    Args:
        text: A completion.
        strict: The last rating that begins a line ("Score: 4", "**Rating:** 4/5") or ends
            the text counts. Otherwise the first "score: n" anywhere does, as in the
            unofficial Humback code, which reads 65 % more answers and gives a third more fives
            (reasoning such as "not yet a score: 5" among them).

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


def first_line_grade(text: str, highest: int = HIGHEST) -> float | None:
    """The grade from 0 to `highest` on the first line of a completion; None without one.

    Args:
        text: A completion; what announces the grade ("Sure, here is my rating:") is cut.
        highest: The highest grade.

    Example:
        >>> first_line_grade("4.5\\n\\nIt is right."), first_line_grade("**Score: 3.5/5**")
        (4.5, 3.5)
        >>> first_line_grade("The answer is right.\\n5"), first_line_grade("9/10")
        (None, None)
    """
    first = _FIRST.match(_MARKUP.sub("", _TAG.sub(r"\1: ", without_preamble(text))))
    if first is None or _ECHO.match(first["rest"]):
        return None
    if not first["label"] and _LISTED.match(first["rest"]):
        return None
    if not first["label"] and first["value"] == "1" and _FIRST_LISTED.match(first["rest"]):
        return None
    scale, rest = _after_unit(first["rest"])
    scale = scale or _scale_of(first)
    number = float(first["value"].replace(",", "."))
    if first["value"][0] == "-" or re.match(r"\d+,\d{3}", first["value"]):
        return None
    if (scale is not None and scale != highest) or not _END.match(rest):
        return None
    return number if number <= highest else None


def _anywhere(match: re.Match[str]) -> tuple[int | None, bool]:
    """As `_standing`, whatever prose follows."""
    rest = match["rest"]
    if _ECHO.match(rest) or rest.startswith("%"):
        return None, False
    return _grade(match["value"], _after_unit(rest)[0]), True


def _standing(match: re.Match[str]) -> tuple[int | None, bool]:
    """The grade, None for one of another scale, and whether it is a rating and no echo of one."""
    rest = match["rest"]
    if _ECHO.match(rest):
        return None, not rest.rstrip().endswith(str(HIGHEST))
    scale, rest = _after_unit(rest)
    grade = _grade(match["value"], scale or _scale_of(match))
    return (grade, True) if _END.match(rest) else (None, True)


def _after_unit(rest: str) -> tuple[int | None, str]:
    """The scale that follows a number ("/5", "out of 5"), and what follows scale and unit."""
    scale = _SCALE.match(rest)
    rest = rest[scale.end() :] if scale else rest
    unit = _UNIT.match(rest)
    return (int(scale[1]) if scale else None), (rest[unit.end() :] if unit else rest)


def _scale_of(match: re.Match[str]) -> int | None:
    """The scale that a label names: "Score (out of 10)", "Rating (1-5)"."""
    scale = _LABEL_SCALE.search(match.groupdict().get("of") or "")
    return int(scale[1]) if scale else None


def _grade(value: str, scale: int | None) -> int | None:
    number = float(value.replace(",", "."))
    if scale is not None and scale != HIGHEST:
        return None
    return int(number) if number in range(1, HIGHEST + 1) else None


def leading_scores(text: str, highest: int = 10) -> tuple[float, float] | None:
    """The two scores that a judgement of two answers begins with; None without them.

    Args:
        text: A completion, whose first line holds the two numbers and nothing else.
        highest: The highest score.

    Example:
        >>> leading_scores("7 9\\nThe first one is short."), leading_scores("8.5, 9")
        ((7.0, 9.0), (8.5, 9.0))
        >>> leading_scores("70 9"), leading_scores("7 of 10"), leading_scores("7 9 8")
        (None, None, None)
    """
    match = _TWO.match(_MARKUP.sub("", without_preamble(text)))
    scores = (float(match[1]), float(match[2])) if match else None
    return scores if scores and max(scores) <= highest else None
