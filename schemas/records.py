"""The record: one conversation, its identity, and where it came from.

A record's `id` is a digest of its messages and tools alone, so equal conversations
from two sources are one record with two origins. The formats of sources (Alpaca,
ShareGPT, ...) are read by the loaders alone; all other stages see records, and the
text of a turn through the views of `schemas.turns`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

import polars as pl
import pyarrow as pa

from schemas.turns import View, json_words, viewed

Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(TypedDict):
    """A call of a tool.

    Attributes:
        id: What the tool's turn answers to (its `tool_call_id`); None without.
        name: The tool's name.
        arguments: JSON text, exactly as given.
    """

    id: str | None
    name: str
    arguments: str | None


class PlainMessage(TypedDict):
    """What every turn has.

    Attributes:
        role: system, user, assistant or tool.
        content: Its text; None only beside tool calls.
    """

    role: str
    content: str | None


class Message(PlainMessage, total=False):
    """One turn of a conversation; what it lacks is None or left out.

    Attributes:
        reasoning: What an assistant thought before it answered.
        tool_calls: What an assistant called.
        tool_call_id: The call that a tool's turn answers.
        name: The tool that answers, or who speaks.
        train: Whether loss is on this turn; None: as the trainer decides.
    """

    reasoning: str | None
    tool_calls: list[ToolCall] | None
    tool_call_id: str | None
    name: str | None
    train: bool | None


TOOL_CALLS: Final = pa.list_(
    pa.struct([("id", pa.string()), ("name", pa.string()), ("arguments", pa.string())])
)
MESSAGES: Final = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("reasoning", pa.string()),
            ("tool_calls", TOOL_CALLS),
            ("tool_call_id", pa.string()),
            ("name", pa.string()),
            ("train", pa.bool_()),
        ]
    )
)
ORIGINS: Final = pa.list_(
    pa.struct([("source", pa.string()), ("index", pa.int64()), ("license", pa.string())])
)

RECORD: Final = pa.schema(
    [
        ("id", pa.string()),
        ("messages", MESSAGES),
        ("tools", pa.string()),
        ("input_start", pa.int32()),
        ("origins", ORIGINS),
        ("parents", pa.list_(pa.string())),
        ("extra", pa.string()),
    ]
)
"""`tools` are the definitions of the tools that the row was made with, as JSON text;
null without. `input_start` is the offset in characters, in the first user turn, at which a
separate input begins (content = instruction + blank line + input); null where
there is none. `origins` lists every place where the conversation occurred.
`parents` are the ids of the records or documents that it was made from.
`extra` holds the source's own fields as a JSON object, untouched."""

DOCUMENT: Final = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("title", pa.string()),
        ("origins", ORIGINS),
        ("extra", pa.string()),
    ]
)
"""An unlabelled text. `id` is the digest of the text."""

ITEM: Final = pa.schema(
    [
        ("id", pa.string()),
        ("benchmark", pa.string()),
        ("item", pa.string()),
        ("texts", pa.list_(pa.struct([("name", pa.string()), ("text", pa.string())]))),
    ]
)
"""An evaluation item: what a training pool must not contain. `item` is the
benchmark's own key (or the row number); `texts` are its fields by name, in the
order of the file (question, choices, answer, ...)."""


def polars_schema(schema: pa.Schema) -> dict[str, pl.DataType]:
    """The polars types of an Arrow schema."""
    return dict(pl.Schema(schema))


RECORD_COLUMNS: Final = polars_schema(RECORD)
DOCUMENT_COLUMNS: Final = polars_schema(DOCUMENT)
ITEM_COLUMNS: Final = polars_schema(ITEM)
TURN_COLUMNS: Final = polars_schema(pa.schema(list(MESSAGES.value_type)))
"""The fields of a turn, with their polars types."""


def digest(value: Any) -> str:
    """32 hex digits of blake2b over the value's canonical JSON, in UTF-8.

    Raises:
        UnicodeEncodeError: A text holds a lone surrogate.

    >>> digest(["a", 1])
    '484c670ce4753ed75a3cc908af49224a'
    """
    return hashlib.blake2b(json_bytes(value, _CANONICAL), digest_size=16).hexdigest()


_CANONICAL: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))
_quoted: Final[Callable[..., str]] = json.encoder.encode_basestring
"""A text as `_CANONICAL` writes it."""
_LONG: Final = 1 << 20


def json_bytes(value: Any, encoder: json.JSONEncoder) -> bytes:
    """A value as JSON in UTF-8.

    Of a long text there is never more than one copy as Python text: it may take four times
    its bytes, and an encoder that writes all at once holds three of them.

    Args:
        value: What JSON can say.
        encoder: How it is written.

    Raises:
        UnicodeEncodeError: A text holds a lone surrogate.

    >>> json_bytes({"a": "é" * 2}, json.JSONEncoder(ensure_ascii=False))
    b'{"a": "\\xc3\\xa9\\xc3\\xa9"}'
    """
    if _has_long_text(value):
        return b"".join(part.encode("utf-8") for part in encoder.iterencode(value))
    return encoder.encode(value).encode("utf-8")


