"""Turns that are objects: OpenAI's messages of every age, ShareGPT's, and what is like them.

The role stands in `role` or `from`, the text in `content` or `value`. What a record has a place
for becomes part of the turn; other keys stay in the row where they are harmless, or make it fail.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

from schemas.turns import REASONING_FIELDS, json_text
from stages.load._chat.calls import tool_calls
from stages.load._chat.source import HARMLESS, Source, check_known, decide, is_nothing
from stages.load._chat.turns import (
    Further,
    Row,
    Turn,
    Unusable,
    is_missing,
    json_type,
    list_of,
)

CALLING: Final = frozenset({"function_call", "tool_call"})
"""Roles whose text is a call."""

_LOSS: Final = ("train", "training", "loss", "weight")
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})
_TEXT: Final = {"type": "text"}
_NOTHING: Final[Row] = {}


def turns_have(value: Any, key: str) -> bool:
    """Whether a value is a list of turns with that key, to judge by the first.

    Args:
        value: Anything.
        key: The key.
    """
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and key in value[0]
    )


def turns_of(row: Row, field: str, source: Source) -> list[Turn]:
    """The turns of a list of objects, whose other keys stay in the row, one object a turn.

    Args:
        row: The row.
        field: Its field that holds the list.
        source: The names of roles, and which keys may stay aside.

    Raises:
        Unusable: One of them is no turn.
    """
    turns: list[Turn] = []
    others: list[Row] = []
    for number, turn in enumerate(list_of(row, field), 1):
        if not isinstance(turn, dict):
            raise Unusable(f"turn {number} is {json_type(turn)}, not an object")
        name = turn.get("role" if "role" in turn else "from")
        content = turn.get("content" if "content" in turn else "value")
        role = source.roles.get(name) if type(name) is str else None
        if type(content) is str and len(turn) == 2 and role and name not in CALLING:
            turns.append((role, content))
            others.append(_NOTHING)
            continue
        try:
            some, rest = _spread(turn, source)
        except Unusable as reason:
            raise Unusable(f"turn {number}: {reason}") from None
        turns += some
        others.append(rest)
    if any(others):
        row[field] = others
    return turns


def _spread(turn: Row, source: Source) -> tuple[list[Turn], Row]:
    """A turn, or several: in Anthropic's messages results of tools are parts of a user's turn."""
    parts = turn.get("content")
    if not isinstance(parts, list) or not any(map(_is_result, parts)):
        one, rest = _turn(turn, source)
        return [one], rest
    beside = {k: v for k, v in turn.items() if k not in ("role", "from", "content", "name")}
    turns: list[Turn] = []
    rest = {} if is_missing(turn.get("name")) else {"name": turn["name"]}
    for are_results, group in groupby(parts, _is_result):
        said: list[Row] = [{**turn, "content": list(group)}]
        if are_results:
            said = [{**beside, **_tool_turn(part)} for part in said[0]["content"]]
        for each in said:
            one, others = _turn(each, source)
            turns.append(one)
            rest |= others
    return turns, {**rest, "content": parts}


def _is_result(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "tool_result"


def _tool_turn(part: Row) -> Row:
    """A result of a tool as a turn; what else the part says stays with the parts."""
    return {
        "role": "tool",
        "content": part.get("content"),
        "tool_call_id": part.get("tool_use_id"),
    }


def _turn(turn: Row, source: Source) -> tuple[Turn, Row]:
    """A turn that is more than two texts, and its other keys."""
    rest = {k: v for k, v in turn.items() if not is_missing(v)}
    name = rest.pop("role" if "role" in turn else "from", None)
    key = "content" if "content" in turn else "value"
    role = source.roles.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise Unusable(
            f"unknown role {name!r:.80} (fields: {{roles: {{NAME: user}}}} says what it is)"
        )
    further: Further = {}
    content = _content(rest, key, role, further, source)
    if str(name).strip().lower() in CALLING:
        content = _call_in_text(content, further, source)
    for field in ("tool_calls", "function_call"):
        if (value := rest.pop(field, None)) and role == "assistant":
            further["tool_calls"] = [*further.get("tool_calls", []), *tool_calls(value, source)]
        elif not is_nothing(value):
            raise Unusable(f"a turn of the role {role} has {field!r}")
    _take_fields(rest, role, further)
    check_known({k: v for k, v in rest.items() if k != key}, source, HARMLESS)
    if role == "assistant" and (reasoning := _reasoning(turn)) and source.reasoning != "drop":
        further["reasoning"] = reasoning
    if source.reasoning == "drop":
        further.pop("reasoning", None)
    if further.get("tool_calls"):
        return (role, content or None, further), rest
    return ((role, content, further) if further else (role, content)), rest


def _content(rest: Row, key: str, role: str, further: Further, source: Source) -> str:
    """The content as a text. Parts stay among the other keys; a missing one is empty."""
    value = rest.get(key)
    if isinstance(value, list) and any(isinstance(part, dict) and "type" in part for part in value):
        return _joined(value, further, source)
    if role == "tool" and isinstance(value, dict | list):  # what it returned is no text
        return json_text(rest.pop(key)) or ""
    if isinstance(value, list):
        return _joined(value, further, source)
    if not isinstance(value, str) and value is not None:
        raise Unusable(f"{key!r} is {json_type(value)}, not a text")
    rest.pop(key, None)
    return value or ""


def _joined(parts: list[Any], further: Further, source: Source) -> str:
    """Content in parts as one text, a line each (as vLLM renders them)."""
    texts: list[str] = []
    thoughts: list[str] = []
    for at, part in enumerate(parts, 1):
        if isinstance(part, str) or (isinstance(part, dict) and part.keys() == {"text"}):
            part = {"type": "text", "text": part} if isinstance(part, str) else {**part, **_TEXT}
        kind = part.get("type") if isinstance(part, dict) else json_type(part)
        value = part.get("text") if kind in _TEXT_PARTS else None
        if kind in ("thinking", "reasoning"):
            value = next((v for k in ("text", *REASONING_FIELDS) if (v := part.get(k))), None)
        if kind == "tool_use":
            call = {"id": part.get("id"), "name": part.get("name"), "arguments": part.get("input")}
            further["tool_calls"] = [*further.get("tool_calls", []), *tool_calls(call, source)]
        elif isinstance(value, str):
            (texts if kind in _TEXT_PARTS else thoughts).append(value)
        elif not isinstance(part, dict) or not isinstance(kind, str):
            raise Unusable(f"part {at} of its content is {json_type(part)} without a type")
        elif not source.decided(kind):
            raise Unusable(f"part {at} of its content is no text ({kind:.80}): {decide(kind[:80])}")
    if thoughts:
        further["reasoning"] = "\n".join(thoughts)
    return "\n".join(texts)


def _call_in_text(text: str, further: Further, source: Source) -> str:
    """The text before a call, which may be reasoning; the call is put into the fields."""
    before, mark, call = text.rpartition("</think>")
    further["tool_calls"] = tool_calls(call.strip(), source)
    return before + mark


def _take_fields(rest: Row, role: str, further: Further) -> None:
    """The fields of a record's turn, taken out of the other keys."""
    for name in REASONING_FIELDS:
        if role == "assistant" and isinstance(rest.get(name), str):
            del rest[name]
    if isinstance(rest.get("tool_call_id"), str | int):
        further["tool_call_id"] = str(rest.pop("tool_call_id"))
    if isinstance(rest.get("name"), str):
        name = rest.pop("name")
        if name:
            further["name"] = name
    for name in _LOSS:
        if name in rest and rest[name] in (0, 1):
            further["train"] = bool(rest.pop(name)) and further.get("train", True)
        elif name in rest:
            raise Unusable(f"{name!r} must be true or false, 0 or 1, got {rest[name]!r:.80}")


def _reasoning(turn: Row) -> str | None:
    """What an assistant thought, by any of its names."""
    texts = [text for name in REASONING_FIELDS if isinstance(text := turn.get(name), str) and text]
    if len(set(texts)) > 1:
        raise Unusable(f"it has two different reasonings ({', '.join(REASONING_FIELDS)})")
    return texts[0] if texts else None
