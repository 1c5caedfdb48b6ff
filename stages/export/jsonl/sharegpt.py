"""ShareGPT's form as LLaMA-Factory reads it: `conversations`, `system` and `tools`.

A turn of calls alone is one of `function_call`, a tool's is an `observation`. LLaMA-Factory
wants one of human and observation, then one of gpt and function_call, to the end; it skips
other rows in silence, so they are dropped here.
"""

from __future__ import annotations

from typing import Final

from stages.export._turns import json_line
from stages.export.jsonl._form import (
    Conversation,
    Form,
    FormLacks,
    Row,
    Turn,
    alternating,
    arguments_of,
    calls_of,
    definitions_of,
    system_of,
)

_FROM: Final = {"user": "human", "assistant": "gpt", "tool": "observation"}
_USAGE: Final = """\
Each split is a data set in LLaMA-Factory's `dataset_info.json`:

```json
{"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system", "tools": \
"tools"}}
```"""


def _row(conversation: Conversation) -> Row:
    system, turns = system_of(conversation.messages)
    first = 1 + len(conversation.messages) - len(turns)
    alternating(turns, first)
    if conversation.tools is not None:
        definitions_of(conversation.tools)
    return {
        "conversations": [_turn(turn, number) for number, turn in enumerate(turns, first)],
        "system": system,
        "tools": conversation.tools or "",
    }


def _turn(turn: Turn, number: int) -> Row:
    calls = [
        {"name": call["name"], "arguments": arguments_of(call, number)} for call in calls_of(turn)
    ]
    if not calls:
        return {"from": _FROM[turn["role"]], "value": turn["content"] or ""}
    if turn["content"]:
        raise FormLacks("content", number)
    value = json_line(calls[0] if len(calls) == 1 else calls)
    return {"from": "function_call", "value": value}


SHAREGPT: Final = Form(
    row=_row,
    keys=("conversations", "system", "tools"),
    lacks=("reasoning", "tool_call_id", "name", "train"),
    usage=_USAGE,
)
