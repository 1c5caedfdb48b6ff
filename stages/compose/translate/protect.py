"""What a translation must leave as it is: replaced by marks, put back, and looked for afterwards.

A mark is a number in brackets that no text has otherwise, such as ⟦3⟧. A translation in which a
mark is missing, stands twice or is in another part has lost what it stands for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from stages._llm.rows import Rejection
from stages._text.final_answer import UNSPACED

Kind = Literal["code", "math", "url", "placeholder", "name", "number"]

_CAPITALIZED: Final = r"[A-ZÀ-ÖØ-Þ](?:[a-zß-öø-ÿ]+(?:['’-][A-ZÀ-ÖØ-Þ]?[a-zß-öø-ÿ]+)*|\.)"

# Letters of scripts without spaces border on words and numbers, and are no part of them.
_W: Final = rf"[^\W{UNSPACED}]"
_START: Final = rf"(?<!{_W})"
_END: Final = rf"(?!{_W})"
_MAIL: Final = "[A-Za-z0-9_.+-]"

PATTERNS: Final[dict[Kind, str]] = {
    "code": r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`",
    # None reaches over another beginning: many without an end would be read over and over.
    "math": r"\$\$.+?\$\$|\\\[(?:(?!\\\[).)+?\\\]|\\\((?:(?!\\\().)+?\\\)"
    r"|\$[^$\n\\^_=]*+[\\^_=][^$\n]*+\$",
    "url": rf"{_START}(?:https?|ftp)://[^\s<>\"'）】。，、；]*[^\s<>\"'.,;:!?)\]}}）】。，、；！？：]"
    rf"|{_START}www\.[^\s<>\"'）】。，、；]*{_W}"
    rf"|(?<!{_MAIL}){_MAIL}+@[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+",
    "placeholder": r"\{\{(?:(?!\{\{).)*?\}\}|\{%(?:(?!\{%).)*?%\}"
    r"|\$\{[^}\n]*\}|\{\w*\}|%\(\w+\)[sdif]"
    rf"|{_START}%[sdif]{_END}|<<[^<>\n]+>>|</?[A-Za-z][^<>\n]*>|<[A-Z_ ]+>"
    r"|\[[A-Z][A-Z0-9_ ]+\]|\[(?:[Yy]our|[Ii]nsert) [^\]\n]{1,40}\]",
    "name": rf"{_START}(?:[@#][A-Za-z_]{_W}+|{_W}+\(\)|[A-Za-z]{_W}*_{_W}+|[a-z]+[A-Z]{_W}*"
    rf"|[A-Z][a-z]+[A-Z]{_W}*|[A-Z]{{2,}}[A-Z0-9]*{_END})"
    rf"|(?<=[a-zß-öø-ÿ,] ){_CAPITALIZED}(?: (?:de |van |von |of )?{_CAPITALIZED})+",
    "number": rf"{_START}(?<![.,])[-+−]?\d+(?:[.,:/]\d+)*%?{_END}",
}
"""Patterns by kind; where two match at one place, the kind that stands first."""

KINDS: Final[tuple[Kind, ...]] = (*PATTERNS,)

_MARK: Final = re.compile(r"⟦\s*(\d+)\s*⟧")
_BRACKET: Final = re.compile(r"⟦|⟧")


@dataclass(frozen=True)
class Span:
    """Something that stays as it is.

    Attributes:
        kind: What it is.
        text: The text itself.
        part: The number of the part in which it stands.
    """

    kind: str
    text: str
    part: int


@dataclass
class Protection:
    """The protected spans of a row, by the numbers of their marks.

    Args:
        kinds: What is protected.
        keep: Texts that are protected wherever they stand.

    Attributes:
        spans: The spans; the mark of the first is 1.

    Example:
        >>> protection = Protection(("code", "number"))
        >>> protection.mask("Run `ls` 3 times.", 1)
        'Run ⟦1⟧ ⟦2⟧ times.'
        >>> protection.restore("Starte ⟦2⟧ mal ⟦1⟧.", 1)
        ('Starte 3 mal `ls`.', None)
        >>> protection.restore("Starte ⟦2⟧ mal.", 1)[1]
        ('code_lost', {'part': 1, 'text': '`ls`', 'count': 0})
    """

    kinds: Sequence[Kind] = KINDS
    keep: Sequence[str] = ()
    spans: list[Span] = field(default_factory=list)

    def mask(self, text: str, part: int) -> str:
        """A text with marks in the place of what is protected.

        Args:
            text: The text.
            part: The number of its part.
        """
        return self._pattern().sub(lambda match: self._mark(match, part), text)

    def restore(self, text: str, part: int) -> tuple[str, Rejection | None]:
        """A translation with the protected texts in the place of their marks.

        Args:
            text: The translation of a part.
            part: The number of the part.

        Returns:
            The text, and why it is no good where something was lost: `code_lost` and so on for
            each kind, `markers_lost` for marks of which nothing is known.
        """
        counts = Counter(int(mark[1]) for mark in _MARK.finditer(text))
        for number, span in enumerate(self.spans, 1):
            count = counts.pop(number, 0)
            if span.part == part and count != 1:
                evidence = {"part": part, "text": span.text[:200], "count": count}
                return text, (f"{span.kind}_lost", evidence)
            if span.part != part and count:
                return text, ("markers_lost", {"part": part, "marker": number})
        if counts or _BRACKET.search(_MARK.sub("", text)):
            return text, ("markers_lost", {"part": part, "markers": sorted(counts)})
        restored = _MARK.sub(lambda mark: self.spans[int(mark[1]) - 1].text, text)
        return restored, None

    def bare(self, text: str) -> str:
        """A text without what is protected in it.

        Args:
            text: The text.
        """
        return self._pattern().sub(" ", text)

    def _mark(self, match: re.Match[str], part: int) -> str:
        kind = {"keep": "name", "mark": "placeholder"}.get(match.lastgroup or "", match.lastgroup)
        self.spans.append(Span(str(kind), match[0], part))
        return f"⟦{len(self.spans)}⟧"

    def _pattern(self) -> re.Pattern[str]:
        kinds = [f"(?P<{kind}>{PATTERNS[kind]})" for kind in PATTERNS if kind in self.kinds]
        if self.keep:
            texts = sorted(map(re.escape, self.keep), key=len, reverse=True)
            kinds.insert(0, rf"(?P<keep>(?<!\w)(?:{'|'.join(texts)})(?!\w))")
        # What looks like a mark in a text itself would be taken for one.
        return re.compile("|".join([*kinds, "(?P<mark>⟦|⟧)"]), re.DOTALL)
