"""Which constraints cannot hold of one text, or leave so little room that none asks for both.

Two of one kind are never asked for together. IFBench's training (Pyatkin et al. 2025, "Generalizing
Verifiable Instruction Following", arXiv:2507.02833) keeps such a table; the entries are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import combinations, product
from typing import Final

from stages._constraints.constraint import Constraint
from stages._constraints.ifeval.keywords import Existence, ForbiddenWords, Frequency

_JSON: Final = ("detectable_format:json_format",)
_CASE: Final = (
    "change_case:english_capital",
    "change_case:english_lowercase",
    "change_case:capital_word_frequency",
)
_DIVIDED: Final = (
    "length_constraints:number_paragraphs",
    "length_constraints:nth_paragraph_first_word",
    "combination:two_responses",
    "detectable_format:multiple_sections",
)
_BEGINNINGS: Final = (
    "combination:repeat_prompt",
    "startend:quotation",
    "length_constraints:nth_paragraph_first_word",
)
_LAYOUTS: Final = (
    *_DIVIDED,
    *_BEGINNINGS,
    "detectable_content:postscript",
    "detectable_format:number_bullet_lists",
    "detectable_format:number_highlighted_sections",
    "detectable_format:title",
    "detectable_format:constrained_response",
    "startend:end_checker",
)
_LANGUAGES: Final = (
    "language:response_language",
    *_CASE[:2],
)
_FIXED: Final = ("detectable_format:constrained_response",)
_ENDINGS: Final = ("startend:end_checker", "detectable_content:postscript")
_KEYWORDS: Final = (
    "keywords:existence",
    "keywords:frequency",
    "keywords:forbidden_words",
)


def _table() -> frozenset[frozenset[str]]:
    """The pairs of kinds: of each group any two, and the products of two groups."""
    groups = (_CASE, _DIVIDED, _BEGINNINGS, _LANGUAGES, _ENDINGS)
    crossed = (
        (_JSON, _LAYOUTS),
        (_FIXED, (*_CASE[:2], *_LANGUAGES)),
        (("combination:repeat_prompt",), _LANGUAGES),
        (("language:response_language",), ("startend:end_checker", *_KEYWORDS)),
    )
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    pairs += [pair for a, b in crossed for pair in product(a, b) if pair[0] != pair[1]]
    return frozenset(frozenset(pair) for pair in pairs)


_ALONE: Final = ("repeat:", "custom:", "format:options", "format:output_template")
"""Beginnings of kinds that say what the whole answer is; these go with no other kind."""

CONFLICTS: Final = _table()
"""Pairs of kinds."""


def conflict(one: Constraint, other: Constraint) -> bool:
    """Whether two constraints conflict: by their kinds, or over a word that is asked for and not.

    Args:
        one: A constraint.
        other: Another one.
    """
    if _kinds_conflict(one.kind, other.kind):
        return True
    if ForbiddenWords.kind not in (one.kind, other.kind):
        return False
    return bool(_asked(one) & _forbidden(other) or _asked(other) & _forbidden(one))


@cache
def _kinds_conflict(one: str, other: str) -> bool:
    if one == other or {one, other} in CONFLICTS:
        return True
    return one.startswith(_ALONE) or other.startswith(_ALONE)


def conflicts(chosen: Iterable[Constraint]) -> bool:
    """Whether any two of several constraints conflict.

    Args:
        chosen: Constraints.
    """
    return any(conflict(one, other) for one, other in combinations(chosen, 2))


def _asked(one: Constraint) -> set[str]:
    match one:
        case Existence():
            return {word.lower() for word in one.keywords}
        case Frequency(relation="at least"):
            return {one.keyword.lower()}
    return set()


def _forbidden(one: Constraint) -> set[str]:
    return {w.lower() for w in one.forbidden_words} if isinstance(one, ForbiddenWords) else set()
