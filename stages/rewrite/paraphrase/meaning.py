r"""What a rewritten text must keep, found by rules: no model is asked.

Digits, quoted strings, code, placeholders and names of the old text stand in the new one, and no
number, placeholder or name is new; percent stay percent, and no two numbers change places beside
the same words. Number words count by their value: "two" may become 2, and not
3; a digit stays a digit. What is no name is not taken for one: words at the beginning of a
sentence, and texts in which most words are capitalised (German, headlines). Such texts, and
what no rule sees, are for the judge (`judging.py`).

Example:
    >>> change("Add 12 and 30.", "Sum up 12 and 30."), change("Add 12 and 30.", "Add 12 and 31.")
    (None, ('number_changed', {'lost': ['30'], 'new': ['31']}))
    >>> change("Add 5% to it.", "To it, add 5.")
    ('number_changed', {'lost': ['5%'], 'new': ['5']})
    >>> change("Ask Ms. Vogel about it.", "Put it to Ms. Vogt.")
    ('name_changed', {'lost': ['Vogel'], 'new': ['Vogt']})
    >>> change("Fill {slot} in.", "Fill it in.")
    ('slot_lost', {'lost': ['{slot}'], 'new': []})
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Final

from schemas.refusals import REFUSAL
from stages._llm.rows import Rejection
from stages._text.answers import number
from stages._text.final_answer import final_answer, holds_answer
from stages._text.languages import identifier

MAX_ANSWER_WORDS: Final = 6
"""How many words a short answer has, which an instruction must not tell."""

MIN_LETTERS: Final = 40
"""Letters of the shortest text whose language is identified; scripts show in any."""

MIN_CONFIDENCE: Final = 0.9

_SHOWN: Final = 8
"""How many lost or new pieces are evidence."""

_LANGUAGE_CHARACTERS: Final = 600
"""Of a text that are read for its language."""

_CODE: Final = re.compile(r"```[^\n`]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
_QUOTED: Final = re.compile(
    r"\"([^\"\n]{1,300})\"|“([^“”\n]{1,300})”|«([^«»\n]{1,300})»|「([^「」\n]{1,300})」"
    r"|„([^„“”\n]{1,300})[“”]"
)
_SLOT: Final = re.compile(
    r"\{\{[^{}\n]{0,80}\}\}|\{[^\W\d]\w*(?: \w+){0,4}\}|\{\d*\}|<[A-Za-z_][\w -]{0,40}>"
    r"|\[[A-Z_]{2,}[A-Z_ \d]*\]|\[(?:your|name|insert|input)[^\]\n]{0,40}\]|\$\{\w+\}"
    r"|%(?:\(\w+\))?[sd]\b|_{3,}",
)
_NUMBER: Final = re.compile(
    r"(?:(?<![\w.,)\]%−-])[−-](?=\.?\d))?(?:(?<![\w.])\.(?=\d))?\d(?:[\d,.]*\d)?"
)
"""Digits as a whole, also behind letters (b12), with a sign and as .75."""
_PERCENT: Final = re.compile(
    r"\s?(?:[%％٪]|per ?cent|procent|prozent|pour cent|por ciento|por cento|per cento|процент)",
    re.IGNORECASE,
)
_NEIGHBOUR: Final = r"([^\W\d_]+|[$€£¥])"
_BEFORE_NUMBER: Final = re.compile(_NEIGHBOUR + r"[\s(]*\Z")
_AFTER_NUMBER: Final = re.compile(r"[\s)-]*" + _NEIGHBOUR)
_JOINING: Final = frozenset(
    {"and", "or", "plus", "times", "und", "oder", "et", "ou", "y", "e", "o"}
)
"""Words on whose sides numbers may change places."""
_ADDRESS: Final = re.compile(
    r"https?://\S+|\b[\w.+-]{1,64}@[\w-]{1,64}\.[\w.]{1,99}|(?<!\w)[@#]\w+"
)
_WORD: Final = re.compile(r"[^\W\d_](?:[\w'’-]*\w)?")
_SENTENCE_START: Final = re.compile(r"(?:\A|[.!?:;。！？\n]|^[ \t]*[-*•\d.)]+)[\s\"'“”«»(\[*_]*\Z")
_TITLES: Final = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "no", "vs"})
_LOOK_BACK: Final = 12
_MAX_WORD: Final = 40
"""Characters before a number in which the word before it is looked for."""
_CAPITALISED: Final = 0.3
"""The fraction of capitalised words within sentences from which on they are no names."""

_MIN_STEM: Final = 4

_NUMBER_WORDS: Final = {
    "zero": "0", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "dozen": "12",
    "thirteen": "13", "fourteen": "14", "fifteen": "15", "sixteen": "16", "seventeen": "17",
    "eighteen": "18", "nineteen": "19", "twenty": "20", "thirty": "30", "forty": "40",
    "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
    "hundred": "100", "thousand": "1000", "million": "1000000",
}  # fmt: skip
"""Without "one", which is a pronoun as well."""

_NO_NAMES: Final = frozenset({"i", "i'm", "i'd", "i'll", "i've"})


def change(before: str, after: str) -> Rejection | None:
    """What a text lost or gained that it must keep; None where nothing is.

    Args:
        before: The old text.
        after: The new one.
    """
    if plain_words(before) == plain_words(after):
        return "identical", {"text": after[:200]}
    if not after.strip() or (refuses(after) and not refuses(before)):
        return "meaning_changed", {"why": "the new text is empty or refuses", "text": after[:200]}
    slots = _difference(_SLOT.findall(before), _SLOT.findall(after))
    if slots:
        return "slot_lost", slots
    lost = _lost_literals(before, after)
    if lost:
        return "meaning_changed", {"why": "quoted words or code are lost", "lost": lost[:_SHOWN]}
    numbers = _changed_numbers(before, after) or _swapped_numbers(before, after)
    if numbers:
        return "number_changed", numbers
    names = _changed_names(before, after)
    if names:
        return "name_changed", names
    return changed_language(before, after)


def plain_words(text: str) -> list[str]:
    """The words of a text, by which two are the same: without case and marks.

    Args:
        text: Any text; of one without words all that is not white space.
    """
    normal = unicodedata.normalize("NFKC", text).casefold()
    return re.findall(r"\w+", normal) or normal.split()


def refuses(text: str) -> bool:
    """Whether a text opens by refusing.

    Args:
        text: What a model wrote.
    """
    return _refusal().match(text[:400]) is not None


@cache
def _refusal() -> re.Pattern[str]:
    return re.compile(REFUSAL)


def leak(before: str, after: str, answer: str) -> Rejection | None:
    """The answer in a new instruction that the old one did not hold.

    Args:
        before: The old instruction, with its input.
        after: The new one.
        answer: The row's answer. A short one counts as a whole; of a long one its first line.

    Example:
        >>> leak("Name a sea.", "Name a sea, such as the Baltic.", "The Baltic")
        ('answer_leaked', {'answer': 'The Baltic'})
        >>> leak("Is it A or B?", "Choose A or B.", "A") is None
        True
    """
    short = final_answer(answer, MAX_ANSWER_WORDS) or answer.strip().split("\n")[0][:300]
    is_letter = len(short.strip(" ().")) == 1 and not short.strip(" ().").isdigit()
    if is_letter or not holds_answer(after, short) or holds_answer(before, short):
        return None
    return "answer_leaked", {"answer": short[:200]}


def _difference(before: Iterable[str], after: Iterable[str]) -> dict[str, list[str]] | None:
    """What one has more of than the other, in order."""
    old, new = Counter(before), Counter(after)
    if old == new:
        return None
    return {"lost": sorted(old - new)[:_SHOWN], "new": sorted(new - old)[:_SHOWN]}


def _lost_literals(before: str, after: str) -> list[str]:
    """Quoted strings and code that the new text does not hold word for word."""
    pieces = [next(filter(None, match.groups()), "") for match in _CODE.finditer(before)]
    outside = _CODE.sub(" ", before)
    pieces += [next(filter(None, match.groups()), "") for match in _QUOTED.finditer(outside)]
    squeezed = " ".join(after.split())
    return [piece for piece in pieces if " ".join(piece.split()).strip(" .,;:!?") not in squeezed]


def _changed_numbers(before: str, after: str) -> dict[str, list[str]] | None:
    """Digits that are lost, and values, of digits or words, that are lost or new."""
    old, new = _digits(before), _digits(after)
    missing = old - new
    values = (old | _worded(before)) ^ (new | _worded(after))
    if not missing and not values:
        return None
    lost = sorted(missing | (values & (old | _worded(before))))
    return {"lost": lost[:_SHOWN], "new": sorted(values - set(lost))[:_SHOWN]}


def _digits(text: str) -> set[str]:
    """The values of what is written in digits, in one form; percent are values of their own."""
    return {
        _value(match[0]) + "%" * bool(_PERCENT.match(text, match.end()))
        for match in _NUMBER.finditer(text)
    }


def _swapped_numbers(before: str, after: str) -> dict[str, list[str]] | None:
    """Two numbers of which each stands where the other stood: beside the same word.

    Example:
        >>> _swapped_numbers("Take 12 from 30.", "Take 30 from 12.")
        {'swapped': ['12', '30']}
        >>> _swapped_numbers("Take 12 from 30.", "From 30, take 12.") is None
        True
    """
    for find in (_word_before, _word_behind):
        old, new = _beside(before, find), _beside(after, find)
        owners = {word: value for value, word in new.items()}
        for value, word in old.items():
            other = owners.get(word, value)
            if other != value and other in old and old[other] == new.get(value):
                return {"swapped": sorted([value, other])}
    return None


def _beside(text: str, find: Callable[[str, re.Match[str]], str | None]) -> dict[str, str]:
    """The words beside numbers, of those numbers and words that stand so once."""
    pairs = [(_value(match[0]), find(text, match)) for match in _NUMBER.finditer(text)]
    values, words = Counter(value for value, _ in pairs), Counter(word for _, word in pairs)
    return {
        value: word
        for value, word in pairs
        if word and values[value] == words[word] == 1 and word not in _JOINING
    }


def _word_before(text: str, number: re.Match[str]) -> str | None:
    word = _BEFORE_NUMBER.search(text, max(0, number.start() - _MAX_WORD), number.start())
    return word[1].casefold() if word else None


def _word_behind(text: str, number: re.Match[str]) -> str | None:
    word = _AFTER_NUMBER.match(text, number.end())
    return word[1].casefold() if word else None


def _value(text: str) -> str:
    """A number in one form: 1,000 is 1000; of any script."""
    plain = "".join(str(unicodedata.digit(c)) if c.isdecimal() else c for c in text)
    read = number(plain)
    return plain if read is None else str(read.value)


def _worded(text: str) -> set[str]:
    return {
        _NUMBER_WORDS[word] + "%" * bool(_PERCENT.match(text, match.end()))
        for match in re.finditer(r"[^\W\d_]+", text)
        if (word := match[0].casefold()) in _NUMBER_WORDS
    }


def _changed_names(before: str, after: str) -> dict[str, list[str]] | None:
    """Names and addresses that are lost, and such as are new."""
    lost = sorted(_strangers(_names(before), plain_words(after)))
    added = sorted(_strangers(_names(after), plain_words(before)))
    return {"lost": lost[:_SHOWN], "new": added[:_SHOWN]} if lost or added else None


def _strangers(names: Iterable[str], words: Iterable[str]) -> Iterator[str]:
    """The names of which a word is not among others, but for an ending of two letters."""
    known = set(words)
    shorter = {stem for word in known for stem in _stems(word)}
    for name in names:
        if not all({part, *_stems(part)} & known or part in shorter for part in plain_words(name)):
            yield name


def _stems(word: str) -> Iterator[str]:
    """A name without an ending: Frankreich and Frankreichs are one, Vogel and Vogt are not."""
    return (word[:end] for end in (-1, -2) if len(word[:end]) >= _MIN_STEM)


def _names(text: str) -> set[str]:
    """Addresses, and capitalised words within sentences where these are the exception."""
    addresses = set(_ADDRESS.findall(text))
    words = [
        (match[0], match.start())
        for match in _WORD.finditer(_ADDRESS.sub(lambda m: " " * len(m[0]), text))
    ]
    within = [word for word, start in words if not _begins_sentence(text, start)]
    capitalised = [w for w in within if w[0].isupper() and w.casefold() not in _NO_NAMES]
    if len(capitalised) > max(2, _CAPITALISED * len(within)):
        capitalised = []
    return addresses | {re.sub(r"['’]s$", "", word) for word in capitalised}


def _begins_sentence(text: str, start: int) -> bool:
    head = text[max(0, start - _LOOK_BACK) : start]
    if not head or (start <= _LOOK_BACK and not head.strip(" \t\n\"'“”«»([*_")):
        return True
    if not _SENTENCE_START.search(head):
        return False
    before = re.search(r"([^\W\d_]+)\.\s*\Z", head)
    return not (before and before[1].casefold() in _TITLES)


def changed_language(before: str, after: str) -> Rejection | None:
    """Another script, or another language where both are certain; None for the same.

    Args:
        before: The old text.
        after: The new one.
    """
    scripts = _script(before), _script(after)
    if all(scripts) and scripts[0] != scripts[1]:
        return "language_changed", {"before": scripts[0], "after": scripts[1]}
    if min(sum(c.isalpha() for c in text[:_LANGUAGE_CHARACTERS]) for text in (before, after)) < (
        MIN_LETTERS
    ):
        return None
    (old, sure_old), (new, sure_new) = (
        identifier().classify(text[:_LANGUAGE_CHARACTERS]) for text in (before, after)
    )
    if old == new or min(sure_old, sure_new) < MIN_CONFIDENCE:
        return None
    return "language_changed", {"before": old, "after": new}


def _script(text: str) -> str:
    """The script of most letters, by the first word of their Unicode names."""
    letters = [c for c in text[:_LANGUAGE_CHARACTERS] if c.isalpha()]
    counts = Counter(unicodedata.name(c, "?").split()[0] for c in letters)
    east = counts.pop("HIRAGANA", 0) + counts.pop("KATAKANA", 0)
    if east:  # Japanese mixes both with the signs of Chinese
        return "KANA"
    return counts.most_common(1)[0][0] if counts else ""
