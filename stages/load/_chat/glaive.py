"""Glaive's function-calling dialogues: one text, with speakers in capitals.

A row has `system` and `chat` (the second version), or all in `sample` (the first):
`SYSTEM: … USER: … ASSISTANT: <functioncall> {"name": …} FUNCTION RESPONSE: …`.
"""

from __future__ import annotations

import re
from typing import Any, Final

from schemas.turns import tools_json
from stages.load._chat.calls import definitions, tool_calls
from stages.load._chat.marks import objects_in
from stages.load._chat.source import Source
from stages.load._chat.turns import Row, Turn, Unusable, text_of

_SPEAKER: Final = re.compile(r"(?:\A|\s)\s*(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):")
_ROLES: Final = {
    "SYSTEM": "system",
    "USER": "user",
    "ASSISTANT": "assistant",
    "FUNCTION RESPONSE": "tool",
}
_END: Final = "<|endoftext|>"
_CALL: Final = "<functioncall>"
_WITH_TOOLS: Final = re.compile(r".*?if (?:required|needed)\s*-\s*(?=[\[{])", re.DOTALL)


def is_glaive(row: Row) -> bool:
    """Whether a row is one of these dialogues.

    Args:
        row: A row of a source.

    >>> is_glaive({"system": "SYSTEM: Help.", "chat": "USER: Hi ASSISTANT: Ho"})
    True
    """
    text = row.get("chat" if "system" in row else "sample")
    return isinstance(text, str) and "USER:" in text


def glaive_turns(row: Row, source: Source) -> tuple[list[Turn], str | None]:
    r"""The turns of a dialogue and the definitions of its tools.

    A system prompt that only shows tools becomes their definitions, and stays in `extra` as
    `system`.

    Args:
        row: The row, whose text is used up.
        source: How its rows are read.

    Raises:
        Unusable: It is not of this form.

    Example:
        >>> from stages.load._chat.source import PLAIN
        >>> row = {"system": "SYSTEM: Help.", "chat": "USER: Hi\n\n\nASSISTANT: Ho <|endoftext|>"}
        >>> glaive_turns(row, PLAIN)[0]
        [('system', 'Help.'), ('user', 'Hi'), ('assistant', 'Ho')]
    """
    text = text_of(row, "chat" if "system" in row else "sample")
    if "system" in row:
        text = text_of(row, "system", optional=True) + "\n" + text
    before, *parts = _SPEAKER.split(text)
    if before.strip():
        raise Unusable("the dialogue does not begin with a speaker (SYSTEM: or USER:)")
    turns: list[Turn] = []
    tools = None
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        said = said.strip().removesuffix(_END).strip()
        if speaker == "SYSTEM" and (shown := _shown_tools(said)):
            tools = tools_json(shown)
            row["system"] = said
        else:
            turns.append(_turn(_ROLES[speaker], said, source))
    return turns, tools


def _shown_tools(system: str) -> list[Any]:
    match = _WITH_TOOLS.match(system)
    shown = objects_in(system[match.end() :]) if match else []
    return definitions(shown) or []


def _turn(role: str, said: str, source: Source) -> Turn:
    content, mark, call = said.partition(_CALL)
    if role != "assistant" or not mark:
        return role, said
    calls = tool_calls(call.replace(_END, "").strip(), source)
    return role, content.strip() or None, {"tool_calls": calls}
