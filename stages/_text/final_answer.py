r"""The final answer of a text where it is a short one, and whether another text holds it.

The answer is what the last `\boxed{...}` encloses; else what follows the last `####` (GSM8K); else
what the last "answer is", "Answer:" or 答案 is followed by in its line, or in the next one where
that is the last of the text, if it is short; else the whole text, if that is short and does not
say that it has no answer. Both are compared without LaTeX's layout, in one form of
numbers (`1,000` is `1000`), in lower case; a number or word is only found as a whole: 4 is not in
14 nor in 4.5.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Final

from schemas.refusals import REFUSAL

_BOXED: Final = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE: Final = re.compile(r"[{}]")
_HASHES: Final = re.compile(r"^[^\S\n]*####[ \t]*(\S.*)$", re.MULTILINE)
_SAYS: Final = r"(?:\banswer\b[*_ ]*(?:is|=|[:：])|答案\s*(?:是|为|[:：]))[*_:： ]*"
_PHRASE: Final = re.compile(rf"(?i){_SAYS}(\S.*)$", re.MULTILINE)
_LAST_LINE: Final = re.compile(rf"(?i){_SAYS}\n\s*+(\S.*)\Z")
_NO_ANSWER: Final = re.compile(
    r"(?i)\W*(?:(?:sorry|well|hmm?|honestly|actually)\W+)*+"
    r"(?:i\s+(?:really\s+)?(?:do\s+not|don['’]?t|did\s+not|didn['’]?t)\s+(?:really\s+)?know"
    r"|i(?:\s+a|['’])m\s+(?:not\s+sure|unsure|sorry|afraid)|(?:i\s+have\s+)?no\s+idea\b"
    r"|i\s+can(?:\s?not|['’]t)\b|who\s+knows\b|我?不知道\W*$)"
)
"""Words for not knowing; refusals to help are those of `schemas/refusals.py`."""

_OPENING_CHARACTERS: Final = 400
_SENTENCE_END: Final = re.compile(r"[.!?](?=\s|$)|[。！？]")

_LAYOUT: Final = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad)(?![a-z])|\\[()\[\],;:! ]|[$*`]"
)
_WRAPPED: Final = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|boxed|fbox)\s*\{([^{}]*)\}"
)
_FRACTION: Final = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_THOUSANDS: Final = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
_AROUND_SIGNS: Final = re.compile(r"\s(?:(?<=[^\w\s.,;:!?]\s)|(?=[^\w\s]))")
"""A space beside a sign; that behind a mark of a sentence stays."""

UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
)
"""Letters that stand beside others within a text of words: Thai, Lao, Burmese, Khmer, Japanese,
Chinese, and Korean, whose particles follow a word without a space."""

_LETTER: Final = rf"[^\W{UNSPACED}]"
_IS_LETTER: Final = re.compile(_LETTER)


def final_answer(text: str, max_words: int) -> str | None:
    r"""The short final answer of a text; None where it has none.

    Args:
        text: An assistant's answer.
        max_words: How many words are short.

    >>> final_answer(r"So it is $\boxed{\frac{1}{2}}$.", 6)
    '\\frac{1}{2}'
    >>> final_answer("First 3 + 4.\nThe answer is 7. Well done!", 6)
    '7'
    """
    if (boxed := _last_boxed(text)) is not None:
        return boxed
    if matches := _HASHES.findall(text):
        return str(matches[-1]).rstrip()
    if match := _LAST_LINE.search(text.rstrip()):
        return _short(_SENTENCE_END.split(match[1])[0], max_words)
    if matches := _PHRASE.findall(text):
        sentence = _SENTENCE_END.split(matches[-1].rstrip())[0]
        return _short(sentence, max_words)
    short = _short(text, max_words)
    return None if short and _is_no_answer(short) else short


def _is_no_answer(text: str) -> bool:
    opening = text[:_OPENING_CHARACTERS]  # signs alone would take a time that grows as a square
    return bool(_NO_ANSWER.match(opening) or _refusal().match(opening))


@cache
def _refusal() -> re.Pattern[str]:
    return re.compile(REFUSAL)


def _short(text: str, max_words: int) -> str | None:
    return text.strip() if 0 < len(text.split()) <= max_words else None


def _last_boxed(text: str) -> str | None:
    """What the last box encloses, its own braces in pairs; None without a closed one."""
    boxes = [match.end() for match in _BOXED.finditer(text)]
    opened: list[int] = []
    closed_at = {}
    for brace in _BRACE.finditer(text) if boxes else ():
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened:
            closed_at[opened.pop()] = brace.start()
    return next((text[at : closed_at[at]] for at in reversed(boxes) if at in closed_at), None)


def normalized_answer(text: str) -> str:
    r"""A text in the form in which answers are compared.

    >>> normalized_answer(r"$\dfrac{1}{2}$ of 1,000 \text{ km}.")
    '1/2 of 1000 km'
    """
    text = unicodedata.normalize("NFKC", text)
    previous = ""
    while text != previous:  # innermost first
        previous = text
        text = _FRACTION.sub(r"\1/\2", _WRAPPED.sub(r" \1 ", text))
    text = _THOUSANDS.sub("", _LAYOUT.sub("", text)).casefold()
    return _AROUND_SIGNS.sub("", " ".join(text.split())).strip(" .,;:!?。、")


def holds_answer(text: str, answer: str) -> bool | None:
    """Whether a text holds an answer as a whole; None for an answer of signs alone.

    Args:
        text: The text, such as the reasoning.
        answer: What `final_answer` gives.

    >>> holds_answer("Adding up, 1,000 + 40 = 1,040.", "1040"), holds_answer("It is 14.5", "14")
    (True, False)
    """
    target = normalized_answer(answer)
    if not any(character.isalnum() for character in target):
        return None
    before = rf"(?<!{_LETTER})(?<!\d\.)" if _IS_LETTER.match(target[0]) else ""
    after = rf"(?!{_LETTER})(?!\.\d)" if _IS_LETTER.match(target[-1]) else ""
    pattern = f"{before}{re.escape(target)}{after}"
    return re.search(pattern, normalized_answer(text)) is not None
