"""The text of a turn: what a stage sees of it, and what a chat template gets.

A turn is more than its `content`: beside it stand reasoning, tool calls and the names that
join a call to its result. Every stage sees a turn through `turn_text` or, over columns,
`turn_texts`, with one of three views:

- `content`: what was said.
- `calls`: what was said and what was called; two turns that call differently differ.
- `all`: the reasoning too; all that a trainer may see.

Calls are shown as words: the name in a line, then a line for each argument, its text decoded,
so that a sentence within an argument is the same sentence as anywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import polars as pl
import pyarrow as pa

View = Literal["content", "calls", "all"]
"""What of a turn is seen: its content; the calls too; or its reasoning as well."""

_VIEWED: Final = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


def turn_text(turn: Mapping[str, Any], view: View = "content") -> str:
    r"""The text of a turn; empty where it has none.

    Args:
        turn: A message of a record.
        view: What of it is seen.

    >>> call = {"id": None, "name": "search", "arguments": '{"query": "Caf\\u00e9"}'}
    >>> turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    >>> turn_text(turn), turn_text(turn, "calls")
    ('', 'search\nquery: Café')
    """
    content = turn.get("content") or ""
    if view == "content":
        return content
    parts = [turn.get("reasoning") or "" if view == "all" else "", content]
    parts += [call_text(call) for call in turn.get("tool_calls") or ()]
    return "\n".join(filter(None, parts))


def call_text(call: Mapping[str, Any]) -> str:
    """A tool call as words: its name, then its arguments; as given where they are no JSON.

    Args:
        call: `name` and `arguments`, which are JSON text.
    """
    return "\n".join(filter(None, [call.get("name") or "", json_words(call.get("arguments"))]))


def json_words(text: str | None) -> str:
    r"""The texts that JSON holds, a line each behind its key; the text itself if it is no JSON.

    Args:
        text: JSON text: a call's arguments, or the definitions of tools.

    >>> json_words('{"days": 3, "places": ["Rome", "Paris\\nTexas"]}')
    'days: 3\nplaces: Rome\nplaces: Paris\nTexas'
    """
    if not text:
        return ""
    try:
        words = "\n".join(_leaves(json.loads(text), ""))
    except (ValueError, RecursionError):
        return text
    return replace_surrogates(words) if "\\u" in text else words


def replace_surrogates(text: str) -> str:
    r"""Replace lone surrogates, which JSON allows and UTF-8 does not, by U+FFFD.

    Args:
        text: A text that JSON held.

    >>> replace_surrogates("a\ud800")
    'a\ufffd'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _leaves(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _leaves(member, str(name))
    elif isinstance(value, list):
        for member in value:
            yield from _leaves(member, key)
    else:
        shown = value if isinstance(value, str) else json.dumps(value)
        yield f"{key}: {shown}" if key else shown


def turn_texts(messages: pl.Series, view: View = "content") -> pl.Series:
    """The turns of each conversation with their texts: list[struct[role, content]].

    The same as `turn_text` of each turn, which is called for those alone that have more than
    their content.

    Args:
        messages: list[struct] with at least role and content; null for a row without.
        view: What of a turn is seen.
    """
    turns = messages.explode(empty_as_null=False, keep_nulls=False).struct.unnest()
    texts = turns["content"].fill_null("")
    if fields := _present_fields(turns, _FIELDS[view]):
        richer = turns.select(pl.any_horizontal(pl.col(fields).is_not_null())).to_series()
        positions = richer.arg_true()
        changed = [turn_text(turn, view) for turn in turns[positions].iter_rows(named=True)]
        texts = texts.scatter(positions, pl.Series(changed, dtype=pl.String))
    viewed = lists_of(pl.DataFrame([turns["role"], texts]), messages.list.len())
    return viewed.alias(messages.name)


_FIELDS: Final[dict[View, tuple[str, ...]]] = {
    "content": (),
    "calls": ("tool_calls",),
    "all": ("reasoning", "tool_calls"),
}
"""The fields that a view shows beside the content."""


def _present_fields(turns: pl.DataFrame, names: Iterable[str]) -> list[str]:
    return [n for n in names if n in turns.columns and turns[n].null_count() < len(turns)]


def have_more(messages: pl.Series, names: Iterable[str] | None = None) -> pl.Series:
    """Whether a turn of each conversation has more than role and content.

    Args:
        messages: list[struct], the turns.
        names: The fields that count; None for all.

    >>> messages = [{"role": "user", "content": "Hi", "name": name} for name in ("Ada", None)]
    >>> have_more(pl.Series([messages[:1], messages[1:]])).to_list()
    [True, False]
    """
    turns = messages.explode(empty_as_null=False, keep_nulls=False).struct.unnest()
    names = (n for n in turns.columns if n not in ("role", "content")) if names is None else names
    fields = _present_fields(turns, names)
    if not fields:
        return pl.repeat(False, len(messages), eager=True)
    of_turn = turns.select(pl.any_horizontal(pl.col(fields).is_not_null()).alias("more"))
    lists = lists_of(of_turn, messages.list.len())
    return lists.list.eval(pl.element().struct.field("more")).list.any().fill_null(False)


def beside_content(view: View, role: str | None = None) -> pl.Expr:
    """What the turns have beside their content, as canonical JSON; empty for plain ones.

    Two conversations of equal contents are the same in a view if this is equal too. The ids
    of calls do not count.

    Args:
        view: What is seen: nothing (`content`), calls, or all.
        role: Of the last turn of that role only; None for all turns.

    >>> call = {"id": "1", "name": "add", "arguments": "{}"}
    >>> messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    >>> pl.DataFrame({"messages": [messages]}).select(beside_content("calls")).item()
    '[[0,{"tool_calls":[["add","{}"]]}]]'
    """

    def texts(messages: pl.Series) -> pl.Series:
        positions = have_more(messages, _FIELDS[view]).arg_true()
        known = {field.name for field in messages.dtype.inner.fields}  # type: ignore[attr-defined]
        field = pl.element().struct.field
        seen = pl.struct(field(name) for name in ("role", *_FIELDS[view]) if name in known)
        richer = messages.gather(positions).list.eval(seen)  # contents would be copied for nothing
        more = [_beside(turns, view, role) for turns in richer.to_list()]
        plain = pl.repeat("", len(messages), dtype=pl.String, eager=True)
        return plain.scatter(positions, pl.Series(more, dtype=pl.String)).alias(messages.name)

    column = pl.col("messages").map_batches(texts, return_dtype=pl.String, is_elementwise=True)
    return column.alias("beside_content")


def _beside(turns: Sequence[Mapping[str, Any]], view: View, role: str | None) -> str:
    numbers = [i for i, turn in enumerate(turns) if role in (None, turn["role"])]
    more = []
    for i in numbers if role is None else numbers[-1:]:
        values = {name: turns[i].get(name) for name in _FIELDS[view] if turns[i].get(name)}
        if "tool_calls" in values:
            calls = [[call["name"], call["arguments"]] for call in values["tool_calls"] or ()]
            values["tool_calls"] = calls
        if values:
            more.append([i if role is None else 0, values])
    return json.dumps(more, ensure_ascii=False, separators=(",", ":")) if more else ""


def lists_of(values: pl.DataFrame, lengths: pl.Series) -> pl.Series:
    """Rows as lists of structs, one list for each length.

    Args:
        values: All members of all lists, in order.
        lengths: The number of members of each list; null for a list that is null.

    >>> lists_of(pl.DataFrame({"x": [1, 2, 3]}), pl.Series([2, None, 1])).to_list()
    [[{'x': 1}, {'x': 2}], None, [{'x': 3}]]
    """
    ends = pl.concat([pl.Series([0]), lengths.fill_null(0).cast(pl.Int64).cum_sum()])
    # Not by pyarrow's `array`, which imports pandas first.
    arrow = pa.LargeListArray.from_arrays(
        ends.to_arrow(),
        values.to_struct().to_arrow(),
        mask=lengths.is_null().to_arrow(),
    )
    return pl.Series(pl.from_arrow(arrow))


def viewed(view: View = "content") -> pl.Expr:
    """`turn_texts` of the column `messages`."""

    def texts(messages: pl.Series) -> pl.Series:
        return turn_texts(messages, view)

    # Each row's result depends on that row alone, so that filters may pass.
    return pl.col("messages").map_batches(texts, return_dtype=_VIEWED, is_elementwise=True)


def template_messages(
    messages: Sequence[Mapping[str, Any]], template: str = ""
) -> list[dict[str, Any]]:
    """The messages as chat templates and trainers take them.

    Missing fields are left out, arguments are objects where they parse, and reasoning has the
    name that the template reads.

    Args:
        messages: The messages of a record.
        template: The text of the template that will render them.

    Example:
        >>> call = {"id": "1", "name": "add", "arguments": '{"a": 2}'}
        >>> turn = {"role": "assistant", "content": None, "tool_calls": [call], "train": None}
        >>> template_messages([turn])[0]["tool_calls"][0]["function"]["arguments"]
        {'a': 2}
    """
    reasoning = next((name for name in REASONING_FIELDS if name in template), REASONING_FIELDS[0])
    return [_template_message(message, reasoning) for message in messages]


REASONING_FIELDS: Final = ("reasoning_content", "thinking", "reasoning")
"""What chat templates call an assistant's reasoning, the most usual first."""


def _template_message(message: Mapping[str, Any], reasoning: str) -> dict[str, Any]:
    # Templates test `content is none` or concatenate it: an empty text serves both.
    turn: dict[str, Any] = {"role": message["role"], "content": message.get("content") or ""}
    if message.get("reasoning") is not None:
        turn[reasoning] = message["reasoning"]
    if message.get("tool_calls"):
        turn["tool_calls"] = [_template_call(call) for call in message["tool_calls"]]
    return turn | {k: message[k] for k in ("tool_call_id", "name") if message.get(k) is not None}


def _template_call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = parsed(call.get("arguments"), {})
    # An empty text is no arguments, also as JSON (`""`): in a shard the two are one.
    function = {"name": call["name"], "arguments": {} if arguments == "" else arguments}
    known = {} if call.get("id") is None else {"id": call["id"]}
    return {**known, "type": "function", "function": function}


def record_message(turn: Mapping[str, Any]) -> dict[str, Any]:
    """The message of a record from a turn as templates and trainers take it.

    Args:
        turn: A turn with OpenAI's names; arguments are objects or JSON text, and reasoning
            stands under any of `REASONING_FIELDS`.

    Example:
        >>> call = {"id": "1", "function": {"name": "add", "arguments": {"a": 2}}}
        >>> record_message({"role": "assistant", "tool_calls": [call]})["tool_calls"]
        [{'id': '1', 'name': 'add', 'arguments': '{"a": 2}'}]
    """
    calls = [_record_call(call) for call in turn.get("tool_calls") or ()]
    reasoning = (turn.get(name) for name in REASONING_FIELDS)
    return {
        "role": turn["role"],
        "content": turn.get("content"),
        "reasoning": next((text for text in reasoning if text is not None), None),
        "tool_calls": calls or None,
        **{name: turn.get(name) for name in ("tool_call_id", "name", "train")},
    }


def _record_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or call
    return {
        "id": call.get("id"),
        "name": function["name"],
        "arguments": json_text(function.get("arguments")),
    }


def json_text(value: Any) -> str | None:
    r"""A JSON value as text; text as it is, and None for None.

    A quoted text that is no JSON itself was quoted when it was written, and is unquoted.

    >>> json_text('"a = 1"'), json_text('"{\\"a\\": 1}"')
    ('a = 1', '"{\\"a\\": 1}"')
    """
    if value is None or (isinstance(value, str) and not value.startswith('"')):
        return value
    if isinstance(value, str):
        text = parsed(value, "")
        return text if isinstance(text, str) and parsed(text, "") == text else value
    return json.dumps(value, ensure_ascii=False)


def tools_json(tools: Any) -> str | None:
    """The definitions of tools as one JSON text, as records have them; None without any.

    Args:
        tools: A list of objects or of JSON texts, an object, or JSON text.

    >>> tools_json(['{"name": "add"}']), tools_json('[{"name":"add"}]'), tools_json([])
    ('[{"name": "add"}]', '[{"name": "add"}]', None)
    >>> tools_json(["adds"])
    '["adds"]'
    """
    value = parsed(tools, None) if isinstance(tools, str) else tools
    if isinstance(value, str) or not value:
        return value or None
    parts = value if isinstance(value, list) else [value]
    # A part that is no JSON stays a text, quoted, so that the whole is JSON.
    definitions = [parsed(part, "") if isinstance(part, str) else part for part in parts]
    return json.dumps(definitions, ensure_ascii=False)


def template_tools(tools: str | None) -> list[Any] | None:
    """The definitions of the tools as chat templates take them: objects; None without any.

    Args:
        tools: The column `tools` of a record: JSON text.
    """
    value = parsed(tools, None)
    if value is None or isinstance(value, list):
        return value or None
    return [value]


def parsed(text: str | None, otherwise: Any) -> Any:
    """What JSON text says; the text itself where it is no JSON.

    Args:
        text: JSON text, or None.
        otherwise: What None or an empty text stands for.
    """
    if not text:
        return otherwise
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
