"""Whatever a file contains, the result is rows or failures with file, line and reason."""

from __future__ import annotations

import gzip
import json
import random
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import UserError
from stages.load.records import _check as check
from stages.load.records import records
from tests.support.loading import (
    failures,
    gz,
    json_array,
    json_lines,
    kept,
    load,
    turns,
    zst,
)
from tests.support.options import options_of, problems

GOOD = [{"instruction": f"do {n}", "input": "", "output": f"done {n}"} for n in range(6)]
ARRAY = json_array(GOOD)


def instructions(frame: Any) -> list[str]:
    return [conversation[0][1] for conversation in turns(frame)]


def lines_around(bad: bytes) -> bytes:
    return json_lines(GOOD[:2]) + bad + b"\n" + json_lines(GOOD[2:])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"instruction": "a", "output": ', "invalid JSON"),
        (b'{"instruction": "a\xff", "output": "b"}', "invalid UTF-8"),
        (b'{"instruction": "a", "output": "\xed\xa0\x80"}', "invalid UTF-8"),
        (b'{"instruction": "a\x00", "output": "b"}', "invalid JSON"),
        (b"\x00", "invalid JSON"),
        (b'{"instruction": "a", "output": "\\ud800"}', "lone surrogate"),
        (b'{"instruction": "a", "output": "b", "n": "\\udfff"}', "lone surrogate"),
        (b'{"instruction": "a", "output": "b", "\\udfff": NaN}', "lone surrogate"),
        (b'{"instruction": "", "output": "b"}', "empty instruction"),
        (b'{"instruction": null, "output": "b"}', "missing field 'instruction'"),
        (b'{"instruction": "a", "output": null}', "missing field 'output'"),
        (b'{"instruction": "a", "output": 3}', "'output' is a number"),
        (b'{"instruction": "a", "output": ["b"]}', "'output' is a list"),
        (b'{"instruction": "a", "output": "b", "input": {}}', "'input' is an object"),
        (b'{"instruction": "a", "output": "b", "history": [["x"]]}', "'history'"),
        (b'{"instruction": "a", "output": "b", "history": "x"}', "'history' is a text"),
        (b'{"instruction": "a", "ouput": "b"}', "no known format has these fields: instruction"),
        (b'{"prompt": "a", "answer": "b"}', "without answers, write format: prompt"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "c"}', "use load.pairs"),
        (b'{"prompt": "a", "completions": []}', "'completions' is empty"),
        (b'{"prompt": "a", "completions": [3]}', "completion 1: it is a number, not a text"),
        (b'{"prompt": "a", "completions": [{"rank": 1}]}', "completion 1: missing field"),
        (b'{"instruction": "a", "output": NaN}', "missing field 'output'"),
        (b'{"instruction": "a", "output": "b"},', "a comma behind the row"),
        (b'{"instruction": "a", "output": "b",}', "a comma before the closing bracket"),
        (b"{}", "no known format"),
        (b"[]", "a row must be an object, not a list"),
        (b"null", "a row must be an object, not null"),
        (b'"text"', "a row must be an object, not a text"),
        (b"[" * 100_000, "invalid JSON"),
        (b'{"instruction": "a", "output": "b", "n": ' + b"9" * 5000 + b"}", "invalid JSON"),
        (b'{"prompt": "", "completion": "b"}', "empty prompt"),
        (b'{"messages": []}', "there is no user turn"),
        (b'{"messages": null}', "missing field 'messages'"),
        (b'{"messages": ["a"]}', "turn 1 is a text"),
        (b'{"messages": [{"role": "king", "content": "a"}]}', "turn 1: unknown role 'king'"),
        (b'{"messages": [{"role": ["user"], "content": "a"}]}', "turn 1: unknown role"),
        (b'{"messages": [{"role": "user", "content": null}]}', "turn 1 (user) is empty"),
        (b'{"messages": [{"role": "user", "content": ""}]}', "turn 1 (user) is empty"),
        (b'{"messages": [{"role": "assistant", "content": "a"}]}', "there is no user turn"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "turn 1: part 1 of its content is no text (image_url)",
        ),
        (b'{"messages": [{"role": "user", "content": [3]}]}', "is a number without a type"),
        (b'{"messages": [{"role": "user", "content": []}]}', "turn 1 (user) is empty"),
        (b'{"prompt": [], "completion": "b"}', "there is no user turn"),
        (b'{"data": [{"prompt": "a", "completion": "b"}]}', "no known format"),
        (b'{"conversations": [{"from": "human", "value": 1}]}', "'value' is a number"),
        (b'{"conversations": [{"value": "a"}]}', "turn 1: unknown role None"),
        (b'{"conversations": ["a", 2]}', "turn 2 is a number"),
        (b'{"instruction": "a", "instances": []}', "'instances' is empty"),
        (b'{"instruction": "a", "instances": [3]}', "instance 1: it is a number"),
        (b'{"instruction": "a", "instances": [{}]}', "instance 1: missing field 'output'"),
        (b'{"prompt": {"role": "prompter", "text": "a", "deleted": true}}', "is deleted"),
        (b'{"prompt": {"role": "king", "text": "a"}}', "unknown role 'king'"),
        (b'{"prompt": {"role": "prompter", "text": 2}}', "is a number"),
        (b'{"prompt": {"role": "prompter", "text": "a", "replies": [1]}}', "is a number"),
    ],
)
def test_a_bad_row_costs_only_itself(bad: bytes, reason: str) -> None:
    frame = load(lines_around(bad), name="pool.jsonl")
    assert instructions(frame) == [row["instruction"] for row in GOOD]
    [(line, error)] = failures(frame)
    assert line == 3
    assert reason in error
    assert frame["file"].drop_nulls().to_list() == ["0-pool.jsonl"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"instruction": "a", "output": "b" "c"}', "invalid JSON"),
        (b'{"instruction": "a "quoted" word", "output": "b"}', "invalid JSON"),
        (b'{"instruction": "a", "output": "\xff"}', "invalid UTF-8"),
        (b'{"instruction": "a\nb", "output": "c"}', "invalid JSON"),
        (b"nonsense", "invalid JSON"),
        (b"17", "a row must be an object"),
    ],
)
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_bad_element_of_an_array_costs_only_itself(bad: bytes, reason: str, at: int) -> None:
    elements = [json.dumps(row).encode() for row in GOOD]
    elements.insert(at, bad)
    frame = load(b"[\n" + b",\n".join(elements) + b"\n]\n")
    assert instructions(frame) == [row["instruction"] for row in GOOD]
    [(line, error)] = failures(frame)
    assert line == at + 2
    assert reason in error


