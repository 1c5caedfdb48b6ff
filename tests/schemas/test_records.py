"""The identity of a record, and what its expressions give."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import (
    DOCUMENT_COLUMNS,
    ITEM_COLUMNS,
    RECORD,
    RECORD_COLUMNS,
    first_user_turn,
    input_text,
    instruction,
    polars_schema,
    prompt_id,
    record_id,
    response,
    turns,
)

ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}), max_size=4)


def test_the_id_is_that_of_the_definition() -> None:
    text = '[{"content":"Hallo \\"Welt\\"\\n→","role":"user"},{"content":"","role":"assistant"}]'
    messages: Any = [
        {"role": "user", "content": 'Hallo "Welt"\n→'},
        {"role": "assistant", "content": ""},
    ]
    assert record_id(messages) == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    assert record_id([]) == hashlib.blake2b(b"[]", digest_size=16).hexdigest()


@given(MESSAGES)
def test_the_id_is_that_of_the_canonical_json(messages: Any) -> None:
    text = json.dumps(messages, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert record_id(messages) == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    padded = [{"name": None, **message} for message in messages]
    assert record_id(padded) == record_id(messages), "null fields are left out"


@given(MESSAGES, MESSAGES)
def test_two_conversations_have_two_ids(a: Any, b: Any) -> None:
    assert (record_id(a) == record_id(b)) == (a == b)


def test_nothing_is_normalised() -> None:
    forms = ["é", "e\u0301", "é ", "É"]
    assert len({record_id([{"role": "user", "content": f}]) for f in forms}) == len(forms)


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        record_id([{"role": "user", "content": "\ud800"}])


def test_answers_to_one_prompt_share_its_id() -> None:
    ask: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    one, other = ({"role": "assistant", "content": c} for c in "ab")
    assert prompt_id([*ask, one]) == prompt_id([*ask, other]) == record_id(ask)
    assert prompt_id([*ask, one, *ask, other]) == record_id([*ask, one, *ask])
    assert prompt_id([*ask, one, *ask]) == record_id(ask)
    assert prompt_id(ask) == record_id(ask)


def row(messages: list[tuple[str, str]], input_start: int | None = None) -> dict[str, Any]:
    return {
        "messages": [{"role": role, "content": content} for role, content in messages],
        "input_start": input_start,
    }


def test_parts_of_a_conversation() -> None:
    rows = pl.DataFrame(
        [
            row([("user", "Translate\n\nHällo"), ("assistant", "Hello")], 11),
            row([("user", "Translate\n\nHällo"), ("assistant", "Hello")]),
            row([("system", "s"), ("user", "ä😀\n\nb\n\nc"), ("assistant", "1"), ("user", "2")], 4),
            row([("user", "\n\nonly input")], 2),
            row([("user", "trailing\n\n"), ("assistant", "x"), ("assistant", "y")], 10),
            row([("user", "one\nline"), ("assistant", "x")], 4),
            row([("system", "s"), ("assistant", "x")]),
            row([]),
        ],
        schema={"messages": RECORD_COLUMNS["messages"], "input_start": pl.Int32},
    )
    rest = rows.select(instruction(), input_text(), response(), first_user_turn())
    assert rest["instruction"].to_list() == [
        *["Translate", "Translate\n\nHällo", "ä😀", "", "trailing", "one\n", None, None],
    ]
    assert rest["input"].to_list()[:6] == ["Hällo", "", "b\n\nc", "only input", "", "line"]
    assert rest["response"].to_list() == ["Hello", "Hello", "1", None, "y", "x", "x", None]
    assert rest["first_user_turn"][2] == "ä😀\n\nb\n\nc"
    assert rows.select(turns("user"))["user_turns"][2].to_list() == ["ä😀\n\nb\n\nc", "2"]


@given(TEXTS.filter(lambda t: not t.endswith("\n\n")), TEXTS)
def test_an_instruction_and_its_input_are_found_again(asked: str, given_text: str) -> None:
    content = f"{asked}\n\n{given_text}"
    rows = pl.DataFrame(
        [row([("user", content)], len(asked) + 2)],
        schema={"messages": RECORD_COLUMNS["messages"], "input_start": pl.Int32},
    )
    rest = rows.select(instruction(), input_text()).row(0)
    assert rest == (asked, given_text)


def test_schemas_have_the_same_types_in_polars_and_arrow() -> None:
    assert polars_schema(RECORD) == RECORD_COLUMNS
    assert RECORD_COLUMNS["origins"] == pl.List(
        pl.Struct({"source": pl.String, "index": pl.Int64, "license": pl.String})
    )
    assert list(RECORD_COLUMNS) == [
        *["id", "messages", "tools", "input_start", "origins", "parents", "extra"],
    ]
    assert all("id" in columns for columns in (DOCUMENT_COLUMNS, ITEM_COLUMNS))
    assert RECORD.field("input_start").type == pa.int32()
