"""Take secrets out of a row: every occurrence in every field, with a mark of their kind left.

A value goes wherever it stands in the row, not only where it was recognised: a key that a
turn explains is repeated in the next one without the words that gave it away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from schemas.turns import parsed

_JSON: Final = frozenset({"arguments", "tools", "extra"})
"""Fields that hold JSON text."""

_SHORT: Final = 8
"""Values of fewer characters are replaced as whole words alone: `root` is part of others."""


def redacted(value: Any, marks: Mapping[str, str], field: str = "") -> Any:
    r"""A value of a row without the secrets.

    Args:
        value: A text, or lists and mappings of texts; others stay as they are.
        marks: What is left in the place of each secret.
        field: The name of the field that holds it: some hold JSON text, whose strings are
            redacted as what they mean.

    Example:
        >>> call = {"arguments": '{"token": "a\\nb", "user": "ada"}'}
        >>> clean = redacted({"content": "It is a\nb.", "tool_calls": [call]}, {"a\nb": "[key]"})
        >>> clean["content"], clean["tool_calls"][0]["arguments"]
        ('It is [key].', '{"token": "[key]", "user": "ada"}')
    """
    if isinstance(value, str):
        return _json_text(value, marks) if field in _JSON else _text(value, marks)
    if isinstance(value, list):
        return [redacted(member, marks, field) for member in value]
    if isinstance(value, Mapping):
        return {name: redacted(member, marks, name) for name, member in value.items()}
    return value


def _text(text: str, marks: Mapping[str, str]) -> str:
    # The longest first: one may be a part of another.
    for secret in sorted(marks, key=lambda secret: (-len(secret), secret)):
        if secret not in text:
            continue
        if len(secret) < _SHORT:
            pattern = rf"(?<!\w){re.escape(secret)}(?!\w)"
            text = re.sub(pattern, lambda _: marks[secret], text)  # noqa: B023
        else:
            text = text.replace(secret, marks[secret])
    return text


def _json_text(text: str, marks: Mapping[str, str]) -> str:
    """JSON text with its strings redacted; it is written anew only where escapes hid one."""
    plain = _text(text, marks)
    decoded = parsed(plain, "")
    if isinstance(decoded, str):
        return plain
    clean = _members(decoded, marks)
    return plain if clean == decoded else json.dumps(clean, ensure_ascii=False)


def _members(value: Any, marks: Mapping[str, str]) -> Any:
    """A JSON value with all its strings redacted, those that are keys too."""
    if isinstance(value, str):
        return _text(value, marks)
    if isinstance(value, list):
        return [_members(member, marks) for member in value]
    if isinstance(value, dict):
        return {_text(name, marks): _members(member, marks) for name, member in value.items()}
    return value


def redacted_row(row: Mapping[str, Any], marks: Mapping[str, str]) -> dict[str, Any]:
    r"""A record without the secrets; where its input begins is found again.

    Args:
        row: `messages`, `tools`, `extra` and `input_start`; all else stays.
        marks: What is left in the place of each secret.

    Example:
        >>> turn = {"role": "user", "content": "Use key123456.\n\nWhere?"}
        >>> row = {"messages": [turn], "tools": None, "extra": None, "input_start": 16}
        >>> clean = redacted_row(row, {"key123456": "[key]"})
        >>> clean["messages"][0]["content"], clean["input_start"]
        ('Use [key].\n\nWhere?', 12)
    """
    clean = {name: redacted(row[name], marks, name) for name in ("messages", "tools", "extra")}
    start = row["input_start"]
    if start is not None:
        first = next(turn["content"] for turn in row["messages"] if turn["role"] == "user")
        whole = next(turn["content"] for turn in clean["messages"] if turn["role"] == "user")
        head = _text(first[:start], marks)
        # A secret that reaches over the border leaves no border.
        start = len(head) if head + _text(first[start:], marks) == whole else None
    return {**row, **clean, "input_start": start}
