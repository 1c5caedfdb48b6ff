"""What is written in a format is read from it: the same messages, whatever the texts."""

from __future__ import annotations

import csv
import gc
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import input_text, instruction, record_id
from stages.load._rows.frame import conversations_frame, identities
from stages.load._rows.output import to_frame
from tests.support.loading import (
    Turns,
    failures,
    gz,
    json_array,
    json_lines,
    kept,
    load,
    turns,
    zst,
)

MARKS = ("think>", "<|channel|>", "<tool_call>", "<tool_response>", "<tools>")
SAID = st.text(max_size=30).filter(lambda text: not any(m in text for m in MARKS))
TEXT = SAID.filter(bool)
"""Texts without marks of reasoning or calls, which are taken apart (`test_records_turns.py`)."""
ROLE = st.sampled_from(["user", "assistant", "tool"])
few = settings(max_examples=20)


@st.composite
def dialogues(draw: st.DrawFn) -> Turns:
    """Turns of any roles, a user's first, perhaps behind a system turn."""
    system = [("system", draw(TEXT))] if draw(st.booleans()) else []
    others = draw(st.lists(st.tuples(ROLE, TEXT), max_size=5))
    return [*system, ("user", draw(TEXT)), *others]


exchanges = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


def input_of(text: str) -> str:
    """An input as it is read: blank ones and placeholders are none."""
    return "" if text.strip().lower() in ("", "n/a", "nan", "<nan>", "<noinput>") else text


