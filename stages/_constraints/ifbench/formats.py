"""The group `format`: brackets, quotes, lists, lines, templates."""

from __future__ import annotations

import re
import string
from itertools import pairwise
from typing import Final

import regex

from stages._constraints.constraint import Constraint, Text, kind
from stages._constraints.units import bare, sentences, tokens, without_punctuation

_EMOJI: Final = regex.compile(r"[\p{Emoji_Presentation}\p{Extended_Pictographic}]")
_CLOSING: Final = {")": "(", "]": "[", "}": "{"}
_DEPTH: Final = 5


@kind(
    "format:parentheses",
    "Nest brackets (such as [these {{and these}}]) five levels deep or more.",
    "Your answer must hold brackets within brackets, at least five deep.",
)
class Parentheses(Constraint):
    """Brackets that are opened and closed in order, at least five deep."""

    def check(self, text: str) -> bool:
        """See the class."""
        opened: list[str] = []
        deepest = 0
        for character in text:
            if character in "([{":
                opened.append(character)
                deepest = max(deepest, len(opened))
            elif character in ")]}":
                if opened and opened[-1] == _CLOSING[character]:
                    opened.pop()
                    if deepest >= _DEPTH:
                        return True
                else:
                    opened, deepest = [], 0
        return False


@kind(
    "format:quotes",
    "Quote within a quote within a quote: three levels, with double and single marks in turn.",
    "Your answer must nest quotations three deep or more, with \" and ' in turn.",
)
class Quotes(Constraint):
    """Quotes in quotes in quotes."""

    def check(self, text: str) -> bool:
        """See the class."""
        opened: list[str] = []
        deepest = 0
        for character in text:
            if opened and character == opened[-1]:
                opened.pop()
                if deepest - len(opened) >= 3:
                    return True
            elif character in "\"'":
                opened.append(character)
                deepest = max(deepest, len(opened))
        return False


@kind(
    "format:options",
    "Choose one of these and say nothing else: {options}",
    "Your whole answer must be one of the following: {options}",
)
class Options(Constraint):
    """The text is one of several options: in any case, but exactly one where they are letters.

    Args:
        options: The options, divided by slashes, else by "or", else by commas.
    """

    options: Text

    def check(self, text: str) -> bool:
        """See the class."""
        separator = next((one for one in ("/", "or") if one in self.options), ",")
        every = [option.strip() for option in self.options.split(separator)]
        if re.match(r"\W*[aA]\W*[bB]\W*[cC]\W*", self.options):
            return text in every
        return bare(text).lower() in [bare(option).lower() for option in every]


@kind(
    "format:newline",
    "Put each word on a line of its own.",
    "Your answer must have one word a line.",
)
class Newline(Constraint):
    """As many lines that are not empty as words, without punctuation."""

    def check(self, text: str) -> bool:
        """See the class."""
        plain = without_punctuation(text).strip()
        return len([line for line in plain.split("\n") if line]) == len(plain.split())


@kind(
    "format:emoji",
    "End every sentence with an emoji.",
    "Each of your sentences must end with an emoji.",
)
class Emoji(Constraint):
    """An emoji ends each sentence, or begins the next."""

    def check(self, text: str) -> bool:
        """See the class."""
        plain = [without_punctuation(sentence).strip() for sentence in sentences(text)]
        if not all(plain):
            return False
        following = [*plain[1:], ""]
        return all(
            _EMOJI.search(one[-2:]) or _EMOJI.match(other)
            for one, other in zip(plain, following, strict=True)
        )


@kind(
    "format:line_indent",
    "Indent each line further than the one before it, like stairs.",
    "Let your lines begin with more and more blanks.",
)
class LineIndent(Constraint):
    """Each line that is not blank begins with more blanks than the one before."""

    def check(self, text: str) -> bool:
        """See the class."""
        lines = [line for line in text.split("\n") if line.strip()]
        indents = [len(line) - len(line.lstrip(" ")) for line in lines]
        return all(one < other for one, other in pairwise(indents))


