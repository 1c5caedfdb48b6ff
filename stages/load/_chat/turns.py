"""What all readers of rows share: the turn, why a row cannot be used, and fields by their type.

A value that is null or NaN (as pandas writes it) is missing, and the content of a turn is then
empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isnan
from typing import Any, Final, TypedDict

from schemas.records import ToolCall

Row = dict[str, Any]


class Further(TypedDict, total=False):
    """What a turn has beside role and content: the further fields of `schemas.records.Message`."""

    reasoning: str
    tool_calls: list[ToolCall]
    tool_call_id: str
    name: str
    train: bool


Turn = tuple[str, str] | tuple[str, str | None, Further]
"""Role, content, and what stands beside them where there is more: nearly all turns are plain,
and two texts take a tenth of the time of an object."""


def texts_beside(further: Further) -> Iterator[str]:
    """The texts that stand beside the content of a turn.

    Args:
        further: What the turn has beside role and content.

    >>> list(texts_beside({"name": "add", "train": False}))
    ['add']
    """
    calls = [value for call in further.get("tool_calls", ()) for value in call.values()]
    yield from (value for value in (*further.values(), *calls) if isinstance(value, str))


ROLES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("system", "developer", "system_prompt"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        (
            "assistant", "gpt", "chatgpt", "gpt4", "gpt-4", "model", "ai", "bot", "chatbot",
            "bing", "bard", "claude", "llm", "function_call", "tool_call",
        ),
        "assistant",
    ),
    **dict.fromkeys(
        (
            "tool", "function", "observation", "function_response", "tool_response",
            "tool_result", "ipython", "environment",
        ),
        "tool",
    ),
}  # fmt: skip
"""What sources call the roles, in lower case."""


class Unusable(ValueError):
    """Why a row, or one of the conversations in it, cannot be used."""


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
    """The list of a field, or the one that its JSON text holds, removed from the row.

    A missing optional one is empty.

    Args:
        row: The row.
        name: The field.
        optional: Whether it may be missing.

    Raises:
        Unusable: It is missing, or no list.
    """
    value = row.pop(name, None)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _list_in(value)
    if isinstance(value, list):
        return value
    if optional and (is_missing(value) or value == ""):
        return []
    if is_missing(value):
        raise Unusable(f"missing field {name!r}")
    raise Unusable(f"{name!r} is {json_type(value)}, not a list")


def _list_in(text: str) -> Any:
    """The list that JSON text holds; the text itself where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


NO_INPUT: Final = frozenset({"", "<noinput>", "n/a", "nan", "<nan>"})
"""What stands for no input, in lower case."""


def with_input(instruction: str, separate: str) -> tuple[str, int | None]:
    """Instruction and input as one text, and where the input begins.

    Args:
        instruction: The instruction.
        separate: The input; blank, or a placeholder of `NO_INPUT`, it is none.

    Raises:
        Unusable: The instruction is empty.

    >>> with_input("Add.", "1, 2"), with_input("Add.", "<noinput>")
    (('Add.\\n\\n1, 2', 6), ('Add.', None))
    """
    if not instruction:
        raise Unusable("empty instruction")
    # Long ones are none of the placeholders, and need no copy in lower case.
    if not separate or (len(separate) < 40 and separate.strip().lower() in NO_INPUT):
        return instruction, None
    if separate.isspace():
        return instruction, None
    return f"{instruction}\n\n{separate}", len(instruction) + 2
