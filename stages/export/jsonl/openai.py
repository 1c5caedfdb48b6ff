"""OpenAI's form: `messages` and `tools`, as its fine-tuning takes them.

Arguments are JSON text, as given. `weight` is 0 or 1 on an assistant's turn, as OpenAI has it;
reasoning is `reasoning_content`, as servers of reasoning models name it.
"""

from __future__ import annotations

from typing import Any, Final

from schemas.turns import REASONING_FIELDS
from stages.export.jsonl._form import (
    Conversation,
    Form,
    FormLacks,
    Row,
    Turn,
    calls_of,
    definitions_of,
)


def _row(conversation: Conversation) -> Row:
    row: Row = {"messages": [_turn(t, n) for n, t in enumerate(conversation.messages, 1)]}
    if conversation.tools is not None:
        row["tools"] = definitions_of(conversation.tools)
    return row


def _turn(turn: Turn, number: int) -> Row:
    calls = [message_call(call, call["arguments"]) for call in calls_of(turn)]
    message = message_of(turn, calls, turn["content"] or (None if calls else ""))
    if (train := turn.get("train")) is not None:
        if turn["role"] != "assistant":
            raise FormLacks("train", number)
        message["weight"] = int(train)
    return message


def message_of(turn: Turn, calls: list[Row], content: str | None) -> Row:
    """A message of OpenAI's form.

    Args:
        turn: A turn of a record.
        calls: Its calls in that form.
        content: Its content.
    """
    message: Row = {"role": turn["role"], "content": content}
    if turn.get("reasoning") is not None:
        message[REASONING_FIELDS[0]] = turn["reasoning"]
    if calls:
        message["tool_calls"] = calls
    names = ("tool_call_id", "name")
    return message | {name: turn[name] for name in names if turn.get(name) is not None}


def message_call(call: Turn, arguments: Any) -> Row:
    """A call of OpenAI's form; without an id or arguments where it has none.

    Args:
        call: A call of a record.
        arguments: Its arguments.
    """
    function = {"name": call["name"]}
    if arguments is not None:
        function["arguments"] = arguments
    known = {} if call["id"] is None else {"id": call["id"]}
    return {**known, "type": "function", "function": function}


OPENAI: Final = Form(
    row=_row,
    keys=("messages", "tools"),
    lacks=(),
    usage="Each line holds `messages` and, where there are any, `tools`, as OpenAI's fine-tuning "
    "takes them.",
)
