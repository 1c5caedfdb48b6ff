"""WizardLM's signs that an evolution failed (Xu et al. 2023, arXiv:2304.12244).

As in the paper, an evolution failed if (1) nothing was gained, for which the model compares the
two instructions: the same constraints and requirements, the same depth and breadth of inquiry;
(2) the answer says sorry in fewer than 80 words; (3) the answer holds punctuation and stop words
only; (4) words of the rewriting prompt leaked into the instruction. The old instruction then goes
into the next round. (The authors' released code has none of the four.)

Ours: the wording; an instruction that came back as it was is dropped without a question; scikit-
learn's English stop words; and which words count as leaked ("given prompt", "rewritten
instruction" and their like, where the old instruction does not hold them).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

from pipeline.models.base import Decoding
from stages._llm.drafts import Draft, GenerateField, Prompt, filter_drafts, user
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection

PROMPTS: Final = Prompts(__file__)

REFUSAL_WORDS: Final = 80
"""An answer that says sorry in fewer words than this is a refusal."""

MAX_TOKENS: Final = 4
"""Of a comparison."""

_LEAKS: Final = re.compile(
    r"\b(?:given|rewritten|new|created|evolved|original)[ _#]+(?:prompt|instruction)s?\b"
    r"|\bthe (?:rewritten|changed|evolved) (?:task|instruction)\b",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def drop_echoes(drafts: Sequence[Draft], prompt: Callable[[Draft], Prompt]) -> None:
    """Drop what came back as it was as `no_gain`, and as `prompt_leaked` what is the prompt.

    Args:
        drafts: The evolved instructions.
        prompt: The request that each of them came of.
    """

    def rejection(draft: Draft) -> Rejection | None:
        if _unchanged(draft):
            return "no_gain", {"unchanged": True}
        # The parser has taken for a preamble what looks like one, also in a prompt.
        text = prompt(draft)[-1][-1]
        request = _squeezed(instruction_text(text) or text)
        return ("prompt_leaked", {"echo": True}) if request in _squeezed(draft["evolved"]) else None

    filter_drafts(drafts, rejection)


def drop_leaks(drafts: Sequence[Draft]) -> None:
    """Drop as `prompt_leaked` instructions that hold words of the prompt."""
    filter_drafts(drafts, lambda d: leaked(d["instruction"], d["evolved_from"]))


def drop_without_gain(write: GenerateField, drafts: Sequence[Draft], max_tokens: int) -> None:
    """Drop as `no_gain` instructions that the model says request no more than before.

    Args:
        write: `generate_field` with engine, decoding and seed filled in.
        drafts: The evolved instructions.
        max_tokens: Limit of a comparison in tokens.
    """

    def request(draft: Draft) -> Prompt:
        before, after = draft["evolved_from"], draft["instruction"]
        return user(PROMPTS.render("equal", given=before, evolved=after))

    filter_drafts(drafts, lambda d: ("no_gain", {"unchanged": True}) if _unchanged(d) else None)
    decoding = Decoding(max_tokens=max_tokens, choice=("equal", "different"))
    write(drafts, "gain", request, decoding=decoding)
    filter_drafts(drafts, lambda d: ("no_gain", {}) if d["gain"] == "equal" else None)


def drop_refusals(drafts: Sequence[Draft]) -> None:
    """Drop as `refusal` or `no_content` drafts whose answer says nothing."""
    filter_drafts(drafts, lambda d: refused(d["response"]))


def _unchanged(draft: Draft) -> bool:
    """Whether an instruction came back as it was, but for case and white space."""
    return _squeezed(draft["evolved_from"]) == _squeezed(draft["instruction"])


def _squeezed(text: str) -> str:
    return " ".join(text.casefold().split())


def leaked(after: str, before: str) -> Rejection | None:
    """Words of the prompt in the new instruction that the old one does not hold.

    >>> leaked("Here is the rewritten instruction: do it.", "Do it.")
    ('prompt_leaked', {'words': 'the rewritten instruction'})
    """
    for match in _LEAKS.finditer(after):
        if match[0].casefold() not in before.casefold():
            return "prompt_leaked", {"words": match[0]}
    return None


def refused(response: str) -> Rejection | None:
    """The answers by which the paper sees that an instruction is too hard or senseless.

    >>> refused("Sorry, I cannot do that.")
    ('refusal', {'words': 5})
    """
    words = response.split()
    if "sorry" in response.casefold() and len(words) < REFUSAL_WORDS:
        return "refusal", {"words": len(words)}
    if not any(character not in string.punctuation for word in words for character in word):
        return "no_content", {"response": response[:200]}
    matches = [word.casefold() for word in _WORD.findall(response)]
    if matches and "".join(matches) == _letters(response) and set(matches) <= _stop_words():
        return "no_content", {"response": response[:200]}
    return None


def _letters(text: str) -> str:
    """A text without white space and punctuation: equal to its words if it has no numbers."""
    kept = (c for c in text.casefold() if not c.isspace() and c not in string.punctuation)
    return "".join(kept)


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