def as_json_lines(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    return json_lines(rows), "rows.jsonl"


def as_json_array(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    return json_array(rows), "rows.json"


def as_compact_array(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    return gz(json.dumps(rows).encode()), "rows.json"


def as_dos_lines(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    return zst(b"\xef\xbb\xbf" + json_lines(rows).replace(b"\n", b"\r\n")), "rows"


def as_field_of_an_object(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    about = {"about [{": 'a "quoted" \\ text', "n": -1.5, "ok": None}
    return json.dumps({**about, "data": rows, "more": [{}]}, indent=1).encode(), "rows.json"


def as_csv(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    return _delimited(rows, ","), "rows.csv"


def as_tsv(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    return _delimited(rows, "\t"), "rows.tsv"


def as_parquet(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(buffer)
    return buffer.getvalue(), "rows"


def _delimited(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    """As `csv.writer` has it; nested cells are JSON."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    names = list(rows[0])
    writer.writerow(names)
    for row in rows:
        cells = [row.get(name, "") for name in names]
        writer.writerow([c if isinstance(c, str) else json.dumps(c) for c in cells])
    return text.getvalue().encode()


Write = Callable[[list[dict[str, Any]]], tuple[bytes, str]]
TABLES = [as_csv, as_tsv, as_parquet]
ALL = [as_json_lines, as_json_array, as_compact_array, as_field_of_an_object, *TABLES]


def read(write: Write, rows: list[dict[str, Any]], **options: Any) -> pl.DataFrame:
    data, name = write(rows)
    frame = load(data, name=name, **options)
    assert failures(frame) == []
    return frame


@pytest.mark.parametrize("write", ALL)
@given(rows=st.lists(st.tuples(TEXT, st.text(max_size=9), SAID), min_size=1))
@few
def test_alpaca(write: Write, rows: list[tuple[str, str, str]]) -> None:
    written = [{"instruction": i, "input": x, "output": o} for i, x, o in rows]
    frame = read(write, written)
    rows = [(i, input_of(x), o) for i, x, o in rows]
    prompts = [f"{i}\n\n{x}" if x else i for i, x, _ in rows]
    answers = [[("assistant", o)] if o else [] for _, _, o in rows]
    assert turns(frame) == [
        [("user", p), *answer] for p, answer in zip(prompts, answers, strict=True)
    ]
    starts = [len(i) + 2 if x else None for i, x, _ in rows]
    assert frame["input_start"].to_list() == starts
    parts = frame.select(instruction(), input_text()).rows()
    assert parts == [(i, x) for i, x, _ in rows]


@pytest.mark.parametrize("write", ALL)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1))
@few
def test_prompt_completion(write: Write, rows: list[tuple[str, str]]) -> None:
    frame = read(write, [{"prompt": p, "completion": c} for p, c in rows])
    assert turns(frame) == [[("user", p), ("assistant", c)] for p, c in rows]


@pytest.mark.parametrize("write", ALL)
@given(rows=st.lists(dialogues(), min_size=1, max_size=5))
@few
def test_messages(write: Write, rows: list[Turns]) -> None:
    written = [{"messages": [{"role": r, "content": c} for r, c in row]} for row in rows]
    assert turns(read(write, written)) == rows


@pytest.mark.parametrize("write", ALL)
@given(rows=st.lists(dialogues(), min_size=1, max_size=5))
@few
def test_sharegpt(write: Write, rows: list[Turns]) -> None:
    names = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
    written = [
        {"conversations": [{"from": names[r], "value": c} for r, c in row], "tools": "[]"}
        for row in rows
    ]
    frame = read(write, written)
    assert turns(frame) == rows
    assert set(frame["extra"]) == {"{}"}
    assert frame["tools"].null_count() == len(rows)


@pytest.mark.parametrize("write", ALL)
@given(rows=st.lists(st.lists(TEXT, min_size=1, max_size=5), min_size=1, max_size=5))
@few
def test_lima(write: Write, rows: list[list[str]]) -> None:
    frame = read(write, [{"conversations": row} for row in rows])
    roles = ("user", "assistant")
    assert turns(frame) == [[(roles[i % 2], t) for i, t in enumerate(row)] for row in rows]


def instances(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"input": x, "output": o} for x, o in pairs]


@pytest.mark.parametrize("write", [as_json_lines, as_json_array, as_csv, as_parquet])
@given(rows=st.lists(st.tuples(TEXT, st.lists(st.tuples(TEXT, TEXT), min_size=1)), min_size=1))
@few
def test_seeds_give_a_record_for_each_instance(write: Write, rows: list[Any]) -> None:
    written = [
        {
            "id": f"seed_{n}",
            "instruction": i,
            "instances": [{"input": x, "output": o} for x, o in v],
        }
        for n, (i, v) in enumerate(rows)
    ]
    frame = read(write, written)
    expected = [
        [("user", f"{i}\n\n{x}" if input_of(x) else i), ("assistant", o)]
        for i, v in rows
        for x, o in v
    ]
    assert turns(frame) == expected
    numbers = [json.loads(extra)["id"] for extra in frame["extra"]]
    assert numbers == [f"seed_{n}" for n, (_, v) in enumerate(rows) for _ in v]


@given(rows=st.lists(st.tuples(exchanges, TEXT), min_size=1, max_size=4))
@few
def test_history_becomes_earlier_turns(rows: list[Any]) -> None:
    written = [
        {
            "system": system,
            "history": [list(pair) for pair in pairs[:-1]],
            "instruction": pairs[-1][0],
            "response": pairs[-1][1],
        }
        for pairs, system in rows
    ]
    expected = [
        [("system", system), *(t for q, a in pairs for t in (("user", q), ("assistant", a)))]
        for pairs, system in rows
    ]
    assert turns(read(as_json_lines, written)) == expected


def test_an_input_behind_a_history_is_not_in_the_first_turn() -> None:
    row = {"instruction": "c", "input": "d", "output": "e", "history": [["a", "b"]]}
    frame = load(json_lines([row, row | {"history": []}]))
    assert turns(frame)[0][2] == ("user", "c\n\nd")
    assert frame["input_start"].to_list() == [None, 3]


@st.composite
def trees(draw: st.DrawFn, depth: int = 0) -> dict[str, Any]:
    replies = [] if depth == 3 else draw(st.lists(trees(depth=depth + 1), max_size=2))
    return {
        "message_id": draw(TEXT),
        "text": draw(TEXT),
        "role": "assistant" if depth % 2 else "prompter",
        "deleted": depth > 0 and draw(st.integers(0, 4)) == 0,
        "lang": "en",
        "replies": replies,
    }


def paths(node: dict[str, Any]) -> list[Turns]:
    """All ways from a message to where it ends, written recursively."""
    role = {"prompter": "user", "assistant": "assistant"}[node["role"]]
    present = [reply for reply in node["replies"] if not reply["deleted"]]
    behind = [path for reply in present for path in paths(reply)] or [[]]
    return [[(role, node["text"]), *path] for path in behind]


@pytest.mark.parametrize("write", [as_json_lines, as_json_array])
@given(roots=st.lists(trees(), min_size=1, max_size=4))
@few
def test_every_path_of_a_tree(write: Write, roots: list[dict[str, Any]]) -> None:
    rows = [{"message_tree_id": str(n), "prompt": root} for n, root in enumerate(roots)]
    frame = read(write, rows)
    assert turns(frame) == [path for root in roots for path in paths(root)]
    assert {json.loads(extra)["lang"] for extra in frame["extra"]} == {"en"}


@pytest.mark.parametrize("write", [*ALL, as_dos_lines])
def test_position_in_the_file_is_the_index(write: Write) -> None:
    rows = [{"instruction": f"i{n}", "output": "o", "n": n} for n in range(20)]
    frame = read(write, rows)
    places = frame["origins"].list.first().struct
    assert places.field("index").to_list() == list(range(20))
    assert places.field("source").unique().to_list() == ["here"]
    assert places.field("license").unique().to_list() == ["CC0-1.0"]
    assert [int(json.loads(extra)["n"]) for extra in frame["extra"]] == list(range(20))


def test_index_runs_on_over_files_and_failures() -> None:
    good = json_lines([{"prompt": "a", "completion": "b"}])
    frame = load(good + b"broken\n", b"\n" + good.replace(b"a", b"c"))
    assert frame["origins"].list.first().struct.field("index").to_list() == [0, None, 2]
    assert failures(frame)[0][0] == 2


def test_equal_conversations_are_one_record_with_all_their_places() -> None:
    same = {"prompt": "a", "completion": "b"}
    rows = [same, {"prompt": "x", "completion": "y"}, {"instruction": "a", "output": "b"}, same]
    frame = load(json_lines(rows))
    assert frame["drop_reason"].to_list() == [None, None, "duplicate", "duplicate"]
    first = kept(frame).row(0, named=True)
    assert [origin["index"] for origin in first["origins"]] == [0, 2, 3]
    evidence = json.loads(frame["evidence"][2])
    assert evidence == {
        "id": first["id"],
        "kept": {"source": "here", "index": 0},
        "dropped": {"source": "here", "index": 2},
    }


def test_a_source_may_have_any_name() -> None:
    rows = json_lines([{"prompt": "a", "completion": "b"}] * 2)
    frame = load(rows, source='{} "quoted" \\ {name}')
    assert json.loads(frame["evidence"][1])["kept"]["source"] == '{} "quoted" \\ {name}'


def test_fields_are_renamed_and_what_they_hide_stays_in_extra() -> None:
    row = {"q": "question", "a": "answer", "instruction": "a note", "score": 3}
    frame = load(json_lines([row]), fields={"instruction": "q", "response": "a"})
    assert turns(frame) == [[("user", "question"), ("assistant", "answer")]]
    assert json.loads(frame["extra"][0]) == {"instruction": "a note", "score": 3}


def test_other_fields_stay_untouched() -> None:
    turn = {"role": "user", "content": "a", "timestamp": 7}
    row = {"messages": [turn], "id": 7, "nested": {"ü": [1.5, None, True]}}
    extra = json.loads(load(json_lines([row]))["extra"][0])
    assert extra == {"messages": [{"timestamp": 7}], "id": 7, "nested": {"ü": [1.5, None, True]}}


def test_numbers_that_json_does_not_have_become_null() -> None:
    frame = load(b'{"prompt": "a", "completion": "b", "score": NaN, "all": [1e999, 2]}\n')
    assert json.loads(frame["extra"][0]) == {"score": None, "all": [None, 2]}


def test_content_in_parts_is_one_text_and_stays_in_extra() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image_url": None}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]}
    frame = load(json_lines([row]))
    assert turns(frame) == [[("user", "a\nb"), ("assistant", "c")]]
    assert json.loads(frame["extra"][0]) == {"messages": [{"content": parts}, {}]}


def test_turns_under_conversations_may_be_those_of_messages() -> None:
    conversation = [{"role": "developer", "content": "s"}, {"role": "user", "content": "a"}]
    frame = load(json_lines([{"conversations": conversation}]))
    assert turns(frame) == [[("system", "s"), ("user", "a")]]


def test_prompt_and_completion_may_be_messages() -> None:
    row = {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
    }
    frame = load(json_lines([row]))
    assert turns(frame) == [[("system", "s"), ("user", "a"), ("assistant", "b")]]
    assert frame["extra"][0] == "{}"


def test_a_system_prompt_beside_the_conversation_comes_first() -> None:
    conversation = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    own = [{"from": "system", "value": "its own"}, *conversation]
    rows = [{"system": system, "conversations": conversation} for system in ("s", "")]
    frame = load(json_lines([*rows, {"system": "s", "conversations": own}]))
    assert [conversation[0] for conversation in turns(frame)] == [
        ("system", "s"),
        ("user", "a"),
        ("system", "its own"),
    ]
    assert frame["extra"].to_list() == ["{}", "{}", '{"system": "s"}']


def test_the_context_of_dolly_is_the_input() -> None:
    row = {"instruction": "a", "context": "c", "response": "b", "category": "qa"}
    frame = load(json_lines([row, row | {"context": ""}, row | {"input": "", "context": "note"}]))
    assert [conversation[0] for conversation in turns(frame)] == [
        ("user", "a\n\nc"),
        ("user", "a"),
        ("user", "a"),
    ]
    assert frame["input_start"].to_list() == [3, None, None]
    assert json.loads(frame["extra"][2]) == {"context": "note", "category": "qa"}


CONVERSATIONS = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


@given(drawn=st.lists(st.none() | st.lists(st.tuples(ROLE, SAID), max_size=4), max_size=4))
def test_identity_is_the_record_id(drawn: list[Turns | None]) -> None:
    messages = [each and [{"role": r, "content": c} for r, c in each] for each in drawn]
    expected = [None if one is None else record_id(one) for one in messages]  # type: ignore[arg-type]
    assert identities(pl.Series(messages, dtype=CONVERSATIONS)).to_list() == expected


def test_identity_is_the_record_id_whatever_the_character() -> None:
    everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    messages = [[{"role": "user", "content": everything}]]
    ids = identities(pl.Series(messages, dtype=CONVERSATIONS)).to_list()
    assert ids == [record_id(messages[0])]  # type: ignore[arg-type]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_search_for_circles_is_as_it_was_after_a_load(enabled: bool) -> None:
    class Broken(Exception):
        pass

    def broken() -> Iterator[tuple[Any, ...]]:
        assert not gc.isenabled()
        raise Broken
        yield ()

    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        load(json_lines([{"prompt": "Why?", "completion": "So."}]))
        assert gc.isenabled() == enabled
        with pytest.raises(Broken):
            to_frame(broken(), conversations_frame)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
