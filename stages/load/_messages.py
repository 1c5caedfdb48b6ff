"""Turns as sources write them, as the messages of a record with all that stands beside content.

OpenAI's form (`role`, `content`, `tool_calls`, `function_call`), ShareGPT's (`from`, `value`,
with calls as turns of `function_call`), and a text, which is one turn. What a turn holds
beyond the fields of `schemas.records.Message` is handed back and never left out in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from schemas.records import Message, ToolCall
from schemas.turns import json_text
from stages.load._turns import Row, Unusable, is_missing, json_type

ROLES: Final = {
    "system": "system",
    "developer": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "model", "ai", "bot", "bing", "bard", "function_call"),
        "assistant",
    ),
    **dict.fromkeys(
        ("tool", "function", "observation", "function_response", "ipython", "environment"), "tool"
    ),
}
"""What sources call the roles, in lower case."""

_REASONING: Final = ("reasoning", "reasoning_content", "thinking")
_LOSS: Final = ("train", "loss", "weight")
_SPEAKER: Final = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")


def read_turns(value: Any, role: str) -> tuple[list[Message], list[Row]]:
    r"""The turns of a value, and for each of them what no field of a message holds.

    Args:
        value: A text, a turn, a list of turns, the JSON text of one, or a dialogue of the
            form "\n\nHuman: ...\n\nAssistant: ...".
        role: Whose turn a text is.

    Raises:
        Unusable: It is none of these, or a turn cannot be read.

    Example:
        >>> read_turns([{"from": "human", "value": "Hi", "mood": "good"}], "user")
        ([{'role': 'user', 'content': 'Hi'}], [{'mood': 'good'}])
        >>> [turn["content"] for turn in read_turns("\n\nHuman: Hi\n\nAssistant: Ho", "user")[0]]
        ['Hi', 'Ho']
    """
    if isinstance(value, str):
        turns = _from_json(value)
        if turns is None:
            said = _dialogue(value) or [{"role": role, "content": value}]
            return said, [{} for _ in said]
        value = turns
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, Sequence):
        raise Unusable(f"it is {json_type(value)}, not a text or turns")
    read = [_turn(turn, number) for number, turn in enumerate(value, 1)]
    return [message for message, _ in read], [others for _, others in read]


def _from_json(text: str) -> Any:
    """The turns that a text holds as JSON, as tables do; None where it is a text by itself."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    turns = value if isinstance(value, list) else [value]
    are_turns = all(isinstance(turn, dict) and turn.keys() & {"role", "from"} for turn in turns)
    return value if turns and are_turns else None


def _dialogue(text: str) -> list[Message] | None:
    """The turns of Anthropic's dialogues; None for any other text."""
    if not text.startswith("\n\nHuman:"):
        return None
    parts = _SPEAKER.split(text)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": ROLES[speaker.lower()], "content": said} for speaker, said in pairs]


def _turn(turn: Any, number: int) -> tuple[Message, Row]:
    if not isinstance(turn, dict):
        raise Unusable(f"turn {number} is {json_type(turn)}, not an object")
    others = dict(turn)
    name = others.pop("role" if "role" in others else "from", None)
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise Unusable(f"turn {number}: unknown role {name!r:.80}")
    try:
        content = _content(others)
        message: Message = {"role": role, "content": content}
        if name == "function_call":
            message = {"role": role, "content": None, "tool_calls": _said_calls(content)}
        elif calls := _calls(others):
            message = {"role": role, "content": content or None, "tool_calls": calls}
    except Unusable as reason:
        raise Unusable(f"turn {number}: {reason}") from None
    _add_texts(message, others)
    return message, {k: v for k, v in others.items() if v is not None}


def _content(turn: Row) -> str:
    value = turn.pop("content" if "content" in turn else "value", None)
    if is_missing(value):
        return ""
    if isinstance(value, list):
        return "\n".join(_part(part, at) for at, part in enumerate(value, 1))
    if not isinstance(value, str):
        raise Unusable(f"its content is {json_type(value)}, not a text")
    return value


def _part(part: Any, number: int) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, dict) else json_type(part)
        raise Unusable(f"part {number} of its content is no text ({kind!s:.80})")
    return text


def _calls(turn: Row) -> list[ToolCall]:
    calls = turn.pop("tool_calls", None) or []
    if isinstance(calls, str):
        calls = _parsed(calls, "tool_calls")
    if not isinstance(calls, list):
        raise Unusable(f"'tool_calls' is {json_type(calls)}, not a list")
    if function := turn.pop("function_call", None):
        calls = [*calls, {"function": function}]
    return [_call(call) for call in calls]


def _said_calls(text: str) -> list[ToolCall]:
    """The calls that a turn of `function_call` says as JSON."""
    value = _parsed(text, "function_call")
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{what} is no JSON: {error}") from None


def _call(call: Any) -> ToolCall:
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable("a call has no function with a name")
    arguments = function.get("arguments", function.get("parameters"))
    id_ = call.get("id")
    return {
        "id": None if id_ is None else str(id_),
        "name": function["name"],
        "arguments": json_text(arguments),
    }


def _add_texts(message: Message, turn: Row) -> None:
    """The other fields of a message, taken out of the turn where they are of their type."""
    reasoning = next((name for name in _REASONING if isinstance(turn.get(name), str)), None)
    if reasoning and message["role"] == "assistant":
        message["reasoning"] = turn.pop(reasoning) or None
    if isinstance(turn.get("tool_call_id"), str):
        message["tool_call_id"] = turn.pop("tool_call_id")
    if isinstance(turn.get("name"), str):
        message["name"] = turn.pop("name")
    for name in _LOSS:
        value = turn.get(name)
        if isinstance(value, bool) or (name == "weight" and value in (0, 1)):
            message["train"] = bool(turn.pop(name))
            break


def is_blank(message: Mapping[str, Any]) -> bool:
    """Whether a turn says and calls nothing.

    >>> is_blank({"role": "assistant", "content": " "})
    True
    """
    return not (message.get("content") or "").strip() and not message.get("tool_calls")
