"""Axolotl's chat form (`type: chat_template`): OpenAI's messages with `train` on each turn.

As its documentation says: arguments are objects as JSON text, so that arguments of one name and
several types do not meet in a column, and `train` says whether loss is on a turn, whoever's it
is (`message_field_training`). Its templates concatenate contents, so none is null.
"""

from __future__ import annotations

from typing import Final

from stages.export.jsonl._form import (
    Conversation,
    Form,
    Row,
    Turn,
    arguments_of,
    calls_of,
    definitions_of,
)
from stages.export.jsonl.openai import message_call, message_of

_USAGE: Final = """\
```yaml
datasets:
  - path: data
    ds_type: json
    type: chat_template
    message_field_training: train
```"""


def _row(conversation: Conversation) -> Row:
    row: Row = {"messages": [_turn(t, n) for n, t in enumerate(conversation.messages, 1)]}
    if conversation.tools is not None:
        row["tools"] = definitions_of(conversation.tools)
    return row


def _turn(turn: Turn, number: int) -> Row:
    calls = []
    for call in calls_of(turn):
        if call["arguments"] is not None:
            arguments_of(call, number)  # its loader parses the text, and stops where it cannot
        calls.append(message_call(call, call["arguments"]))
    message = message_of(turn, calls, turn["content"] or "")
    train = turn.get("train")
    return message if train is None else message | {"train": train}


AXOLOTL: Final = Form(row=_row, keys=("messages", "tools"), lacks=(), usage=_USAGE)
