"""Turns as TRL and chat templates take them from a shard.

Calls have OpenAI's nesting, reasoning the name that most chat templates read, and what no turn
of a column has is left out. Arguments and the definitions of tools are of Arrow's JSON type,
which `datasets` reads as objects.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store.parquet import to_arrow
from schemas.turns import REASONING_FIELDS, lists_of, template_tools

Reasoning = Literal["field", "inline", "last", "drop"]
"""Where an assistant's reasoning is written: in a field of its turn, in `<think>` marks before
the content, in the field of the last assistant turn alone, or nowhere."""

TURN_FIELDS: Final[tuple[str, ...]] = (
    "role",
    "content",
    "reasoning",
    "tool_calls",
    "tool_call_id",
    "name",
    "train",
)
"""The fields of a turn in the order of a shard; the first two are always there."""


class PlacedReasoning(NamedTuple):
    """Messages with their reasoning where it is wanted.

    Attributes:
        messages: list[struct], as in records.
        lost: The characters of reasoning that each row lost.
    """

    messages: pl.Series
    lost: pl.Series


def place_reasoning(messages: pl.Series, reasoning: Reasoning) -> PlacedReasoning:
    r"""The messages with their reasoning where it is wanted.

    Args:
        messages: list[struct], the messages of records.
        reasoning: Where it is written.

    >>> turns = pl.Series([[{"role": "assistant", "content": "So.", "reasoning": "Why?"}]])
    >>> place_reasoning(turns, "inline").messages.to_list()
    [[{'role': 'assistant', 'content': '<think>\nWhy?\n</think>\n\nSo.', 'reasoning': None}]]
    >>> place_reasoning(turns, "drop").lost.to_list()
    [4]
    """
    turns, lengths = _exploded(messages)
    lost = np.zeros(len(messages), dtype=np.int64)
    if reasoning == "field" or "reasoning" not in _present(turns):
        return PlacedReasoning(messages, pl.Series(lost))
    characters = turns["reasoning"].str.len_chars().fill_null(0).cast(pl.Int64).to_numpy()
    row = np.repeat(np.arange(len(messages)), lengths.fill_null(0).to_numpy())
    if reasoning == "inline":
        marked = (
            "<think>\n" + turns["reasoning"] + "\n</think>\n\n" + turns["content"].fill_null("")
        )
        content = marked.zip_with(pl.Series(characters > 0), turns["content"])
        turns = turns.with_columns(content.alias("content"), reasoning=pl.lit(None, pl.String))
    else:
        is_kept = np.zeros(len(turns), dtype=np.bool_)
        if reasoning == "last":
            is_kept[_last_answers(turns, row, len(messages))] = True
        kept = pl.when(pl.Series(is_kept)).then("reasoning")
        turns = turns.with_columns(kept.alias("reasoning"))
        np.add.at(lost, row[~is_kept], characters[~is_kept])
    return PlacedReasoning(lists_of(turns, lengths).alias(messages.name), pl.Series(lost))


def _last_answers(turns: pl.DataFrame, row: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """The position of the last assistant turn of each row that has one."""
    positions = (turns["role"] == "assistant").arg_true().to_numpy()
    last = np.full(num_rows, -1, dtype=np.int64)
    np.maximum.at(last, row[positions], positions)
    return last[last >= 0]


def _exploded(messages: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """All turns of all rows, a column for each field, and the number of each row's turns."""
    turns = messages.explode(empty_as_null=False, keep_nulls=False).struct.unnest()
    if "tool_calls" in turns.columns:  # an empty list is none
        has_calls = pl.col("tool_calls").list.len() > 0
        turns = turns.with_columns(pl.when(has_calls).then("tool_calls").alias("tool_calls"))
    return turns, messages.list.len()


class PresentFields(NamedTuple):
    """What any turn of some rows has beside role and content.

    Attributes:
        turns: The fields of turns.
        call_ids: Whether any call has an id.
    """

    turns: frozenset[str] = frozenset()
    call_ids: bool = False

    def united(self, other: PresentFields) -> PresentFields:
        """What any turn of either rows has."""
        return PresentFields(self.turns | other.turns, self.call_ids or other.call_ids)


def present_in(messages: pl.Series) -> PresentFields:
    """What any turn of any row has.

    Args:
        messages: list[struct], the messages of records.

    >>> present_in(pl.Series([[{"role": "user", "content": "Why?", "name": None}]]))
    PresentFields(turns=frozenset(), call_ids=False)
    """
    turns, _ = _exploded(messages)
    present = frozenset(_present(turns)[2:])
    if "tool_calls" not in present:
        return PresentFields(present)
    ids = turns["tool_calls"].explode(empty_as_null=False, keep_nulls=False).struct.field("id")
    return PresentFields(present, ids.null_count() < len(ids))


def _present(turns: pl.DataFrame) -> list[str]:
    """The fields that any turn has, and role and content."""
    fields = [name for name in TURN_FIELDS if name in turns.columns]
    return fields[:2] + [n for n in fields[2:] if turns[n].null_count() < len(turns)]


