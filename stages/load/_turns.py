"""From the fields of a row to the turns of a conversation: what all formats share.

Nothing is normalized. A value that is null or NaN (as pandas writes it) is missing, and the
content of a turn is then empty. Two empty turns carry nothing and are left out: an empty
system turn at the start, and an empty last answer, so that an Alpaca row with
`"output": ""` is a conversation that waits for its answer (Alpaca has 28). Any other empty
turn makes the row fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isnan
from typing import Any, Final, NamedTuple

Row = dict[str, Any]
Turn = tuple[str, str]
"""Role and content."""

OPENAI: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
SHAREGPT: Final = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}


class Unusable(ValueError):
    """Why a row, or one of the conversations in it, cannot be used."""


class ParsedConversation(NamedTuple):
    """A conversation of a row.

    Attributes:
        turns: Role and content of each.
        input_start: Where a separate input begins in the first user turn, in characters.
        extra: The row's other fields.
    """

    turns: list[Turn]
    input_start: int | None
    extra: Row


Parsed = Iterator[ParsedConversation | Unusable]


def json_type(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")


def is_missing(value: Any) -> bool:
    """Whether a value is null or NaN.

    >>> is_missing(float("nan")), is_missing("")
    (True, False)
    """
    return value is None or (isinstance(value, float) and isnan(value))


def text_of(row: Row, name: str, *, optional: bool = False) -> str:
    """The text of a field, removed from the row; a missing optional one is empty.

    Args:
        row: The row.
        name: The field.
        optional: Whether it may be missing.

    Raises:
        Unusable: It is missing, or no text.
    """
    value = row.pop(name, None)
    if isinstance(value, str):
        return value
    if is_missing(value) and optional:
        return ""
    if is_missing(value):
        raise Unusable(f"missing field {name!r}")
    raise Unusable(f"{name!r} is {json_type(value)}, not a text")


def list_of(row: Row, name: str, *, optional: bool = False) -> list[Any]:
    """The list of a field, removed from the row; a missing optional one is empty.

    Args:
        row: The row.
        name: The field.
        optional: Whether it may be missing.

    Raises:
        Unusable: It is missing, or no list.
    """
    value = row.pop(name, None)
    if isinstance(value, list):
        return value
    if optional and (is_missing(value) or value == ""):
        return []
    if is_missing(value):
        raise Unusable(f"missing field {name!r}")
    raise Unusable(f"{name!r} is {json_type(value)}, not a list")


def conversation(turns: list[Turn], input_start: int | None, extra: Row) -> ParsedConversation:
    """The conversation of some turns, without empty ones at its ends.

    Args:
        turns: Role and content of each.
        input_start: Where a separate input begins in the first user turn.
        extra: The row's other fields.

    Raises:
        Unusable: Another turn is empty, or there is no user turn.
    """
    if turns and turns[0] == ("system", ""):
        turns = turns[1:]
    if turns and turns[-1] == ("assistant", ""):
        turns = turns[:-1]
    has_user = False
    for at, (role, content) in enumerate(turns):
        if not content:
            raise Unusable(f"turn {at + 1} ({role}) is empty")
        has_user = has_user or role == "user"
    if not has_user:
        raise Unusable("there is no user turn")
    return ParsedConversation(turns, input_start, extra)


def with_input(instruction: str, separate: str) -> tuple[str, int | None]:
    """Instruction and input as one text, and where the input begins."""
    if not instruction:
        raise Unusable("empty instruction")
    if not separate:
        return instruction, None
    return f"{instruction}\n\n{separate}", len(instruction) + 2


def turns_have(value: Any, key: str) -> bool:
    """Whether a value is a list of turns with that key, to judge by the first."""
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and key in value[0]
    )


def messages_of(row: Row, field: str) -> list[Turn]:
    """The turns of a list of OpenAI's messages (`turns_of`)."""
    return turns_of(row, field, "role", "content", OPENAI)


def turns_of(row: Row, field: str, role: str, content: str, roles: Mapping[str, str]) -> list[Turn]:
    """The turns of a list of objects, whose other fields stay in the row, one object a turn.

    Args:
        row: The row.
        field: Its field that holds the list.
        role: The key of a turn's role.
        content: The key of its content.
        roles: Our name for each of the source's roles.

    Raises:
        Unusable: One of them is no turn.
    """
    turns: list[Turn] = []
    others: list[Row] = []
    for number, turn in enumerate(list_of(row, field), 1):
        if not isinstance(turn, dict):
            raise Unusable(f"turn {number} is {json_type(turn)}, not an object")
        name, value = turn.get(role), turn.get(content)
        if not isinstance(name, str) or name not in roles:
            raise Unusable(f"turn {number}: unknown role {name!r:.80}")
        text = _content(value, number, turn)
        if not isinstance(text, str):
            raise Unusable(f"turn {number}: {content!r} is {json_type(text)}, not a text")
        turns.append((roles[name], text))
        used = {role} if name != "function_call" else set()
        used |= {content} if text is value or is_missing(value) else set()
        others.append({k: v for k, v in turn.items() if k not in used and v is not None})
    if any(others):
        row[field] = others
    return turns


def _content(value: Any, number: int, turn: Row) -> Any:
    """The content of a turn as a text, if it can be one; a missing one is empty."""
    if isinstance(value, list):
        return _joined(value, number)
    # Beside a call a missing content is no empty answer.
    if is_missing(value) and not (turn.get("tool_calls") or turn.get("function_call")):
        return ""
    return value


def _joined(parts: list[Any], number: int) -> str:
    """OpenAI's content parts as one text, a line each (as vLLM renders them), if all are texts."""
    texts = []
    for at, part in enumerate(parts, 1):
        kind = part.get("type") if isinstance(part, dict) else json_type(part)
        text = part.get("text") if kind == "text" else None
        if not isinstance(text, str):
            raise Unusable(f"turn {number}: part {at} of its content is no text ({kind!s:.80})")
        texts.append(text)
    return "\n".join(texts)
