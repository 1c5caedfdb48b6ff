r"""Short answers as values: numbers, choices, yes or no, else texts; and whether two are equal.

Both sides go through the same reader. A number may have a sign, thousands in groups of three, an
exponent, a currency, a percent sign, a unit behind it, or be a fraction, a mixed number or LaTeX's
`\frac`; it is exact. A unit is up to three words, or a known unit right behind the digits: `18 red
apples` and `18km` are numbers; `2n`, `2 x`, `5!`, `2 million` and `5 is wrong` are not. Two
answers are compared as the gold answer's kind says:

- numbers are equal if their values are. A unit counts only where both have one, a currency
  likewise. A percent sign on one side alone matches the number before it, and its hundredth: 60%
  is 60 and 0.6;
- choices by their letter, whatever follows it but another letter: `(B) Paris` is B, `(B) or (C)`
  is none;
- yes and no, true and false, by the word, where a mark, a clause or nothing follows it;
- all else as `normalized_answer` writes it.

What cannot be read as the gold answer's kind is not a wrong answer: the comparison is None.

>>> equal(r"\frac{1}{2}", "0.5"), equal("$1,000.00", "1000 dollars"), equal("(B) Paris", "B")
(True, True, True)
>>> equal("60%", "0.6"), equal("18 km", "18 m"), equal("It depends.", "12")
(True, False, None)
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

from stages._text.final_answer import UNSPACED, normalized_answer

_MAX_CHARS: Final = 500
"""Characters beyond which a text is no number; a longer one would only take long to read."""

_MAX_UNIT_WORDS: Final = 3
_DIGITS: Final = r"\d+(?:\.\d*)?|\.\d+"
_NUMBER: Final = re.compile(
    rf"""
    (?P<sign>[-+−]?)\s*
    (?P<currency>[$€£¥₹]?)\s*
    (?P<minus>[-−]?)\s*
    (?:
        (?P<whole>\d+)\s+(?P<numerator>\d+)\s*/\s*(?P<denominator>\d+)
      | (?P<top>{_DIGITS})\s*/\s*(?P<under>-?(?:{_DIGITS}))
      | 10\s*\^\s*\{{?(?P<of_ten>[-+]?\d{{1,3}})\}}?
      | (?P<digits>{_DIGITS})(?:e(?P<exponent>[-+]?\d{{1,3}})|\s*(?:×|x|\\times)\s*10\s*\^\s*
        \{{?(?P<power>[-+]?\d{{1,3}})\}}?)?
    )
    (?:\s*(?P<percent>\\?%|percent\b))?
    (?P<unit>(?:\s*+[^\d\s.,].*)?)  # whether it is one: _is_unit
    """,
    re.VERBOSE,
)
_DOLLAR: Final = re.compile(r"\\\$|\$(?=\s*-?[\d.])(?![^$]*\$)")
"""A currency sign: in LaTeX, or one that is no half of a pair around mathematics."""

_KNOWN_UNIT: Final = (
    r"(?:[kcmµn]?m|[kmµ]?g|m?l|m?s|h|[km]?w|k?wh|kj|[mk]?hz|[kmgt]b|k?cal|[km]?v|[kmg]?pa"
    r"|hrs?|mins?|secs?|lbs?|oz|ft|yds?|in|mi|mph|kmh|kph|sq|[ap]m|st|nd|rd|th|us"
    r"|hours?|minutes?|seconds?|days?|weeks?|months?|years?|cents?|units?|degrees?|°[cf]?"
    r"|miles?|yards?|foot|feet|inch(?:es)?|(?:kilo|centi|milli)?(?:met(?:er|re)|gram|lit(?:er|re))s?"
    r"|pounds?|dollars?|usd|euros?|eur|gbp|[€£¥₹])"
)
_POWER: Final = r"(?:\^?\{?-?[1-4]\}?)?"
_UNSPACED_UNIT: Final = rf"[{UNSPACED}]+"
_KNOWN: Final = rf"{_KNOWN_UNIT}{_POWER}(?:[/·]{_KNOWN_UNIT}{_POWER})*"
_GLUED: Final = re.compile(rf"{_KNOWN}|{_UNSPACED_UNIT}")
_LETTERS: Final = r"(?:[^\W\d_]|[\u0300-\u036f\u0590-\u109f]){3,}"
_UNIT_WORD: Final = re.compile(
    rf"(?:{_KNOWN}|{_UNSPACED_UNIT}|{_LETTERS}(?:[-/'’]{_LETTERS})*|of|o'clock|[ap]\.m)\.?"
)
"""Two letters that are no known unit may be a product, as of x and y."""

_ARTICLE: Final = re.compile(r"(?<=\w)\s+an?(?=\s+\w)")
"""In a rate: a dollar a day."""

_NO_UNIT: Final = re.compile(
    r"is|are|was|were|not|nor|and|but|than|then|which|that|because|since|wrong|incorrect|right"
    r"|correct|unless|when|where|plus|minus|times|squared|cubed|factorial|over|hundred|thousand"
    r"|million|billion|trillion|dozen|sqrt|sin|cos|tan|log|exp|mod|theta|alpha|beta|lambda"
)
"""Words that make a number another number, or a sentence."""

_DEGREES: Final = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))")
_FACTORIAL: Final = re.compile(r"(?<=[\d)])!|(?<=\b[A-Za-z])!")
"""A mark that belongs to the value; that of a sentence is left out of a comparison."""

_TIMES: Final = re.compile(r"(?<=\d)\s*\*\s*(?=\d)")
_BARE_POINT: Final = re.compile(r"(?<![\d.])\.(?=\d)")
_SHORT_FRACTION: Final = re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)")
_EQUATION: Final = re.compile(r"^\s*[a-z]\w*\s*=\s*(?=[^=]*$)")
_CURRENCY_WORDS: Final = {
    "dollar": "$", "dollars": "$", "usd": "$", "euro": "€", "euros": "€", "eur": "€",
    "pound": "£", "pounds": "£", "gbp": "£", "yen": "¥", "rupees": "₹", "rupee": "₹",
}  # fmt: skip
_CHOICE: Final = re.compile(
    r"(?:option|choice|answer)?\s*(?:\(\s*([a-j])\s*\)|([a-j])\s*(?:[).:]|$))", re.IGNORECASE
)
_GOLD_CHOICE: Final = re.compile(r"\(?\s*([A-J])\s*[).:]?|\(\s*([a-j])\s*\)")
_TRUTH: Final = {"yes": True, "true": True, "no": False, "false": False}
_OTHER_CHOICE: Final = re.compile(
    r"(?:(?<!\w)|(?<=\bor)|(?<=\band))\(\s*([a-j])\s*\)"
    r"|(?:\b(?:or|and)\b|[,/&])\s*([a-j])(?=\s*(?:$|[).:,/&]))"
)
_TRUTH_WORD: Final = re.compile(
    r"\W*(yes|no|true|false)\b"
    r"(?=[\s*_\"'”’)\]}$]*(?:$|[,;:!?(，。；：！？—–]|\.(?!\s*\d)|-\s"
    r"|\b(?:it|he|she|they|we|i|you|this|that|there|because|since|as)\b))",
    re.IGNORECASE,
)
"""What follows is an end, a mark, or the clause of a reason: no "No one knows"."""

_OTHER_TRUTH: Final = re.compile(
    r"(?:\b(?:and|or)|[/,;.!?])\W*(yes|no|true|false)\b(?=\W*(?:$|[,.;!?]))", re.IGNORECASE
)


class Number(NamedTuple):
    """A number that an answer gives.

    Attributes:
        value: Its value, that of the percent sign left out.
        is_percent: Whether a percent sign follows.
        unit: The unit or currency in lower case, "" for none.
    """

    value: Fraction
    is_percent: bool
    unit: str


def number(text: str) -> Number | None:
    r"""The number that a text is; None where it is none, or more than one.

    Args:
        text: A short answer.

    >>> number(r"$\frac{3}{4}$ cups")
    Number(value=Fraction(3, 4), is_percent=False, unit='cups')
    >>> number("3 or 4") is None
    True
    """
    if len(text) > _MAX_CHARS:
        return None
    text = _EQUATION.sub("", _plain(text))
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    value = _value(match)
    if value is None:
        return None
    negative = (match["sign"] in {"-", "−"}) != bool(match["minus"])
    unit = match["unit"].strip(" .")
    if not _is_unit(unit, is_glued=not match["unit"].startswith(" ")):
        return None
    unit = match["currency"] or _CURRENCY_WORDS.get(unit, unit)
    return Number(-value if negative else value, bool(match["percent"]), unit)


def _is_unit(text: str, *, is_glued: bool) -> bool:
    """Whether what follows a number is a unit, or nothing."""
    words = _ARTICLE.sub("", text).split()
    if is_glued and words and not _GLUED.fullmatch(words[0]):
        return False
    fits = (_UNIT_WORD.fullmatch(word) and not _NO_UNIT.fullmatch(word) for word in words)
    return len(words) <= _MAX_UNIT_WORDS and all(fits)


def _plain(text: str) -> str:
    """In one form of numbers and fractions, a currency sign still there."""
    text = _DOLLAR.sub("¤", _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text))
    text = _TIMES.sub("×", _BARE_POINT.sub("0.", _DEGREES.sub("°", text)))
    return _normalized(text).replace("¤", "$")


def _normalized(text: str) -> str:
    """As answers are compared, the sign of a factorial still there."""
    return normalized_answer(_FACTORIAL.sub("ǃ", text))


def _value(match: re.Match[str]) -> Fraction | None:
    try:
        if match["whole"]:
            return int(match["whole"]) + Fraction(
                int(match["numerator"]), int(match["denominator"])
            )
        if match["top"]:
            return Fraction(_decimal(match["top"])) / Fraction(_decimal(match["under"]))
        if match["of_ten"]:
            return Fraction(10) ** int(match["of_ten"])
        exponent = int(match["exponent"] or match["power"] or 0)
        return Fraction(_decimal(match["digits"])) * Fraction(10) ** exponent
    except ZeroDivisionError:
        return None


def _decimal(digits: str) -> str:
    return f"{digits}0" if digits.endswith(".") else digits


def equal(answer: str, gold: str, tolerance: float = 0.0) -> bool | None:
    """Whether an answer is the gold one.

    Args:
        answer: A short answer.
        gold: The right one, which says what kind of answer it is.
        tolerance: The relative difference up to which numbers are equal.

    Returns:
        None where the answer cannot be read as one of the gold answer's kind, or the gold one is
        empty.
    """
    if (choice := _GOLD_CHOICE.fullmatch(gold.strip())) is not None:
        letter = _only(_CHOICE, _OTHER_CHOICE, normalized_answer(answer))
        return None if letter is None else letter == (choice[1] or choice[2]).lower()
    if (truth := _TRUTH.get(normalized_answer(gold))) is not None:
        word = _only(_TRUTH_WORD, _OTHER_TRUTH, answer)
        return None if word is None else _TRUTH[word] is truth
    if (right := number(gold)) is not None:
        left = number(answer)
        return None if left is None else _equal_numbers(left, right, tolerance)
    left_text, right_text = _normalized(answer), _normalized(gold)
    return left_text == right_text if left_text and right_text else None


def _only(first: re.Pattern[str], other: re.Pattern[str], text: str) -> str | None:
    """The letter or word that a text begins with; None where it gives another one beside it."""
    match = first.match(text)
    if match is None:
        return None
    value = str(match[match.lastindex or 1]).lower()
    others = other.finditer(text, match.end())
    beside = {str(each[each.lastindex or 1]).lower() for each in others}
    return None if beside - {value} else value


def _equal_numbers(a: Number, b: Number, tolerance: float) -> bool:
    if a.unit and b.unit and a.unit != b.unit:
        return False
    values = {a.value, a.value / 100} if a.is_percent and not b.is_percent else {a.value}
    others = {b.value, b.value / 100} if b.is_percent and not a.is_percent else {b.value}
    allowed = Fraction(tolerance)
    return any(abs(x - y) <= allowed * max(abs(x), abs(y)) for x in values for y in others)