def _has_long_text(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > _LONG
    if not isinstance(value, dict | list | tuple):
        return False
    for member in value.values() if isinstance(value, dict) else value:
        # Nearly all members are texts or nothing, and a call for each would cost more than JSON.
        if type(member) is str:
            if len(member) > _LONG:
                return True
        elif member is not None and _has_long_text(member):
            return True
    return False


def record_id(
    messages: Sequence[Mapping[str, Any]], tools: str | None = None, kept: str | None = None
) -> str:
    """The identity of a conversation: all that a trainer would see of it.

    Nothing is normalized. What a turn lacks does not count, whether it is null, an empty list
    or, beside calls, an empty content; so a turn of role and content has one id whatever
    stood beside them.

    Args:
        messages: The turns.
        tools: The definitions of the tools, as JSON text.
        kept: What of `extra` counts too, because the recipe that loaded it says so.

    >>> record_id([{"role": "user", "content": "Why?"}])
    '5fc18a93baea9c44e59fd3052ec97487'
    >>> record_id([{"role": "user", "content": "Why?", "name": None, "tool_calls": []}])
    '5fc18a93baea9c44e59fd3052ec97487'
    """
    plain = None if tools or kept else _plain_json(messages)
    if plain is not None:
        return hashlib.blake2b(plain.encode("utf-8"), digest_size=16).hexdigest()
    turns = canonical_turns(messages)
    more = {name: text for name, text in (("tools", tools), ("kept", kept)) if text}
    return digest({"messages": turns, **more} if more else turns)


def _plain_json(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The canonical JSON of turns that have a role and a content, no more; None of others.

    Most turns are such, and written so it takes a third of the time.
    """
    turns = []
    for message in messages:
        content, role = message.get("content"), message.get("role")
        plain = len(message) == 2 and type(content) is str and type(role) is str
        if not plain or len(content) > _LONG:  # type: ignore[arg-type]
            return None
        turns.append(f'{{"content":{_quoted(content)},"role":{_quoted(role)}}}')
    return f"[{','.join(turns)}]"


def canonical_turns(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The turns as they are identified: without what they lack."""
    return [_present(message) for message in messages]


def _present(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn without what it lacks."""
    present = {k: v for k, v in message.items() if v is not None}
    calls = [{k: v for k, v in call.items() if v is not None} for call in _calls(message)]
    if calls:
        present["tool_calls"] = calls
        if not present.get("content"):
            present.pop("content", None)
    else:
        present.pop("tool_calls", None)
    return present


def _calls(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return message.get("tool_calls") or ()


def prompt_id(messages: Sequence[Mapping[str, Any]], tools: str | None = None) -> str:
    """The id of all that comes before the last assistant turn; answers to one prompt share it.

    On which turns loss is does not count.

    Args:
        messages: The turns.
        tools: The definitions of the tools, as JSON text.

    >>> question = {"role": "user", "content": "Why?"}
    >>> prompt_id([question, {"role": "assistant", "content": "So."}]) == record_id([question])
    True
    """
    last = max(
        (i for i, m in enumerate(messages) if m["role"] == "assistant"), default=len(messages)
    )
    return record_id([{**message, "train": None} for message in messages[:last]], tools)


def turns(role: Role, view: View = "content") -> pl.Expr:
    """The texts of all turns of one role, in order: list[str].

    Args:
        role: Whose turns.
        view: What of a turn is seen; see `schemas.turns`.

    >>> messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    >>> pl.DataFrame({"messages": [messages]}).select(turns("assistant")).item().to_list()
    ['So.']
    """
    has_role = pl.element().struct.field("role") == role
    text = pl.element().filter(has_role).struct.field("content").fill_null("")
    messages = pl.col("messages") if view == "content" else viewed(view)
    return messages.list.eval(text).alias(f"{role}_turns")


def num_tool_calls() -> pl.Expr:
    """How many calls the assistant makes in the conversation."""
    return _field("tool_calls", lambda calls: calls.list.len()).list.sum().alias("num_tool_calls")


def reasoning() -> pl.Expr:
    """The reasoning of every turn that has one, in order: list[str]."""
    return _field("reasoning", lambda texts: texts).list.drop_nulls().alias("reasoning")


def _field(name: str, value: Callable[[pl.Expr], pl.Expr]) -> pl.Expr:
    # Frames that were made by hand may lack the fields; of a record the cast does nothing.
    messages = pl.col("messages").cast(RECORD_COLUMNS["messages"])
    return messages.list.eval(value(pl.element().struct.field(name)))


def tools_text() -> pl.Expr:
    """The definitions of the tools as words; null without any."""
    words = pl.col("tools").map_elements(json_words, return_dtype=pl.String)
    return words.alias("tools_text")


def first_user_turn() -> pl.Expr:
    """The first user turn, instruction and input; null without one."""
    return turns("user").list.first().alias("first_user_turn")


def instruction() -> pl.Expr:
    """The first user turn up to its input, without the blank line between them."""
    turn = first_user_turn()
    has_input = pl.col("input_start").is_not_null()
    head = turn.str.head(pl.col("input_start")).str.strip_suffix("\n\n")
    return pl.when(has_input).then(head).otherwise(turn).alias("instruction")


def input_text() -> pl.Expr:
    """The separate input of the first user turn; an empty text where there is none."""
    has_input = pl.col("input_start").is_not_null()
    tail = first_user_turn().str.slice(pl.col("input_start"))
    return pl.when(has_input).then(tail).otherwise(pl.lit("")).alias("input")


def response(view: View = "content") -> pl.Expr:
    """The last assistant turn; null for a conversation without one.

    Args:
        view: What of the turn is seen; see `schemas.turns`.
    """
    return turns("assistant", view).list.last().alias("response")
