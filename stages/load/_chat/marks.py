"""What stands in marks within a text: reasoning, tool calls and their results.

- reasoning, in `<think>…</think>` or another model's marks before an answer, or in the channels
  of gpt-oss (see `schemas.reasoning`);
- Hermes' `<tool_call>` and `<tool_response>` (`<tools>` in `_chat/shown_tools.py`).

A text is split only where its marks are complete and what they hold can be read;
otherwise it stays the text that it is.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any, Final

from schemas.reasoning import MARKS, channels, leading
from schemas.records import ToolCall
from stages.load._chat.calls import tool_calls
from stages.load._chat.source import Source
from stages.load._chat.turns import Further, Turn, Unusable

# No part of these can match in two ways: a text of a thousand marks is searched in one pass.
_CALLS: Final = re.compile(
    r"(?P<content>.*?)(?P<calls>(?:<tool_call>(?:(?!</tool_call>).)*+</tool_call>\s*+)++)",
    re.DOTALL,
)
_CALL: Final = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESPONSES: Final = re.compile(
    r"\s*+(?:<tool_response>(?:(?!</tool_response>).)*+</tool_response>\s*+)++", re.DOTALL
)
_RESPONSE: Final = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
_CLOSINGS: Final = tuple(closing for _, closing in MARKS)
_MARKED: Final = (*_CLOSINGS, "<|channel|>", "<tool_call>", "<tool_response>")


def may_have_marks(text: str) -> bool:
    """Whether a text holds what all marks hold; of most texts each would be sought in vain.

    Args:
        text: A turn's.

    >>> may_have_marks("2 < 3"), may_have_marks("[1]")
    (True, False)
    """
    return "<" in text or "[/" in text or "◁" in text


def unmarked(turn: Turn, source: Source) -> list[Turn]:
    r"""A turn with what its marks hold in fields: several where it holds several results.

    Args:
        turn: The turn.
        source: What becomes of reasoning.

    >>> from stages.load._chat.source import PLAIN
    >>> unmarked(("assistant", "<think>\n2 and 2.\n</think>\n\n4"), PLAIN)
    [('assistant', '4', {'reasoning': '2 and 2.'})]
    >>> unmarked(("assistant", "<think>2 and 2."), PLAIN)
    [('assistant', '<think>2 and 2.')]
    """
    role, content = turn[0], turn[1]
    if not content or not may_have_marks(content):
        return [turn]
    if not any(mark in content for mark in _MARKED):
        return [turn]
    further: Further = turn[2] if len(turn) == 3 else {}
    if role == "assistant":
        return [_answer(content, further, source)]
    if role in ("tool", "user") and _RESPONSES.fullmatch(content):
        results = [text.strip("\n") for text in _RESPONSE.findall(content)]
        if len(results) == 1 and further:
            return [("tool", results[0], further)]
        return [("tool", text) for text in results] if not further else [turn]
    return [turn]


def _answer(content: str, further: Further, source: Source) -> Turn:
    """An assistant's turn with what its marks hold in fields."""
    text: str | None = content
    fields: Further = {**further}
    if source.reasoning != "keep" and not further.get("reasoning"):
        reasoning, text, calls = _channels(content, source) or _thought(content)
        if reasoning and source.reasoning == "split":
            fields["reasoning"] = reasoning
        if calls:
            fields["tool_calls"] = [*fields.get("tool_calls", []), *calls]
    elif source.reasoning != "keep" and _thought(content)[0] == fields["reasoning"].strip():
        text = _thought(content)[1]  # said twice
    if text and "<tool_call>" in text and (said := _said_calls(text, source)):
        text, calls = said
        fields["tool_calls"] = [*fields.get("tool_calls", []), *calls]
    if fields.get("tool_calls"):
        text = text or None
    return ("assistant", text, fields) if fields else ("assistant", text or "")


Parts = tuple[str, str, list[ToolCall]]
"""Reasoning, content and calls of a text."""


def _thought(text: str) -> Parts:
    reasoning, content = leading(text) or ("", text)
    return reasoning, content, []


def _channels(text: str, source: Source) -> Parts | None:
    """What the channels of a text hold; None where it is not all of channels, or unfinished."""
    messages = channels(text) or []
    reasoning = [m.text.strip() for m in messages if m.name == "analysis"]
    said = [m for m in messages if m.name != "analysis"]
    content = [m.text.strip() for m in said if m.to is None]
    try:
        calls = [
            call
            for m in said
            if m.to is not None
            for call in tool_calls(
                {"name": m.to.removeprefix("functions."), "arguments": m.text.strip()}, source
            )
        ]
    except Unusable:
        return None
    return ("\n\n".join(reasoning), "\n\n".join(content), calls) if said else None


def _said_calls(text: str, source: Source) -> tuple[str, list[ToolCall]] | None:
    """Content and calls of a text that ends with calls; None where they cannot be read."""
    match = _CALLS.fullmatch(text)
    if match is None:
        return None
    try:
        calls = [
            c for said in _CALL.findall(match["calls"]) for c in tool_calls(_call(said), source)
        ]
    except Unusable:
        return None
    return match["content"].rstrip(), calls


def _call(text: str) -> Any:
    """A call within marks: JSON, or a literal of Python, as Hermes' data has some."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text.strip())
        return json.loads(json.dumps(value))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise Unusable("a tool call is no JSON") from None


def objects_in(text: str) -> list[Any]:
    """The JSON values that stand one after the other in a text; none where it is no such text.

    >>> objects_in('{"a": 1}, {"b": 2}'), objects_in("so")
    ([{'a': 1}, {'b': 2}], [])
    """
    values, at, decoder = [], 0, json.JSONDecoder()
    try:
        while (at := _after_space(text, at)) < len(text):
            value, at = decoder.raw_decode(text, at)
            values.append(value)
    except (ValueError, RecursionError):
        return []
    return values


_SPACE: Final = re.compile(r"[\s,]*")


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
