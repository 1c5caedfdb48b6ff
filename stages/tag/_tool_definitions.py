"""The tools that a row defines, in the forms in which data sets write them, and their schemas.

A definition is OpenAI's `{"type": "function", "function": {"name", "parameters"}}`, the
function alone, Anthropic's `{"name", "input_schema"}` or MCP's `inputSchema`. Its parameters are
a JSON schema, or, as some data sets write them, a mapping from each parameter's name to its
type. Types may have the names that Python gives them (`dict`, `float`) or capitals (`STRING`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

_SCHEMAS: Final = ("parameters", "input_schema", "inputSchema")
_TYPES: Final = {
    "str": "string",
    "text": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "dict": "object",
    "hashtable": "object",
    "hashmap": "object",
    "list": "array",
    "tuple": "array",
    "arraylist": "array",
    "none": "null",
}
"""Names of types in programming languages, as the Berkeley Function-Calling Leaderboard and
data made like it have them."""

_MAX_REASON: Final = 300
"""Characters of the reason why arguments are invalid: a validator repeats what it was given."""


class ToolDefinitions(NamedTuple):
    """The tools of a row.

    Attributes:
        num_tools: How many are defined; None where the text cannot be read.
        schemas: The JSON schema of each tool's arguments, as text, by the tool's name; None for
            a tool that takes free text. Empty where a definition has no name.
    """

    num_tools: int | None
    schemas: Mapping[str, str | None]


@lru_cache(maxsize=1024)
def tool_definitions(tools: str | None) -> ToolDefinitions:
    """The tools that are defined.

    Args:
        tools: The column `tools` of a record: JSON text.

    >>> tool_definitions('[{"name": "add", "parameters": {"type": "object"}}]')
    ToolDefinitions(num_tools=1, schemas={'add': '{"type": "object"}'})
    >>> tool_definitions("a calculator")
    ToolDefinitions(num_tools=None, schemas={})
    """
    if not tools:
        return ToolDefinitions(0, {})
    try:
        value = json.loads(tools)
    except (ValueError, RecursionError):
        return ToolDefinitions(None, {})
    entries = value if isinstance(value, list) else [value]
    schemas: dict[str, str | None] = {}
    for entry in entries:
        function = _function(entry)
        if not isinstance(function.get("name"), str):
            return ToolDefinitions(len(entries) if isinstance(value, list) else None, {})
        schemas[function["name"]] = _schema_text(function)
    return ToolDefinitions(len(entries), schemas)


def _function(entry: Any) -> Mapping[str, Any]:
    """The part of a definition that has the name; what encloses it says of which kind it is."""
    if not isinstance(entry, dict):
        return {}
    kind = entry.get("type")
    for name in ("function", "custom"):
        if isinstance(entry.get(name), dict):
            return {**entry[name], "type": name}
    return {**entry, "type": kind}


def _schema_text(function: Mapping[str, Any]) -> str | None:
    if function["type"] == "custom":
        return None
    schema: Any = next((function[name] for name in _SCHEMAS if function.get(name) is not None), {})
    return json.dumps(_standard(_enclosed(schema)))


def _enclosed(schema: Any) -> Any:
    """The schema of an object; parameters that stand by themselves are its properties."""
    if not isinstance(schema, dict) or isinstance(schema.get("type"), str):
        return schema
    alone = schema and all(
        isinstance(member, dict) and isinstance(member.get("type"), str)
        for member in schema.values()
    )
    return {"type": "object", "properties": schema} if alone else schema


def _standard(schema: Any) -> Any:
    """A schema whose types have the names of JSON schema."""
    if isinstance(schema, list):
        return [_standard(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    standard = {key: value if key in _VALUES else _standard(value) for key, value in schema.items()}
    kind = standard.get("type")
    if isinstance(kind, str):
        if kind.lower() == "any":
            del standard["type"]
        else:
            standard["type"] = _TYPES.get(kind.lower(), kind.lower())
    return standard


_VALUES: Final = ("default", "enum", "const", "examples", "example")
"""Keywords of a schema that hold values, and no schema."""


def invalid_arguments(arguments: str | None, schema: str | None) -> str | None:
    """Why the arguments of a call are invalid; None where they are not.

    Args:
        arguments: JSON text; none or an empty one are no arguments.
        schema: The tool's JSON schema as text; None for a tool that takes free text. One that is
            no JSON schema constrains nothing beyond that the arguments are an object.

    >>> schema = '{"type": "object", "required": ["city"]}'
    >>> invalid_arguments('{"city": "Rome"}', schema), invalid_arguments("{}", schema)
    (None, "'city' is a required property")
    """
    if schema is None:
        return None
    try:
        value = json.loads(arguments or "{}", parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return f"the arguments are no JSON: {error}"[:_MAX_REASON]
    if not isinstance(value, dict):
        return "the arguments are no JSON object"
    return _violation(value, schema)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no value")


def _violation(value: Mapping[str, Any], schema: str) -> str | None:
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    validator = _validator(schema)
    if validator is None:
        return None
    try:
        error = best_match(validator.iter_errors(value))
    except (Unresolvable, RecursionError, re.error):
        return None  # a reference or a pattern of the schema leads nowhere
    if error is None:
        return None
    where = "".join(f"[{part!r}]" for part in error.absolute_path)
    return f"{error.message[:_MAX_REASON]}{where and f' at {where}'}"


@lru_cache(maxsize=4096)
def _validator(schema: str) -> Any:
    """The validator of a schema; None where it is no JSON schema.

    References to other documents are not followed: nothing is fetched.
    """
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    parsed = json.loads(schema)
    validator = validator_for(parsed, default=Draft202012Validator)
    try:
        validator.check_schema(parsed)
    except (SchemaError, RecursionError):
        return None
    return validator(parsed, registry=Registry())
