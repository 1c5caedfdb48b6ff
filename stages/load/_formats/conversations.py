"""The conversation of a row's turns: which may be empty, and what their marks hold.

Nothing is normalized. Two empty turns carry nothing and are left out: an empty system turn at
the start, and an empty last answer, so that an Alpaca row with `"output": ""` is a conversation
that waits for its answer (Alpaca has 28). An assistant's turn may be empty beside tool calls,
and a tool may answer with nothing; any other empty turn makes the row fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from stages.load._chat.marks import may_have_marks, unmarked
from stages.load._chat.source import Source
from stages.load._chat.turns import Row, Turn, Unusable


class ParsedConversation(NamedTuple):
    """A conversation of a row.

    Attributes:
        turns: Role and content of each, and what else there is.
        input_start: Where a separate input begins in the first user turn, in characters.
        extra: The row's other fields.
        tools: The definitions of the tools, as JSON text.
    """

    turns: list[Turn]
    input_start: int | None
    extra: Row
    tools: str | None = None


Parsed = Iterator[ParsedConversation | Unusable]


def conversation(
    turns: list[Turn], input_start: int | None, extra: Row, source: Source, tools: str | None = None
) -> ParsedConversation:
    """The conversation of some turns, without empty ones at its ends.

    Args:
        turns: Role and content of each, and what else there is.
        input_start: Where a separate input begins in the first user turn.
        extra: The row's other fields.
        source: What becomes of reasoning in marks.
        tools: The definitions of the tools that the turns themselves say.

    Raises:
        Unusable: Another turn is empty, or there is no user turn.
    """
    has_user = False
    for turn in turns:
        text = turn[1]
        if not text or may_have_marks(text):  # few are empty or have a mark
            return _checked(turns, input_start, extra, source, tools)
        if turn[0] == "user":
            has_user = True
    if not has_user:
        raise Unusable("there is no user turn")
    return ParsedConversation(turns, input_start, extra, tools)


def _checked(
    turns: list[Turn], input_start: int | None, extra: Row, source: Source, tools: str | None
) -> ParsedConversation:
    """`conversation` for turns that may be empty, or have marks."""
    turns = list(chain.from_iterable(unmarked(turn, source) for turn in turns))
    if turns and turns[0][0] == "system" and _is_blank(turns[0]):
        turns = turns[1:]
    if turns and turns[-1][0] == "assistant" and _is_blank(turns[-1]):
        turns = turns[:-1]
    for at, turn in enumerate(turns, 1):
        if not turn[1] and not _may_be_empty(turn):
            alone = " beside its reasoning" if not _is_blank(turn) else ""
            raise Unusable(f"turn {at} ({turn[0]}) is empty{alone}")
    if not any(turn[0] == "user" for turn in turns):
        raise Unusable("there is no user turn")
    return ParsedConversation(turns, input_start, extra, tools)


def _is_blank(turn: Turn) -> bool:
    return not turn[1] and (len(turn) == 2 or not turn[2].keys() & {"tool_calls", "reasoning"})


def _may_be_empty(turn: Turn) -> bool:
    return turn[0] == "tool" or (len(turn) == 3 and bool(turn[2].get("tool_calls")))
