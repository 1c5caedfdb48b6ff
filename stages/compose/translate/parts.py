"""The parts of a conversation that are translated as one, and what a translation must be.

A row is translated whole, as numbered parts: parts that are translated one by one lose what they
refer to in one another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from stages._llm.preambles import without_preamble

Field = Literal["system", "instruction", "input", "response"]
FIELDS: Final[tuple[Field, ...]] = ("system", "instruction", "input", "response")

_HEADING: Final = re.compile(
    r"^[ \t#*_>`]*+\[[ \t]*(?:part[ \t]*(\d+)|(end))[ \t]*\][ \t*_:`]*+$",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE: Final = re.compile(r"[^.!?。！？।\n]+")


@dataclass(frozen=True)
class Part:
    """A text of a conversation that is translated.

    Attributes:
        number: Its number, from 1.
        field: What it is.
        turn: The position of its turn.
        text: The text.
    """

    number: int
    field: Field
    turn: int
    text: str


def parts_of(
    messages: Sequence[Mapping[str, Any]], input_start: int | None, fields: Sequence[Field]
) -> list[Part]:
    """The texts of a conversation that are to be translated.

    Args:
        messages: The turns.
        input_start: Where the input begins in the first turn of the user.
        fields: Which texts; of several turns of a kind all.

    Example:
        >>> turns = [{"role": "user", "content": "Spell it.\\n\\nTea"}]
        >>> [(part.field, part.text) for part in parts_of(turns, 11, ("instruction", "input"))]
        [('instruction', 'Spell it.'), ('input', 'Tea')]
    """
    texts = [text for text in _texts(messages, input_start) if text[0] in fields]
    said = [text for text in texts if text[2].strip()]
    return [Part(number, *text) for number, text in enumerate(said, 1)]


def translated(
    messages: Sequence[Mapping[str, Any]],
    input_start: int | None,
    new: Mapping[tuple[int, str], str],
) -> tuple[list[dict[str, Any]], int | None]:
    """The conversation with new texts, and where its input begins now.

    Args:
        messages: The turns.
        input_start: Where the input begins in the first turn of the user.
        new: The new texts, by turn and field.
    """
    changed = [dict(turn) for turn in messages]
    gap, start = "", None
    for field, turn, old in _texts(messages, input_start):
        text = new.get((turn, field), old)
        if field == "input":
            before = f"{changed[turn]['content']}{gap}"
            text, start = before + text, len(before)
        elif field == "instruction" and start is None and input_start is not None:
            gap = (messages[turn]["content"] or "")[len(old) : input_start]
        changed[turn]["content"] = text
    return changed, start


def _texts(
    messages: Sequence[Mapping[str, Any]], input_start: int | None
) -> Iterable[tuple[Field, int, str]]:
    """Field, turn and text of each part of the conversation, in order."""
    names: dict[str, Field] = {
        "system": "system",
        "user": "instruction",
        "assistant": "response",
    }
    remaining = input_start
    for turn, message in enumerate(messages):
        field, text = names.get(message["role"]), message["content"] or ""
        if field is None:
            continue
        if field == "instruction" and remaining is not None:
            yield "instruction", turn, text[:remaining].rstrip()
            yield "input", turn, text[remaining:]
            remaining = None
        else:
            yield field, turn, text


def read_parts(text: str) -> dict[int, str] | None:
    r"""The parts in a completion; None unless they are numbered in order and each says something.

    Args:
        text: A completion. Without any heading all of it is the first part.

    Example:
        >>> read_parts("Sure!\n**[Part 1]**\nHallo.\n[Part 2]\nWelt.\n[End]")
        {1: 'Hallo.', 2: 'Welt.'}
        >>> read_parts("[Part 1]\nHallo.") is None
        True
    """
    headings = [*_HEADING.finditer(text)]
    if not headings:
        alone = without_preamble(text)
        return {1: alone} if alone else None
    named = [heading[1] and int(heading[1]) for heading in headings]
    if named != [*range(1, len(headings)), None]:
        return None
    ends = [heading.start() for heading in headings[1:]]
    bounds = zip(headings[:-1], ends, strict=True)
    parts = {n: text[heading.end() : end].strip() for n, (heading, end) in enumerate(bounds, 1)}
    return parts if parts and all(parts.values()) else None


def is_copy(new: str, old: str) -> bool:
    """Whether a translation is the text itself, but for case and white space."""
    return new.casefold().split() == old.casefold().split()


def new_sentences(new: str, old: str) -> str:
    """The sentences of a translation that do not stand in the text itself.

    Args:
        new: The translation, without what is protected.
        old: The text, without what is protected.

    Example:
        >>> new_sentences("Übersetze das. I am here.", "Translate this. I am here.")
        'Übersetze das'
    """
    known = _squeezed(old)
    sentences = (_squeezed(sentence) for sentence in _SENTENCE.findall(new))
    return " ".join(sentence for sentence in sentences if sentence and sentence not in known)


def _squeezed(text: str) -> str:
    return " ".join(text.split())
