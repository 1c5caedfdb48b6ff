"""Alpaca's form as LLaMA-Factory reads it: instruction, input, output, history and system.

The last exchange is instruction, input and output; earlier ones are pairs in `history`.
"""

from __future__ import annotations

import re
from typing import Final

from stages.export.jsonl._form import (
    Conversation,
    Form,
    FormLacks,
    Row,
    alternating,
    system_of,
)

_NO_INPUT: Final = re.compile(r"\W*(no ?input|n/?a|none|null|nan)?\W*", re.IGNORECASE)
"""Inputs that readers of the form take for none."""

_USAGE: Final = """\
Each split is a data set in LLaMA-Factory's `dataset_info.json`:

```json
{"columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system", \
"history": "history"}}
```"""


def _row(conversation: Conversation) -> Row:
    system, turns = system_of(conversation.messages)
    first = 1 + len(conversation.messages) - len(turns)
    alternating(turns, first)
    for number, turn in enumerate(turns, first):
        if turn["role"] == "tool":
            raise FormLacks("role", number)
    texts = [turn["content"] or "" for turn in turns]
    start = conversation.input_start if len(texts) == 2 else None
    instruction, separate = _parts(texts[-2], start)
    return {
        "instruction": instruction,
        "input": separate,
        "output": texts[-1],
        "system": system,
        "history": [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)],
    }


def _parts(prompt: str, input_start: int | None) -> tuple[str, str]:
    """Instruction and input, where joining them by a blank line gives the prompt again."""
    head, separate = prompt[:input_start], prompt[input_start or len(prompt) :]
    instruction = head.removesuffix("\n\n")
    if instruction in ("", head) or _NO_INPUT.fullmatch(separate):
        return prompt, ""
    return instruction, separate


ALPACA: Final = Form(
    row=_row,
    keys=("instruction", "input", "output", "system", "history"),
    lacks=("tools", "tool_calls", "reasoning", "tool_call_id", "name", "train"),
    usage=_USAGE,
)
