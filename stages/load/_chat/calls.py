"""Tool calls and the definitions of tools, in the forms in which sources write them.

- OpenAI's `tool_calls`, whose `function` holds name and arguments, as objects or as JSON text,
  and the older `function_call`;
- ShareGPT's turns of a `function_call`, whose text is JSON of one call or of a list (Glaive's
  data quotes the arguments by apostrophes, which is no JSON and is read all the same);
- Hermes' marks in the text are in `_chat/marks.py`.

Arguments that are text stay as they are; objects become JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from schemas.records import ToolCall
from schemas.turns import json_text, tools_json
from stages.load._chat.source import Source, check_known, decide, is_nothing
from stages.load._chat.turns import Row, Unusable, is_missing, json_type

_OF_CALL: Final = frozenset({"id", "type", "index", "function", "name", "arguments", "parameters"})
_TYPES: Final = (None, "", "function", "tool_call", "function_call")
_QUOTED: Final = re.compile(
    r"""\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"arguments"\s*:\s*'(.*)'\s*\}\s*""", re.DOTALL
)


def tool_calls(value: Any, source: Source) -> list[ToolCall]:
    """The calls of a value: a call, a list of calls, or JSON text of them.

    Args:
        value: What the source has.
        source: Which fields may stay aside.

    Raises:
        Unusable: It holds something else.

    >>> from stages.load._chat.source import PLAIN
    >>> tool_calls('{"name": "add", "arguments": {"a": 2}}', PLAIN)
    [{'id': None, 'name': 'add', 'arguments': '{"a": 2}'}]
    """
    if isinstance(value, str):
        if match := _QUOTED.fullmatch(value):
            arguments = checked_arguments(match[2].replace("\\'", "'"))
            return [{"id": None, "name": match[1], "arguments": arguments}]
        value = _json(value)
    values = value if isinstance(value, list) else [value]
    return [_tool_call(call, source) for call in values]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"a tool call is no JSON ({error})") from None


def _tool_call(call: Any, source: Source) -> ToolCall:
    if isinstance(call, str):  # a list in a table may hold JSON texts
        call = _json(call)
    if not isinstance(call, dict):
        raise Unusable(f"a tool call is {json_type(call)}, not an object")
    if call.get("type") not in _TYPES:
        raise Unusable(f"a tool call has the unknown type {call['type']!r:.80}")
    function = call["function"] if isinstance(call.get("function"), dict) else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise Unusable("a tool call has no name")
    for fields in (call,) if function is call else (call, function):
        check_known(fields, source, _OF_CALL)
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = checked_arguments(arguments)
    number = call.get("id")
    return {
        "id": None if is_nothing(number) else str(number),
        "name": name,
        "arguments": None if is_missing(arguments) else json_text(arguments),
    }


def checked_arguments(text: str) -> str:
    r"""Arguments as they are given, if what they say is text.

    By an escape JSON says a lone surrogate, which neither UTF-8 nor a tokenizer takes.

    Args:
        text: JSON, or what should be.

    Raises:
        Unusable: They hold one.

    >>> checked_arguments('{"query": "caf\\u00e9"}')
    '{"query": "caf\\u00e9"}'
    """
    try:
        if "\\u" in text:
            json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unusable("the arguments of a tool call hold a lone surrogate, no text") from None
    except (ValueError, RecursionError):
        pass  # no JSON: the text is meant as it stands
    return text


def take_tools(row: Row, source: Source) -> str | None:
    """The definitions of the tools of a row, taken out of it, as JSON text; None without any.

    Args:
        row: The row; they stand in `tools`, or, by OpenAI's first way, in `functions`.
        source: Whether such a field is something else.

    Raises:
        Unusable: `tools` holds something else.

    >>> from stages.load._chat.source import PLAIN
    >>> take_tools({"tools": [{"name": "add"}]}, PLAIN)
    '[{"name": "add"}]'
    """
    tools = None
    for field in ("tools", "functions"):
        if field not in row or source.decided(field):
            continue
        value = row[field]
        defined = _defined(value) if isinstance(value, str) else _defined_by(value)
        if defined is None and field == "functions":
            continue  # many things are called so
        if defined is None:
            raise Unusable(
                f"{field!r} holds no definitions of tools (JSON objects): {decide(field)}"
            )
        if defined and tools:
            continue
        del row[field]
        tools = tools or defined or None
    return tools


@lru_cache(1024)  # rows share their tools
def _defined(text: str) -> str | None:
    return _defined_by(text)


def _defined_by(value: Any) -> str | None:
    """The definitions as one JSON text; empty without any, None where it is something else."""
    values = definitions(value)
    return None if values is None else tools_json(values) or ""


def definitions(value: Any) -> list[Any] | None:
    """The definitions that a value holds, as objects; none where it is empty, None where it is
    something else.

    Args:
        value: A list, an object, or JSON text of one; members of a list may be JSON texts.

    >>> definitions('[{"name": "add"}]'), definitions(None), definitions("hammer")
    ([{'name': 'add'}], [], None)
    """
    if is_nothing(value) or (isinstance(value, str) and value.strip() in ("", "null", "None")):
        return []
    try:
        value = json.loads(value) if isinstance(value, str) else value
        values = value if isinstance(value, list) else [value]
        values = [json.loads(v) if isinstance(v, str) else v for v in values]
    except (ValueError, RecursionError):
        return None
    return values if all(map(_is_definition, values)) else None


def _is_definition(value: Any) -> bool:
    """Whether it is an object: what it says is for `tag.tools` to judge."""
    return isinstance(value, Mapping)