def present_fields(messages: pl.Series) -> set[str]:
    """The fields that any turn of any row has; ids of calls count as `tool_call_id`.

    Args:
        messages: list[struct], the messages of records.
    """
    present = present_in(messages)
    return {"role", "content", *present.turns} | ({"tool_call_id"} if present.call_ids else set())


def shard_turns(messages: pl.Series, present: PresentFields | None = None) -> pl.Series:
    """The turns of each row in the form of a shard, for `shard_table`.

    Args:
        messages: list[struct], the messages of records or of a side of pairs.
        present: What all rows have of which these are a part; None where these are all.

    >>> messages = [[{"role": "user", "content": "Why?", "name": None}]]
    >>> shard_turns(pl.Series(messages)).to_list()
    [[{'role': 'user', 'content': 'Why?'}]]
    """
    fields = present_in(messages) if present is None else present
    turns, lengths = _exploded(messages)
    values = turns.select([*TURN_FIELDS[:2], *(n for n in TURN_FIELDS[2:] if n in fields.turns)])
    if "tool_calls" in values.columns:
        values = values.with_columns(_shard_calls(values["tool_calls"], fields.call_ids))
    values = values.rename({"reasoning": REASONING_FIELDS[0]}, strict=False)
    return lists_of(values, lengths).alias(messages.name)


def _shard_calls(calls: pl.Series, with_ids: bool) -> pl.Series:
    """Calls as OpenAI nests them; without ids where no call has one."""
    flat = calls.explode(empty_as_null=False, keep_nulls=False).struct.unnest()
    arguments = flat["arguments"].fill_null("{}").replace("", "{}")
    function = pl.struct("name", _readable(arguments))
    known = ["id"] if with_ids else []
    values = flat.select(*known, pl.lit("function").alias("type"), function.alias("function"))
    return lists_of(values, calls.list.len()).alias(calls.name)


def shard_tools(tools: pl.Series) -> pl.Series:
    """The definitions of each row's tools, each as JSON text: list[str]; null without any.

    Args:
        tools: JSON texts, as in records.

    >>> shard_tools(pl.Series("tools", ['[{"name": "add"}, {"name": "sub"}]', None])).to_list()
    [['{"name": "add"}', '{"name": "sub"}'], None]
    """
    # Most rows share their tools with others.
    texts = tools.drop_nulls().unique(maintain_order=True)
    parts = [[json_line(part) for part in template_tools(text) or ()] for text in texts]
    kinds = pl.DataFrame(
        {tools.name: texts, "parts": pl.Series(parts, dtype=pl.List(pl.String))}
    ).with_columns(pl.when(pl.col("parts").list.len() > 0).then("parts"))
    flat = kinds["parts"].explode(empty_as_null=False, keep_nulls=False)
    readable = lists_of(_readable(flat).to_frame("part"), kinds["parts"].list.len())
    parts_of = kinds.with_columns(
        readable.list.eval(pl.element().struct.field("part")).alias("parts")
    )
    joined = tools.to_frame().join(parts_of, on=tools.name, how="left", maintain_order="left")
    return joined["parts"].alias(tools.name)


def _readable(texts: pl.Series) -> pl.Series:
    """Texts that `datasets` can decode: what is no JSON to it becomes a JSON string.

    Its parser refuses what Python's takes, such as integers of more than 64 bits, and one such
    text would make a shard unreadable.
    """
    from pandas.io.json import ujson_loads  # type: ignore[attr-defined]  # not in the stubs

    def is_json(text: str) -> bool:
        try:
            json.loads(text)
            ujson_loads(text)
        except (ValueError, RecursionError):
            return False
        return True

    quoted = {text: json_line(text) for text in texts.unique() if not is_json(text)}
    return texts.replace(quoted) if quoted else texts


def json_line(value: Any) -> str:
    r"""JSON text in one line; characters beyond ASCII as they are, but for lone surrogates.

    Args:
        value: What JSON can hold.

    >>> json_line({"é": "\ud800"})
    '{"\\u00e9": "\\ud800"}'
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def shard_table(rows: pl.DataFrame) -> pa.Table:
    """The rows of a shard as an Arrow table.

    Args:
        rows: With turns and tools as `shard_turns` and `shard_tools` give them.
    """
    table = to_arrow(rows)
    types = {field.name: _json_type(field.type, "") for field in table.schema}
    if "tools" in types:
        types["tools"] = pa.list_(pa.json_())
    return table.cast(pa.schema(list(types.items())))


def _json_type(dtype: pa.DataType, name: str) -> pa.DataType:
    """The type, with the arguments of functions as JSON."""
    if pa.types.is_list(dtype):
        return pa.list_(_json_type(dtype.value_type, name))
    if pa.types.is_struct(dtype):
        is_json = {part.name for part in dtype} == {"name", "arguments"} and name == "function"
        return pa.struct(
            [
                pa.field(part.name, pa.json_())
                if is_json and part.name == "arguments"
                else pa.field(part.name, _json_type(part.type, part.name))
                for part in dtype
            ]
        )
    return dtype
