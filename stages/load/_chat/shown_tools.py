"""Definitions of tools that a system prompt shows in `<tools>`, as Hermes' and Qwen's prompts do.

A chat template renders the definitions of a row by itself, with its own words about how to call.
So what a prompt says of them in known words goes from the text once they are the row's
`tools`, and what else it says stays.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from schemas.turns import parsed, tools_json
from stages.load._chat.calls import definitions
from stages.load._chat.marks import objects_in
from stages.load._chat.turns import Row, Turn

_OPENING: Final = re.compile(r"<tools>\s*(?=[\[{])")
_CLOSING: Final = "</tools>"
_LEAD: Final = re.compile(
    r"(?:# Tools"
    r"|You are a function calling AI model\."
    r"|You are provided with function signatures within <tools>\s?</tools> XML tags[.:]"
    r"|You may call one or more functions to assist with the user query\."
    r"|If available tools are not relevant in assisting with (?:the )?user query, "
    r"just respond in natural conversational language\."
    r"|Don't make assumptions about what values to plug into functions\."
    r"|After calling (?:&|and) executing the functions, you will be provided with function "
    r"results within <tool_response>\s?</tool_response> XML tags\."
    r"|Here are the available tools:)\Z"
)
"""The sentences with which such prompts lead up to the definitions."""

_LONGEST: Final = 200
"""None of them has more characters: what stands before is not searched."""

_BEHIND: Final = re.compile(
    r"\s*(?:Use the following pydantic model|(?:For each|Each) function call)[^<]*"
    r"<tool_call>\s*</tool_call> XML tags(?:[^<]{0,80}:\s*<tool_call>.*?</tool_call>|[.:]?)",
    re.DOTALL,
)
"""How they say that calls are written."""


def take_shown_tools(
    turns: list[Turn], tools: str | None, extra: Row
) -> tuple[list[Turn], str | None]:
    r"""The turns and the tools of a conversation, of whose system prompts one may show tools.

    The prompt as it was stays in `extra` as `system`. One that shows other tools than the row
    has stays as it is.

    Args:
        turns: The turns.
        tools: The definitions that the row has, as JSON text.
        extra: The row's other fields, which are changed.

    >>> shown = ("system", 'Be kind.\n\n# Tools\n\n<tools>\n{"name": "a"}\n</tools>')
    >>> take_shown_tools([shown, ("user", "Hi")], None, {})
    ([('system', 'Be kind.'), ('user', 'Hi')], '[{"name": "a"}]')
    """
    for at, turn in enumerate(turns):
        text = turn[1]
        opening = _OPENING.search(text) if turn[0] == "system" and text else None
        end = text.find(_CLOSING, opening.end()) if text and opening else -1
        if not (text and opening and end >= 0):
            continue
        shown = tools_json(definitions(_values(text[opening.end() : end])))
        if not shown or (tools and not _are_equal(tools, shown)):
            continue
        extra.setdefault("system", text)
        rest = _rest(text[: opening.start()], text[end + len(_CLOSING) :])
        changed = [("system", rest, *turn[2:])] if rest else []
        return [*turns[:at], *changed, *turns[at + 1 :]], tools or shown
    return turns, tools


def _values(text: str) -> list[Any]:
    """A list of definitions, or definitions one after the other."""
    values = objects_in(text)
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def _rest(before: str, behind: str) -> str:
    """What stands on both sides of the definitions, without what is said of them."""
    end = len(before.rstrip())
    while lead := _LEAD.search(before, max(0, end - _LONGEST), end):
        end = lead.start()
        while end and before[end - 1].isspace():
            end -= 1
    if how := _BEHIND.match(behind):
        behind = behind[how.end() :]
    return "\n\n".join(part for part in (before[:end].lstrip(), behind.strip()) if part)


def _are_equal(tools: str, shown: str) -> bool:
    """Whether two lists define the same functions, in OpenAI's wrapping or bare."""
    return _functions(tools) == _functions(shown)


def _functions(tools: str) -> list[str]:
    values = parsed(tools, [])
    wrapped = values if isinstance(values, list) else [values]
    bare = (tool.get("function", tool) if isinstance(tool, dict) else tool for tool in wrapped)
    return sorted(json.dumps(function, sort_keys=True) for function in bare)
