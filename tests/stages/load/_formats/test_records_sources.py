"""What users bring: prompts alone, several completions, flat trees, other encodings and tables."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import OptionError, UserError
from stages.load.records import _check as check
from stages.load.records import records
from tests.support.loading import failures, json_lines, load, turns
from tests.support.options import options_of

NAN = float("nan")


@pytest.mark.parametrize(
    ("data", "name", "options"),
    [
        (b'{"prompt": "Why?"}', "p.jsonl", {}),
        (b'{"instruction": "Why?", "input": ""}', "p.jsonl", {}),
        (b'{"prompt": [{"role": "user", "content": "Why?"}]}', "p.jsonl", {}),
        (b'{"prompt": "Why?", "category": "a", "id": 3}', "p.jsonl", {}),
        (b'{"prompt": "Why?", "answer": "b"}', "p.jsonl", {"format": "prompt"}),
        (b"prompt\nWhy?\n", "p.csv", {}),
        (b"question\nWhy?\n", "p.csv", {"fields": {"prompt": "question"}}),
        (b"Why?\n\n  \n", "p.txt", {"format": "lines"}),
    ],
)
def test_prompts_without_answers(data: bytes, name: str, options: dict[str, Any]) -> None:
    frame = load(data, name=name, **options)
    assert failures(frame) == []
    assert turns(frame) == [[("user", "Why?")]]


@pytest.mark.parametrize(
    "completions",
    [
        ["a", "b"],
        [{"response": "a", "score": 1}, {"response": "b"}],
        [[{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "b"}]],
    ],
)
def test_one_prompt_with_several_completions(completions: list[Any]) -> None:
    rows = [{"prompt": "p", "completions": completions, "n": 1}]
    frame = load(json_lines([*rows, {"instruction": "i", "input": "x", "completions": ["c"]}]))
    expected = [[("user", "p"), ("assistant", answer)] for answer in "ab"]
    assert turns(frame) == [*expected, [("user", "i\n\nx"), ("assistant", "c")]]
    assert frame["input_start"].to_list() == [None, None, 3]
    assert [json.loads(extra).get("n") for extra in frame["extra"]] == [1, 1, None]


def test_a_completion_that_is_no_text_costs_only_itself() -> None:
    frame = load(json_lines([{"prompt": "p", "completion": ["a", 3, "b"]}]))
    assert len(turns(frame)) == 2
    assert failures(frame) == [(1, "completion 2: it is a number, not a text")]


def message(name: str, parent: str | None, **more: Any) -> dict[str, Any]:
    role = more.pop("role", "prompter")
    return {"message_id": name, "parent_id": parent, "role": role, "text": name} | more


def test_flat_trees_give_a_conversation_for_each_leaf_and_account_for_each_message() -> None:
    rows = [
        message("a", None),
        message("b", "a", role="assistant", rank=0),
        message("c", "a", role="assistant"),
        message("d", "b"),
        message("e", "b", deleted=True),
        message("f", "e", role="assistant"),
        message("g", "nowhere"),
        message("h", "i"),
        message("i", "h"),
        message("k", NAN),
    ]
    expected = {
        "c": [("user", "a"), ("assistant", "c")],
        "d": [("user", "a"), ("assistant", "b"), ("user", "d")],
        "k": [("user", "k")],
    }
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        frame = load(json_lines(rows))
        assert len(frame) == len(rows)
        by_name = dict(
            zip([row["message_id"] for row in rows], frame.rows(named=True), strict=True)
        )
        for name, conversation in expected.items():
            got = [(turn["role"], turn["content"]) for turn in by_name[name]["messages"]]
            assert got == conversation
        reasons = {name: row["drop_reason"] for name, row in by_name.items() if row["drop_reason"]}
        assert reasons == {"a": "continued", "b": "continued", "e": "deleted", "f": "deleted"}
        assert json.loads(by_name["a"]["evidence"])["message_id"] == "a"
        assert "not in the source" in by_name["g"]["error"]
        assert "circle" in by_name["h"]["error"]


def test_flat_trees_are_the_conversations_of_nested_ones() -> None:
    path = Path("data/samples/oasst_trees.jsonl.gz")
    nested = load(path)
    rows: list[Any] = []

    def flatten(node: dict[str, Any], parent: str | None) -> None:
        rows.append({**node, "parent_id": parent, "replies": None})
        for reply in node.get("replies") or []:
            flatten(reply, node["message_id"])

    for line in pl.read_ndjson(path, infer_schema_length=None)["prompt"].to_list():
        flatten(line, None)
    random.Random(0).shuffle(rows)
    flat = load(json_lines(rows))
    assert len(flat) == len(rows)
    assert set(flat["id"].drop_nulls()) == set(nested["id"].drop_nulls())


def test_missing_values_are_null_or_nan() -> None:
    turn = {"from": "human", "value": "q"}
    rows = [
        {"conversations": [turn, {"from": "gpt", "value": None}]},
        {"conversations": [{"from": "system", "value": NAN}, turn | {"value": "r"}]},
        {"system": None, "conversations": [turn | {"value": "s"}]},
        {"instruction": "t", "input": NAN, "output": "u", "history": NAN, "score": NAN},
        {"instruction": "t", "input": "", "output": NAN, "response": "v"},
        {"instruction": "t", "output": NAN},
        {"instruction": NAN, "output": "b"},
    ]
    frame = load(json_lines(rows))
    assert [conversation[0][1] for conversation in turns(frame)] == ["q", "r", "s", "t", "t"]
    assert [line for line, _ in failures(frame)] == [6, 7]


def test_a_row_may_be_a_bare_list_of_turns() -> None:
    rows = [[{"from": "human", "value": n}, {"from": "gpt", "value": "b"}] for n in "xyz"]
    for data in (json.dumps(rows).encode(), json_lines(rows)):
        frame = load(data)
        assert [conversation[0][1] for conversation in turns(frame)] == list("xyz")


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (json.dumps([{"prompt": "a"}]).encode("utf-16"), "p.json", "UTF-16"),
        (json.dumps([{"prompt": "a"}]).encode("utf-16-le"), "p.json", "UTF-16"),
        ("prompt,completion\na,b\n".encode("utf-16-be"), "p.csv", "UTF-16"),
        (b"instruction;input;output\na;b;c\n", "p.csv", "delimiter: ';'"),
        (b'"instruction"|"output"\n"a"|"b"\n', "p.csv", "delimiter: '|'"),
        (b'{"instruction": "a", "output": "b"},\n' * 3, "p.jsonl", "a comma behind the row"),
        (b"PK\x03\x04" + b"\0" * 99, "p.xlsx", "ZIP"),
    ],
)
def test_the_message_names_the_trouble(tmp_path: Path, data: bytes, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        check(options_of(records, path=(str(tmp_path / name),)))
    assert says in str(caught.value)
    assert all(says in error for _, error in failures(load(data, name=name)))


def test_a_table_may_have_another_delimiter() -> None:
    frame = load(b'prompt;completion\n"a;b";c\n', name="p.csv", delimiter=";")
    assert turns(frame) == [[("user", "a;b"), ("assistant", "c")]]


def test_accepted_failures_are_dropped_and_new_ones_fail(tmp_path: Path) -> None:
    good = json_lines([{"prompt": "a", "completion": "b"}])
    data, name = good + b"broken\n{}\n", "p.jsonl"
    failed = load(data, name=name).filter(pl.col("error").is_not_null())
    accepted = tmp_path / "accepted.jsonl"
    failed.select("id", "file", "line", "error").write_ndjson(accepted)
    frame = load(data, name=name, accepted=(str(accepted),))
    assert failures(frame) == []
    assert frame["drop_reason"].to_list() == [None, "accepted", "accepted"]
    assert json.loads(frame["evidence"][1]) == failed.select("file", "line", "error").row(
        0, named=True
    )
    again = load(b"{}\n" + data, name=name, accepted=(str(accepted),))
    assert [line for line, _ in failures(again)] == [1, 3, 4]


def test_a_list_of_accepted_rows_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"line": 3}')
    with pytest.raises(OptionError, match="cat RECIPE STAGE --failed"):
        load(b"x", accepted=(str(tmp_path / "a.jsonl"),))
