"""Kinds about contents and formats that can be recognised: placeholders, lists, titles, JSON."""

from __future__ import annotations

import json
import re
from typing import Final

from pipeline.types import Count
from stages._constraints.constraint import Constraint, Text, kind

_ANSWERS: Final = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS: Final = {"p.p.s": r"p\.\s?p\.\s?s", "p.s.": r"p\.\s?s\."}
_FENCES: Final = ("```json", "```Json", "```JSON", "```")


def placeholders(text: str) -> int:
    """How many texts in square brackets stand in lines of a text.

    As many as `\\[.*?\\]` finds, which reads on from each bracket that nothing closes.

    Args:
        text: The text.

    Example:
        >>> placeholders("[a] [b [c] d] [e"), placeholders("[a\\nb]")
        (2, 0)
    """
    closed = (part for line in text.split("\n") for part in line.split("]")[:-1])
    return sum("[" in part for part in closed)


@kind(
    "detectable_content:number_placeholders",
    "Use at least {num_placeholders} placeholders in square brackets, such as [name].",
    "Leave at least {num_placeholders} details open, each as a placeholder like [address].",
)
class NumberPlaceholders(Constraint):
    """At least so many texts in square brackets.

    Args:
        num_placeholders: How many.
    """

    num_placeholders: Count

    def check(self, text: str) -> bool:
        """See the class."""
        return placeholders(text) >= self.num_placeholders


@kind(
    "detectable_content:postscript",
    "End with a postscript that begins with {postscript_marker}",
    "After your answer, add a postscript, marked {postscript_marker}",
)
class Postscript(Constraint):
    """A postscript, in any case; `P.S.` and `P.P.S` also with spaces.

    Args:
        postscript_marker: How it begins.
    """

    postscript_marker: Text

    def check(self, text: str) -> bool:
        """See the class."""
        marker = self.postscript_marker.lower().strip()
        pattern = _POSTSCRIPTS.get(marker, re.escape(marker))
        return re.search(pattern, text.lower()) is not None


@kind(
    "detectable_format:number_bullet_lists",
    "Your answer must have exactly {num_bullets} bullet points, each a line that begins with *",
    "Give exactly {num_bullets} bullets in Markdown, such as:\n* This is a point.",
)
class NumberBulletLists(Constraint):
    """Exactly so many lines that begin with one asterisk or a hyphen.

    Args:
        num_bullets: How many.
    """

    num_bullets: Count

    def check(self, text: str) -> bool:
        """See the class."""
        # Blank lines before a bullet are no part of it: as many as with `^\s*`, in linear time.
        bullets = re.findall(r"^[^\S\n]*(?:\*[^*].*|-.*)$", text, re.MULTILINE)
        return len(bullets) == self.num_bullets


@kind(
    "detectable_format:constrained_response",
    "Answer with one of these: " + " ".join(_ANSWERS),
    "Say one of the following, and nothing else: " + " ".join(_ANSWERS),
)
class ConstrainedResponse(Constraint):
    """One of three sentences occurs: My answer is yes. My answer is no. My answer is maybe."""

    def check(self, text: str) -> bool:
        """See the class."""
        return any(answer in text for answer in _ANSWERS)


@kind(
    "detectable_format:number_highlighted_sections",
    "Highlight at least {num_highlights} parts of your answer in Markdown, as in *this part*.",
    "At least {num_highlights} passages must stand between asterisks: *like this one*.",
)
class NumberHighlightedSections(Constraint):
    """At least so many passages in one or two asterisks, in a line and not blank.

    Args:
        num_highlights: How many.
    """

    num_highlights: Count

    def check(self, text: str) -> bool:
        """See the class."""
        single = re.findall(r"\*[^\n*]*\*", text)
        double = re.findall(r"\*\*[^\n*]*\*\*", text)
        count = sum(bool(passage.strip("*").strip()) for passage in [*single, *double])
        return count >= self.num_highlights


@kind(
    "detectable_format:multiple_sections",
    "Divide your answer into {num_sections} sections. Each begins with {section_spliter} and its "
    "number, as in {section_spliter} 1",
    "Your answer must have {num_sections} sections, headed {section_spliter} 1, "
    "{section_spliter} 2 and so on.",
)
class MultipleSections(Constraint):
    """At least so many headings of sections: a word with a number.

    Args:
        num_sections: How many.
        section_spliter: The word; spelt as benchmarks' files have it.
    """

    num_sections: Count
    section_spliter: Text

    def check(self, text: str) -> bool:
        """See the class."""
        headings = re.findall(rf"{re.escape(self.section_spliter.strip())}\s?\d+", text)
        return len(headings) >= self.num_sections


@kind(
    "detectable_format:json_format",
    "Your whole answer must be JSON; it may stand in a Markdown code block.",
    "Answer with nothing but valid JSON.",
)
class JsonFormat(Constraint):
    """The text is JSON, with or without a fence."""

    def check(self, text: str) -> bool:
        """See the class."""
        bare = text.strip()
        for fence in _FENCES:
            bare = bare.removeprefix(fence)
        try:
            json.loads(bare.removesuffix("```").strip())
        except (ValueError, RecursionError):
            return False
        return True


@kind(
    "detectable_format:title",
    "Give your answer a title in double angle brackets, such as <<a day at sea>>.",
    "Your answer needs a title, written <<like this>>.",
)
class Title(Constraint):
    """A title in double angle brackets, in a line and not blank."""

    def check(self, text: str) -> bool:
        """See the class."""
        titles = re.findall(r"<<[^\n]+>>", text)
        return any(title.lstrip("<").rstrip(">").strip() for title in titles)
