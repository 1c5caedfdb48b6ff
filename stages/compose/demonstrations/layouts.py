"""Rows with demonstrations before them, as conversations, within a limit in tokens.

The row itself is never cut: demonstrations are taken in the order of their rank, and one that
does not fit is left out whole, without those behind it that do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pipeline.models.base import LanguageModel
from pipeline.models.local.chat_template import Unrenderable
from stages._llm.prompts import Prompts
from stages._llm.rendered import rendered_text
from stages._llm.token_counts import rendered_lengths, token_lengths, tokenizer_of
from stages.compose._parts import Part

PROMPTS: Final = Prompts(__file__)

Layout = Literal["turns", "text"]


@dataclass
class Shown:
    """A row and the demonstrations before it.

    Attributes:
        record: The columns of the row.
        parts: The demonstrations in the order of their rank.
        similarities: How similar each is; None where nothing is compared.
        places: The place of each in the conversation, for all that were chosen.
        kept: The ranks of those that are shown.
        tokens: Of the conversation; None without a limit.
        error: Why the chat template cannot show the row.
    """

    record: Mapping[str, Any]
    parts: Sequence[Part]
    similarities: Sequence[float | None]
    places: Sequence[int]
    kept: list[int] = field(default_factory=list)
    tokens: int | None = None
    error: str | None = None

    def ordered(self, more: int | None = None) -> list[int]:
        """The ranks that are shown, in the order of the conversation.

        Args:
            more: A rank that is shown as well.
        """
        ranks = [*self.kept, *([] if more is None else [more])]
        return sorted(ranks, key=lambda rank: self.places[rank])


def conversation(
    shown: Shown, layout: Layout, more: int | None = None
) -> tuple[list[dict[str, Any]], int | None]:
    """The messages of a row with its demonstrations, and where the first turn's input begins.

    Args:
        shown: The row.
        layout: Demonstrations as turns of their own, or as text of the row's first request.
        more: The rank of a demonstration that is shown as well.
    """
    ranks = shown.ordered(more)
    messages = [dict(turn) for turn in shown.record["messages"]]
    start: int | None = shown.record["input_start"]
    if not ranks:
        return messages, start
    parts = [shown.parts[rank] for rank in ranks]
    _train_on_the_last(messages)
    first = next(i for i, turn in enumerate(messages) if turn["role"] == "user")
    if layout == "text":
        request = messages[first]["content"] or ""
        examples = [{"request": part.request, "answer": part.answer} for part in parts]
        text = PROMPTS.render("text", examples=examples, request=request)
        messages[first]["content"] = text
        at_end = start is not None and text.endswith(request)
        return messages, len(text) - len(request) + (start or 0) if at_end else None
    turns = [turn for part in parts for turn in _turns(part)]
    return [*messages[:first], *turns, *messages[first:]], parts[0].input_start


def _turns(part: Part) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": part.request},
        {"role": "assistant", "content": part.answer, "train": False},
    ]


def _train_on_the_last(messages: list[dict[str, Any]]) -> None:
    """Mark the answers before the last one as not to be learnt."""
    answers = [turn for turn in messages if turn["role"] == "assistant"]
    for turn in answers[:-1]:
        turn["train"] = False


class Budget:
    """The most tokens of a conversation as the model that will be tuned reads it.

    Args:
        model: Whose tokenizer and chat template count.
        max_tokens: The limit.
        layout: Of the conversations.
    """

    def __init__(self, model: LanguageModel, max_tokens: int, layout: Layout) -> None:
        self._tokenizer = tokenizer_of(model)
        self._max_tokens, self._layout = max_tokens, layout

    def choose(self, rows: Sequence[Shown]) -> None:
        """Keep the demonstrations that fit, and note tokens or errors.

        Args:
            rows: Changed in place.
        """
        for shown, tokens in zip(rows, self._lengths([(s, None) for s in rows]), strict=True):
            shown.tokens = tokens if isinstance(tokens, int) else None
            shown.error = None if isinstance(tokens, int) else tokens
        for rank in range(max((len(shown.parts) for shown in rows), default=0)):
            tried = [s for s in rows if s.error is None and rank < len(s.parts)]
            lengths = self._lengths([(shown, rank) for shown in tried])
            for shown, tokens in zip(tried, lengths, strict=True):
                if isinstance(tokens, int) and tokens <= self._max_tokens:
                    shown.kept.append(rank)
                    shown.tokens = tokens

    def part_tokens(self, parts: Sequence[Part]) -> int:
        """The tokens of demonstrations by themselves.

        Args:
            parts: The demonstrations.
        """
        texts = [text for part in parts for text in (part.request, part.answer)]
        return int(token_lengths(self._tokenizer, texts).sum())

    def _lengths(self, rows: Sequence[tuple[Shown, int | None]]) -> list[int | str]:
        """The tokens of each conversation, or why it cannot be rendered."""
        texts: list[str] = []
        errors: list[str | None] = []
        for shown, more in rows:
            messages, _ = conversation(shown, self._layout, more)
            try:
                texts.append(rendered_text(self._tokenizer, messages, shown.record["tools"]))
                errors.append(None)
            except Unrenderable as error:
                errors.append(str(error))
        counted = iter(rendered_lengths(self._tokenizer, texts))
        return [int(next(counted)) if error is None else error for error in errors]