@pytest.mark.parametrize("between", [", ", ",\n", "\n,\n", "\n  ,  "])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_stray_bracket_costs_only_its_row(at: int, wrapped: bool, between: str) -> None:
    strays = (
        ("[", ""),
        ("", "]"),
        ("{", ""),
        ("", "}"),
        ("[[", ""),
        ("[]", ""),
        ("]", ""),
        ("}", ""),
    )
    for before, after in strays:
        elements = [json.dumps(row) for row in GOOD]
        elements[at] = before + elements[at] + after
        start, end = ('{"data": [', "]}") if wrapped else ("[", "]")
        frame = load((start + between.join(elements) + end).encode())
        others = [row["instruction"] for row in GOOD]
        del others[at]
        read = [turn["content"] for row in frame["messages"].drop_nulls() for turn in row]
        assert set(others) <= {text.split("\n\n")[0] for text in read}, (before, after)
        assert 0 <= len(frame) - len(elements) <= 1, "the bracket may be a failure by itself"
        assert 1 <= len(failures(frame)) <= 2


CALL = {"id": "c", "type": "function", "function": {"name": "tide", "arguments": "{}"}}
CALLING = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "3.1"},
    {"role": "assistant", "content": "3.1 m."},
]
TOOL = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("at", [0, 2])
def test_a_row_without_its_beginning_or_end_costs_only_itself(at: int, wrapped: bool) -> None:
    asked = [{"role": "user", "content": f"How high is it at {n}?"} for n in range(4)]
    rows = [{"messages": [turn, *CALLING], "tools": [TOOL]} for turn in asked]
    whole = json.dumps(rows[at])
    for cut in range(1, len(whole), 7):
        for part in (whole[cut:], whole[:cut]):
            elements = [json.dumps(row) for row in rows]
            elements[at] = part
            start, end = ('{"data": [', "]}") if wrapped else ("[", "]")
            frame = load((start + ", ".join(elements) + end).encode())
            kept = [turns[0]["content"] for turns in frame["messages"].drop_nulls()]
            assert {turn["content"] for turn in asked if turn != asked[at]} <= {*kept}, part
            assert 4 <= len(frame) <= 6, part


def test_rows_in_two_fields_are_not_read_by_half_in_silence() -> None:
    rows = [{"prompt": f"{n}", "completion": "a"} for n in range(4)]
    frame = load(json.dumps({"train": rows[:3], "test": rows[3:], "tags": [{"a": 1}]}).encode())
    assert failures(frame) == [(1, "more rows are in test: only one list is read")]


def test_lines_of_an_array_are_where_its_elements_begin() -> None:
    rows = [dict(row) for row in GOOD]
    rows[3]["instruction"] = ""
    assert failures(load(json_array(rows))) == [(2 + 3 * 5, "empty instruction")]


