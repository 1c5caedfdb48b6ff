"""How chat models write what they were asked for: in markdown, with a preamble, in capitals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

Write = Callable[[str, Mapping[str, Any]], str]
"""From an answer and the request's body to what the model writes."""

_ITEM: Final = re.compile(r"^(\d+)\. (.*)$", re.MULTILINE)
_LABEL: Final = re.compile(r"^([A-Z][\w ]{1,20}): (?=\S)", re.MULTILINE)


def choices(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that a request may be answered with; none where it is free."""
    return tuple((body.get("structured_outputs") or {}).get("choice", ()))


def as_it_is(answer: str, body: Mapping[str, Any]) -> str:
    """The answer and nothing else."""
    return answer


def in_capitals(answer: str, body: Mapping[str, Any]) -> str:
    """Labels in capitals, whatever the case that was asked for."""
    is_label = answer.casefold() in {label.casefold() for label in choices(body)}
    return answer.upper() if is_label or answer.casefold() in ("yes", "no") else answer


def in_markdown(answer: str, body: Mapping[str, Any]) -> str:
    """Lists, labels, ratings and JSON as chat models write them, behind a preamble."""
    if "messages" not in body:
        return answer  # a continuation has the form of what it continues
    if choices(body):
        return f"**Answer:** {answer}"
    if answer.startswith(("{", "[{")) and json.loads(answer) is not None:
        return f"Sure! Here is the JSON:\n\n```json\n{answer}\n```"
    if _ITEM.search(answer):
        listed = _ITEM.sub(r"**\1.** \2\n", answer)
        return f"Sure! Here are the items:\n\n{listed}"
    if _LABEL.search(answer):
        return "Sure! Here it is:\n\n" + _LABEL.sub(r"**\1:** ", answer)
    return f"Sure! Here is what you asked for:\n\n{answer}"


def noise(answer: str, body: Mapping[str, Any]) -> str:
    """Nothing that any parser of a form may take for an answer."""
    return "}{ %% \x00 [[ ]( `` <|x|> \ufffd"
