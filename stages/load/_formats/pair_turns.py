"""The turns of a prompt or of a side, in every form in which preference data have them.

Turns that are objects are read as `load.records` reads them (`_chat/`). Beside them there are
texts, JSON text of turns (as tables hold it), and Anthropic's dialogues.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final

from schemas.records import Message
from stages.load._chat.marks import unmarked
from stages.load._chat.messages import turns_of
from stages.load._chat.source import Source
from stages.load._chat.turns import ROLES, Row, Turn, Unusable, json_type

_SPEAKER: Final = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")


def read_turns(row: Row, field: str, role: str, source: Source) -> list[Turn]:
    r"""The turns of a field, whose other keys stay in the row, one object a turn.

    Args:
        row: The row.
        field: Its field: a text, a turn, a list of turns, the JSON text of one, or a dialogue
            of the form "\n\nHuman: ...\n\nAssistant: ...".
        role: Whose turn a text is.
        source: How the row is read.

    Raises:
        Unusable: It is none of these, or a turn cannot be read.

    Example:
        >>> from stages.load._chat.source import PLAIN
        >>> row = {"prompt": [{"from": "human", "value": "Hi", "id": 3}], "chosen": "Ho"}
        >>> read_turns(row, "prompt", "user", PLAIN), row["prompt"]
        ([('user', 'Hi')], [{'id': 3}])
        >>> read_turns({"prompt": "\n\nHuman: Hi\n\nAssistant: Ho"}, "prompt", "user", PLAIN)
        [('user', 'Hi'), ('assistant', 'Ho')]
    """
    value = row.pop(field)
    if isinstance(value, str) and (said := _from_json(value)) is not None:
        value = said
    turns: list[Turn]
    if isinstance(value, str):
        turns = _dialogue(value) or [(role, value)]
    elif isinstance(value, dict | list):
        row[field] = [value] if isinstance(value, dict) else value
        turns = turns_of(row, field, source)
    else:
        raise Unusable(f"it is {json_type(value)}, not a text or turns")
    return list(chain.from_iterable(unmarked(turn, source) for turn in turns))


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


def _dialogue(text: str) -> list[Turn] | None:
    """The turns of Anthropic's dialogues; None for any other text."""
    if not text.startswith("\n\nHuman:"):
        return None
    parts = _SPEAKER.split(text)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [(ROLES[speaker.lower()], said) for speaker, said in pairs]


def messages_of(turns: Iterable[Turn]) -> list[Message]:
    """Turns as the messages of a record.

    Args:
        turns: Role and content of each, and what else there is.

    >>> messages_of([("user", "Why?"), ("assistant", "So.", {"reasoning": "Hm."})])[1]
    {'role': 'assistant', 'content': 'So.', 'reasoning': 'Hm.'}
    """
    return [_message(*turn) for turn in turns]


def _message(role: str, content: str | None, further: Mapping[str, Any] | None = None) -> Message:
    return {"role": role, "content": content, **(further or {})}  # type: ignore[typeddict-item]


def is_blank(message: Mapping[str, Any]) -> bool:
    """Whether a turn says and calls nothing, as only a tool may.

    Args:
        message: A message of a record.

    >>> is_blank({"role": "assistant", "content": " "})
    True
    """
    if message["role"] == "tool":
        return False
    return not (message.get("content") or "").strip() and not message.get("tool_calls")