def test_an_array_that_is_cut_keeps_its_whole_elements() -> None:
    whole = json_array(GOOD)
    for end in range(2, len(whole), 3):
        frame = load(whole[:end])
        assert len(failures(frame)) == 1
        assert instructions(frame) == [row["instruction"] for row in GOOD[: len(frame) - 1]]
    assert failures(load(whole + b"\n\n")) == []
    assert "more after the end" in failures(load(whole + b"[]"))[0][1]


def test_an_object_around_the_rows_that_is_cut_keeps_its_whole_rows() -> None:
    whole = json.dumps({"version": "1 {[", "data": GOOD, "more": [{"a": 1}]}).encode()
    begins, ends = whole.index(b'[{"instruction') + 3, len(whole)
    for end in range(begins, ends):
        frame = load(whole[:end])
        assert len(failures(frame)) == 1
        assert instructions(frame) == [row["instruction"] for row in GOOD[: len(frame) - 1]]
    assert failures(load(whole)) == failures(load(b"\n" + whole + b"\n")) == []
    assert "more after the end" in failures(load(whole + b"}"))[0][1]
    assert "not closed" in failures(load(whole[:-1]))[0][1]


@pytest.mark.parametrize("compress", [gz, zst])
@pytest.mark.parametrize(
    ("data", "name"),
    [
        (json_lines(GOOD), "p.jsonl"),
        (ARRAY, "p.json"),
        (b"instruction,output\r\n" + b'"a ""b""\n",c\r\nd,e\r\n' * 3, "p.csv"),
    ],
)
def test_torn_compressed_data_fail_once(compress: Any, data: bytes, name: str) -> None:
    whole = compress(data)
    complete = turns(load(data, name=name))
    for end in range(len(whole) - 1, len(whole) // 2, -3):
        frame = load(whole[:end], name=name)
        assert turns(frame) == complete[: len(frame) - 1]
        [(line, error)] = failures(frame)
        assert "compressed data" in error
        assert line >= 1


def test_damaged_compressed_data_keep_what_came_before() -> None:
    rows = [{"prompt": f"{random.Random(n).random()}", "completion": "x"} for n in range(20_000)]
    data = bytearray(gz(json_lines(rows)))
    data[len(data) // 2] ^= 0xFF
    frame = load(bytes(data))
    assert 100 < len(kept(frame)) < 20_000
    assert "compressed data" in failures(frame)[-1][1]


def test_several_members_and_padding() -> None:
    one, two = json_lines(GOOD[:3]), json_lines(GOOD[3:])
    for data in (gz(one) + gz(two), zst(one) + zst(two), gz(one) + gz(two) + b"\0" * 100):
        frame = load(data)
        assert failures(frame) == []
        assert instructions(frame) == [row["instruction"] for row in GOOD]


def test_blank_lines_and_dos_line_ends_are_no_rows() -> None:
    data = b"\xef\xbb\xbf\r\n\r\n" + json_lines(GOOD).replace(b"\n", b"\r\n\r\n  \r\n")
    frame = load(data + b"broken")
    assert len(kept(frame)) == 6
    assert failures(frame)[0][0] == 2 + 3 * 6 + 1


def test_an_escaped_nul_is_text() -> None:
    frame = load(b'{"prompt": "a\\u0000b", "completion": "\\u0000"}')
    assert turns(frame) == [[("user", "a\0b"), ("assistant", "\0")]]


def test_empty_turns_that_say_nothing_are_left_out() -> None:
    inner = [("user", "a"), ("assistant", "b"), ("user", "c")]
    conversation = [("system", ""), *inner, ("assistant", "")]
    frame = load(json_lines([{"messages": [{"role": r, "content": c} for r, c in conversation]}]))
    assert turns(frame) == [inner]


def test_a_csv_row_that_cannot_be_read_costs_only_itself() -> None:
    rows = [
        b"instruction,output",
        b"a,b",
        b'c,"stray',
        b"d,e",
        b"f,g,h",
        b"i",
        b"",
        b'"two\nlines",j',
        b"k,\xff",
        b'l,"m"n',
        b"o,p",
    ]
    frame = load(b"\r\n".join(rows), name="pool.csv")
    assert instructions(frame) == ["a", "d", "two\nlines", "o"]
    failed = failures(frame)
    assert [line for line, _ in failed] == [3, 5, 6, 10, 11]
    assert "invalid CSV" in failed[0][1]
    assert failed[1][1] == "3 cells where the header has 2"
    assert failed[3][1] == "invalid UTF-8"


@pytest.mark.parametrize("name", ["big.jsonl", "big.csv"])
def test_a_row_of_50_megabytes_loads_unchanged(name: str) -> None:
    text = 'αβγ, "quoted"\n' * 3_000_000
    if name.endswith("csv"):
        cell = text.replace('"', '""')
        data = f'prompt,completion\na,b\nlong,"{cell}"\nc,d\n'.encode()
    else:
        rows = [("a", "b"), ("long", text), ("c", "d")]
        dumps = partial(json.dumps, ensure_ascii=False)
        data = "\n".join(dumps({"prompt": p, "completion": c}) for p, c in rows).encode()
    assert len(data) > 50_000_000
    assert turns(load(data, name=name))[1] == [("user", "long"), ("assistant", text)]


def options(path: Path, **more: Any) -> SimpleNamespace:
    return options_of(records, path=(str(path),), **more)


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        (b"", {}, "it is empty"),
        (b"\n \n", {}, "it is empty"),
        (gz(b""), {}, "it is empty"),
        (b'{"chosen": "a", "rejected": "b"}\n', {}, "chosen, rejected"),
        (b'[{"chosen": "a"}]', {}, "the fields chosen"),
        (b"%PDF-1.7 \x00\xff\n" * 50, {}, "no row of any known format"),
        (b"PAR1 but no more", {}, "unreadable Parquet"),
        (ARRAY, {"format": "sharegpt"}, "no row of the format 'sharegpt'"),
        (ARRAY, {"format": "parquet"}, "unreadable Parquet"),
        (ARRAY, {"format": "csv"}, "no row of the format 'csv'"),
        (ARRAY, {"fields": {"output": "answer"}, "format": "lima"}, "no row"),
    ],
)
def test_a_file_of_no_known_format_is_told_before_any_work(
    tmp_path: Path, content: bytes, more: Any, says: str
) -> None:
    path = tmp_path / "pool"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        check(options(path, **more))
    assert says in str(caught.value)
    assert "try:" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [ARRAY, gz(ARRAY), zst(json_lines(GOOD)), b"broken\n" + json_lines(GOOD), ARRAY * 5000],
)
def test_a_good_file_passes_the_check(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pool").write_bytes(content)
    check(options(tmp_path / "pool"))


def test_a_first_row_longer_than_a_megabyte_passes_the_check(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b" * (3 << 20)}]
    for data in (json_lines(rows), gz(json_array(rows))):
        (tmp_path / "pool").write_bytes(data)
        check(options(tmp_path / "pool"))


def test_the_check_does_not_read_on(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "pool.gz", "wb", compresslevel=1) as file:
        for _ in range(50):
            file.write(json_lines(GOOD) * 10_000)
    began = time.process_time()
    check(options(tmp_path / "pool.gz"))
    assert time.process_time() - began < 1


def test_a_file_that_is_not_there_or_forbidden(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        check(options(tmp_path / "missing"))
    with pytest.raises(UserError, match="is a folder"):
        check(options(tmp_path))
    with pytest.raises(UserError, match="path and dataset: exactly one must be given, got neither"):
        check(options_of(records))
    with pytest.raises(UserError, match="path and dataset: exactly one must be given, got both"):
        check(options_of(records, path=("x",), dataset="owner/name"))


@pytest.mark.parametrize(("option", "value"), [("split", "test"), ("revision", "main")])
def test_options_of_a_data_set_are_refused_for_files(option: str, value: str) -> None:
    pool = "data/samples/self_instruct.jsonl.gz"
    basis = {"path": pool, "source": "s", "license": "MIT"}
    assert problems("load.records", **basis) == []
    (problem,) = problems("load.records", **basis, **{option: value})
    assert problem == f"{option} must be left out without `dataset`, got {value!r}"


STARTS = [
    b"",
    b"[",
    b"{",
    b"[{",
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"PAR1",
    b"a,b\n",
    b'{"messages":',
]


@given(
    start=st.sampled_from(STARTS),
    rest=st.binary(max_size=200),
    name=st.sampled_from(["x", "x.csv", "x.json.gz"]),
)
def test_random_bytes_are_rows_or_failures(start: bytes, rest: bytes, name: str) -> None:
    load(start + rest, name=name)


WHOLE = [
    json_lines(GOOD),
    ARRAY,
    gz(ARRAY),
    zst(json_lines(GOOD)),
    b'instruction,output\na,"b"\n' * 9,
]


@given(
    whole=st.sampled_from(WHOLE),
    changes=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5
    ),
    name=st.sampled_from(["x", "x.csv"]),
)
def test_damaged_files_are_rows_or_failures(whole: bytes, changes: Any, name: str) -> None:
    data = bytearray(whole)
    for at, value in changes:
        data[at % len(data)] = value
    load(bytes(data), name=name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "from", "value", "text", "replies", "input", "output"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = ["instruction", "input", "output", "response", "history", "system", "prompt"]
FIELDS += ["completion", "messages", "conversations", "instances", "other"]


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=5), max_size=5))
@example([{"instruction": "a", "output": "b", "history": [[1, 2]]}])
def test_any_values_in_known_fields_are_rows_or_failures(rows: list[Any]) -> None:
    assert len(load(json_lines(rows))) >= len(rows)
