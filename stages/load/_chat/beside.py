"""What stands beside the turns of a row and belongs to them: a system prompt, and reasoning."""

from __future__ import annotations

from typing import Final

from stages.load._chat.source import Source
from stages.load._chat.turns import Further, Row, Turn, text_of

SYSTEMS: Final = ("system", "system_prompt")
"""What sources call a system prompt that stands beside the turns."""


def take_system(row: Row, source: Source) -> str:
    """The system prompt beside the turns of a row, taken out of it; empty without one.

    Args:
        row: The row.
        source: Whether such a field is something else.

    Raises:
        Unusable: It is no text.

    >>> from stages.load._chat.source import PLAIN
    >>> take_system({"system_prompt": "Be brief.", "messages": []}, PLAIN)
    'Be brief.'
    """
    text = ""
    for field in SYSTEMS:
        if field in row and not text and not source.decided(field):
            text = text_of(row, field, optional=True)
    return text


def with_system(turns: list[Turn], text: str, extra: Row) -> list[Turn]:
    """The turns behind the system prompt of their row.

    Turns that begin with a system prompt have one already: another one stays in `extra`.

    Args:
        turns: The turns.
        text: The system prompt; empty without one.
        extra: The row's other fields, which are changed.

    >>> with_system([("user", "Hi")], "Be brief.", {})
    [('system', 'Be brief.'), ('user', 'Hi')]
    """
    if not text:
        return turns
    if turns and turns[0][0] == "system":
        if turns[0][1] != text:
            extra["system"] = text
        return turns
    return [("system", text), *turns]


THOUGHTS: Final = ("reasoning_content", "thinking")
"""Fields of a row of texts that hold the reasoning of its answer. `reasoning` is none: data sets
say by it what kind of reasoning a row has."""


def with_reasoning(turns: list[Turn], extra: Row, source: Source) -> list[Turn]:
    """The turns, whose last answer has the reasoning that stands beside it in its row.

    Args:
        turns: The turns.
        extra: The row's other fields, which are changed.
        source: What becomes of reasoning.

    >>> from stages.load._chat.source import PLAIN
    >>> with_reasoning([("user", "Hi"), ("assistant", "Ho")], {"thinking": "Hm."}, PLAIN)[1]
    ('assistant', 'Ho', {'reasoning': 'Hm.'})
    """
    field = next((name for name in THOUGHTS if isinstance(extra.get(name), str)), None)
    if field is None or not extra[field] or source.decided(field) or source.reasoning == "keep":
        return turns
    *before, (role, content, *rest) = turns
    further: Further = {**rest[0]} if rest else {}
    if role != "assistant" or not content or further.get("reasoning"):
        return turns
    text = extra.pop(field)
    if source.reasoning == "split":
        further["reasoning"] = text
    return [*before, (role, content, further) if further else (role, content)]
