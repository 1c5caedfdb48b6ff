"""Changes of an answer that make it follow a constraint, which it did not before."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, Literal

from stages._constraints.constraint import Constraint
from stages._constraints.ifeval.detectable import Postscript, Title
from stages._constraints.ifeval.whole import (
    EndChecker,
    EnglishCapital,
    EnglishLowercase,
    Quotation,
    RepeatPrompt,
)
from stages._constraints.units import words

Edit = Literal[
    "capital", "lowercase", "quotation", "title", "postscript", "end_phrase", "repeat_prompt"
]

END_PHRASES: Final = (
    "That is all I have to say.",
    "I hope that answers it.",
    "Tell me if you need more.",
    "This is where my answer ends.",
)
_POSTSCRIPTS: Final = (
    "Feel free to ask again.",
    "There is more to say about this.",
    "Take this with a grain of salt.",
)

Edited = tuple[str, Constraint]


def _capital(text: str, request: str, rng: random.Random) -> Edited:
    return text.upper(), EnglishCapital()


def _lowercase(text: str, request: str, rng: random.Random) -> Edited:
    return text.lower(), EnglishLowercase()


def _quotation(text: str, request: str, rng: random.Random) -> Edited:
    return f'"{text.strip()}"', Quotation()


def _title(text: str, request: str, rng: random.Random) -> Edited:
    title = " ".join(words(request)[: rng.randint(2, 6)])
    return f"<<{title}>>\n\n{text}", Title()


def _postscript(text: str, request: str, rng: random.Random) -> Edited:
    return f"{text.rstrip()}\n\nP.S. {rng.choice(_POSTSCRIPTS)}", Postscript(
        postscript_marker="P.S."
    )


def _end_phrase(text: str, request: str, rng: random.Random) -> Edited:
    phrase = rng.choice(END_PHRASES)
    return f"{text.rstrip()}\n\n{phrase}", EndChecker(end_phrase=phrase)


def _repeat_prompt(text: str, request: str, rng: random.Random) -> Edited:
    return f"{request}\n\n{text}", RepeatPrompt(prompt_to_repeat=request)


EDITS: Final[dict[Edit, Callable[[str, str, random.Random], Edited]]] = {
    "capital": _capital,
    "lowercase": _lowercase,
    "quotation": _quotation,
    "title": _title,
    "postscript": _postscript,
    "end_phrase": _end_phrase,
    "repeat_prompt": _repeat_prompt,
}
"""From an answer and its request to the changed answer with the constraint that it follows."""


def edited(text: str, request: str, edit: Edit, rng: random.Random) -> Edited | None:
    """The changed answer; None where it does not follow the constraint, or did before.

    Args:
        text: The answer.
        request: What it answers.
        edit: The change.
        rng: Draws its words.
    """
    changed, one = EDITS[edit](text, request, rng)
    return (changed, one) if not one.holds(text) and one.holds(changed) else None