@kind(
    "format:quote_unquote",
    "Explain every quotation in words that are not quoted, right after it.",
    "No quotation may stand without an explanation behind it that is not quoted.",
)
class QuoteUnquote(Constraint):
    """No two quotes beside each other, and none at the end."""

    def check(self, text: str) -> bool:
        """See the class."""
        plain = "".join(re.sub("[\u201c\u201d]", '"', text).replace("'\"'", "").split())
        ending = plain.strip(string.digits + string.punctuation.replace('"', ""))
        return '""' not in plain and not ending.endswith('"')


@kind(
    "format:list",
    "Answer with a list in which each item is marked with {sep}",
    "Write a list; in place of bullets use {sep}",
)
class List(Constraint):
    """A mark occurs at least twice.

    Args:
        sep: The mark.
    """

    sep: Text

    def check(self, text: str) -> bool:
        """See the class."""
        return text.count(self.sep) >= 2


@kind(
    "format:thesis",
    "Begin each section with its thesis, in italics by HTML: <i>like this</i>.",
    "Every section must open with a thesis statement between <i> and </i>.",
)
class Thesis(Constraint):
    """HTML italics that are not blank, with text behind them."""

    def check(self, text: str) -> bool:
        """See the class."""
        start = _first(text, "<i>", "<em>")
        if start < 0:
            return False
        rest = text[start:]
        end = _first(rest, "</i>", "</em>")
        return end >= 0 and bool(rest[3:end].strip()) and bool(rest[end + 4 :].strip())


@kind(
    "format:sub-bullets",
    "Use bullets, marked with *, and under each at least one sub-bullet, marked with -",
    "Write a list with * for its points, each of which has points of its own, with -",
)
class SubBullets(Constraint):
    """A hyphen between any two asterisks, and after the last."""

    def check(self, text: str) -> bool:
        """See the class."""
        return all("-" in part for part in text.split("*")[1:])


@kind(
    "format:no_bullets_bullets",
    "Write two sentences or more, each with a full stop, and then at least two bullets with *",
    "First come two or more sentences; then a list of two or more points, marked with *",
)
class NoBulletsBullets(Constraint):
    """At least two sentences before at least two lines with asterisks, and nothing else."""

    def check(self, text: str) -> bool:
        """See the class."""
        lines = text.split("\n")
        is_bullet = [line.strip().startswith("*") for line in lines]
        first = is_bullet.index(True) if any(is_bullet) else len(lines)
        before = 0
        for number, line in enumerate(lines[:first]):
            parts = sentences(line.strip())
            before += len(parts)
            if not parts and number < first - 1:
                # As in the code: after a line without a sentence only bullets may follow.
                return False
        return before >= 2 and all(is_bullet[first:]) and sum(is_bullet) >= 2


@kind(
    "format:title_case",
    "Write Your Whole Answer In Title Case.",
    "Every word must begin with a capital letter and go on in small ones.",
)
class TitleCase(Constraint):
    """No token begins with a small letter and goes on in letters of one case."""

    def check(self, text: str) -> bool:
        """See the class."""
        for token in tokens(text):
            rest = token[1:]
            if token[0].islower() and (not rest or rest.isupper() or rest.islower()):
                return False
        return True


@kind(
    "format:output_template",
    "Use this form: My Answer: [answer] My Conclusion: [conclusion] Future Outlook: [outlook]",
    "Your answer must have three parts, headed My Answer:, My Conclusion: and Future Outlook:",
)
class OutputTemplate(Constraint):
    """Three headings occur."""

    def check(self, text: str) -> bool:
        """See the class."""
        return all(h in text for h in ("My Answer:", "My Conclusion:", "Future Outlook:"))


@kind(
    "format:no_whitespace",
    "Do not use any white space.",
    "Your answer must do without blanks and line breaks.",
)
class NoWhitespace(Constraint):
    """No white space, also none at the ends."""

    def check(self, text: str) -> bool:
        """See the class."""
        return not any(character.isspace() for character in text)


def _first(text: str, *marks: str) -> int:
    """Where the first of the marks that occurs at all begins; -1 where none does."""
    return next((text.find(mark) for mark in marks if mark in text), -1)
