"""The ways in which `rewrite.evolve` changes an instruction, and what it throws away."""

from __future__ import annotations

import re
import string
from functools import cache
from typing import Final

from stages._llm.rows import Rejection

DEPTH: Final = ("constraints", "deepen", "concretize", "reasoning", "complicate")
CODE: Final = tuple(
    f"code/{name}" for name in ("constraints", "rarer", "steps", "misleading", "complexity")
)
OPERATORS: Final = {
    "wizardlm": (*DEPTH, "breadth"),
    "wizardlm-code": (*DEPTH[:4], "breadth"),
    "wizardcoder": CODE,
}
"""The operators of each method; each names a prompt file. One is drawn, all alike."""

TURNS: Final = {
    "follow_up": "It is a question that the last answer gives rise to.",
    "refine": "It asks for the last answer to be changed in one particular way.",
    "correct": "It points out something in the last answer that is doubtful or missing.",
    "example": "It asks for an example, or for another one.",
    "apply": "It brings up a case of the user's own to which the last answer is to be applied.",
    "shift": "It turns to a neighbouring matter and refers back to the conversation.",
}
"""What a next turn of the user may be (after M2Lingual's evolution of conversations)."""

SORRY_WORDS: Final = 80
"""An answer that says sorry in fewer words than this did not manage the instruction."""

_LEAKS: Final = re.compile(
    r"\b(?:given|rewritten|new|created|evolved|original)[ _#]+(?:prompt|instruction)s?\b"
    r"|\bthe (?:rewritten|changed|evolved) (?:task|instruction)\b",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def leaked(evolved: str, given: str) -> Rejection | None:
    """Words of the prompt in the new instruction, which the old one does not hold."""
    for found in _LEAKS.finditer(evolved):
        if found[0].casefold() not in given.casefold():
            return "prompt_leaked", {"words": found[0]}
    return None


def refused(response: str) -> Rejection | None:
    """The answers by which the paper knows that an instruction is too hard or makes no sense."""
    words = response.split()
    if "sorry" in response.casefold() and len(words) < SORRY_WORDS:
        return "sorry", {"words": len(words)}
    if not any(character not in string.punctuation for word in words for character in word):
        return "no_content", {"response": response[:200]}
    found = [word.casefold() for word in _WORD.findall(response)]
    if found and "".join(found) == _letters(response) and set(found) <= _stop_words():
        return "no_content", {"response": response[:200]}
    return None


def _letters(text: str) -> str:
    """All of a text but white space and punctuation: equal to its words if it has no numbers."""
    kept = (c for c in text.casefold() if not c.isspace() and c not in string.punctuation)
    return "".join(kept)


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
