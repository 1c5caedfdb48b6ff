"""What the forms share: a conversation to write, and the reason why a form cannot hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from schemas.turns import parsed

Row = dict[str, Any]
Turn = Mapping[str, Any]

Omitted = Literal["name", "tool_call_id", "train", "tools"]
"""What may be left out of rows for forms that have no place for it."""


class FormLacks(Exception):
    """A form has no place for a field of a conversation.

    Args:
        field: The field.
        turn: The number of the turn, from 1; None for what belongs to no turn.
    """

    def __init__(self, field: str, turn: int | None = None) -> None:
        super().__init__(field)
        self.field = field
        self.turn = turn


class Conversation(NamedTuple):
    """What a form writes.

    Attributes:
        messages: The turns, as in records, reasoning where it is wanted.
        tools: The definitions of the tools as JSON text; None without any.
        input_start: Where a separate input begins in the first user turn.
    """

    messages: Sequence[Turn]
    tools: str | None
    input_start: int | None


class Form(NamedTuple):
    """A form of rows.

    Attributes:
        row: Makes a row of a conversation; raises `FormLacks`.
        keys: The keys of its rows.
        lacks: The fields of turns that it has no place for; `tools` if it has none for them.
        usage: How the reader of the form is set up, for the card.
    """

    row: Callable[[Conversation], Row]
    keys: tuple[str, ...]
    lacks: tuple[str, ...]
    usage: str


def held(conversation: Conversation, form: Form, omit: Sequence[Omitted]) -> Conversation:
    """The conversation without what may be omitted of it.

    Args:
        conversation: A conversation.
        form: The form that is to hold it.
        omit: What may be left out.

    Raises:
        FormLacks: It has what the form lacks and may not be left out.
    """
    messages = conversation.messages
    omitted = [name for name in form.lacks if name in omit]
    for name in form.lacks:
        if name == "tools" and conversation.tools is not None and name not in omit:
            raise FormLacks("tools")
        number = next((n for n, turn in enumerate(messages, 1) if _has(turn, name)), None)
        if number is not None and name not in omit:
            raise FormLacks(name, number)
    if not omitted:
        return conversation
    tools = None if "tools" in omitted else conversation.tools
    return conversation._replace(
        messages=[_without(turn, omitted) for turn in messages], tools=tools
    )


def _has(turn: Turn, name: str) -> bool:
    if name == "tool_call_id" and any(call["id"] is not None for call in calls_of(turn)):
        return True
    return turn.get(name) not in (None, [])


def _without(turn: Turn, names: Iterable[str]) -> Turn:
    changed = {**turn, **dict.fromkeys(names)}
    if "tool_call_id" in names and calls_of(turn):
        changed["tool_calls"] = [{**call, "id": None} for call in calls_of(turn)]
    return changed


def calls_of(turn: Turn) -> Sequence[Mapping[str, Any]]:
    """The calls of a turn."""
    return turn.get("tool_calls") or ()


def arguments_of(call: Mapping[str, Any], turn: int) -> dict[str, Any]:
    """The arguments of a call as an object.

    Args:
        call: A call of a record.
        turn: The number of its turn.

    Raises:
        FormLacks: They are no JSON object.
    """
    value = parsed(call["arguments"], None)
    if not isinstance(value, dict):
        raise FormLacks("arguments", turn)
    return value


@lru_cache(1024)  # rows share their tools
def definitions_of(tools: str) -> list[Any]:
    """The definitions of tools as a list of objects.

    Args:
        tools: JSON text.

    Raises:
        FormLacks: They are no JSON list of objects.
    """
    value = parsed(tools, None)
    if not (isinstance(value, list) and value and all(isinstance(v, dict) and v for v in value)):
        raise FormLacks("tools")
    return value


def alternating(turns: Sequence[Turn], first: int) -> None:
    """Check that one of user and tool speaks, then the assistant, to the end.

    Args:
        turns: The turns without a system turn at the start.
        first: The number of the first of them.

    Raises:
        FormLacks: Another role is on turn, or the last turn is not the assistant's.
    """
    for number, turn in enumerate(turns):
        allowed = ("assistant",) if number % 2 else ("user", "tool")
        if turn["role"] not in allowed:
            raise FormLacks("role", first + number)
    if len(turns) % 2:
        raise FormLacks("role", first + len(turns) - 1)


def system_of(messages: Sequence[Turn]) -> tuple[str, Sequence[Turn]]:
    """The text of a system turn at the start, and the other turns.

    Args:
        messages: The turns of a conversation.
    """
    if messages and messages[0]["role"] == "system":
        return messages[0]["content"] or "", messages[1:]
    return "", messages
