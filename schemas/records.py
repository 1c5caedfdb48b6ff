"""The record: one conversation, its identity, and where it came from.

A record's `id` is a digest of its messages alone, so equal conversations from
two sources are one record with two origins. The formats of sources (Alpaca,
ShareGPT, ...) are read by the loaders alone; all other stages see records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, Literal, TypedDict

import polars as pl
import pyarrow as pa

Role = Literal["system", "user", "assistant", "tool"]


class Message(TypedDict):
    """One turn of a conversation.

    Attributes:
        role: system, user, assistant or tool.
        content: Its text.
    """

    role: str
    content: str


MESSAGES: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ORIGINS: Final = pa.list_(
    pa.struct([("source", pa.string()), ("index", pa.int64()), ("license", pa.string())])
)

RECORD: Final = pa.schema(
    [
        ("id", pa.string()),
        ("messages", MESSAGES),
        ("input_start", pa.int32()),
        ("origins", ORIGINS),
        ("parents", pa.list_(pa.string())),
        ("extra", pa.string()),
    ]
)
"""`input_start` is the offset in characters, in the first user turn, at which a
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


def digest(value: Any) -> str:
    """32 hex digits of blake2b over the value's canonical JSON, in UTF-8.

    Raises:
        UnicodeEncodeError: A text holds a lone surrogate.

    >>> digest(["a", 1])
    '484c670ce4753ed75a3cc908af49224a'
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def record_id(messages: Sequence[Message]) -> str:
    """The identity of a conversation: nothing is normalized, null fields are left out.

    >>> record_id([{"role": "user", "content": "Why?"}])
    '5fc18a93baea9c44e59fd3052ec97487'
    """
    return digest([{k: v for k, v in message.items() if v is not None} for message in messages])


def prompt_id(messages: Sequence[Message]) -> str:
    """The id of all that comes before the last assistant turn; answers to one prompt share it.

    >>> question = {"role": "user", "content": "Why?"}
    >>> prompt_id([question, {"role": "assistant", "content": "So."}]) == record_id([question])
    True
    """
    last = max(
        (i for i, m in enumerate(messages) if m["role"] == "assistant"), default=len(messages)
    )
    return record_id(messages[:last])


def turns(role: Role) -> pl.Expr:
    """All turns of one role, in order: list[str].

    >>> messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    >>> pl.DataFrame({"messages": [messages]}).select(turns("assistant")).item().to_list()
    ['So.']
    """
    has_role = pl.element().struct.field("role") == role
    content = pl.element().filter(has_role).struct.field("content")
    return pl.col("messages").list.eval(content).alias(f"{role}_turns")


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


def response() -> pl.Expr:
    """The last assistant turn; null for a conversation without one."""
    return turns("assistant").list.last().alias("response")
