"""Rows as JSON: nothing is lost, and no turn shows a field that it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from pipeline.execution.json_rows import json_lines
from pipeline.execution.save_rows import save
from schemas.records import RECORD_COLUMNS, canonical_turns, record_id
from tests.support.rows import frame, record, self_instruct
from tests.support.tool_rows import CONVERSATION, call, tool_record


def lines(rows: pl.DataFrame) -> list[dict]:
    return [json.loads(line) for line in "".join(json_lines(rows)).splitlines()]


def test_turns_have_the_fields_that_they_have() -> None:
    turns = [*CONVERSATION, {"role": "assistant", "content": None, "tool_calls": [call("f", "{}")]}]
    rows = frame([tool_record(turns, "[]"), record("Why?", "So.")])
    for row, (messages, *_) in zip(lines(rows), rows.select("messages").iter_rows(), strict=True):
        assert record_id(row["messages"], row["tools"]) == row["id"]
        assert row.keys() == {*rows.columns}
        shown = [{k: v for k, v in turn.items() if v is not None} for turn in row["messages"]]
        assert shown == canonical_turns(messages)
        assert all({"role", "content"} <= turn.keys() for turn in row["messages"])


def test_plain_rows_are_written_as_they_were_before_there_were_more_fields() -> None:
    rows = self_instruct(300)
    plain = rows["messages"].list.eval(
        pl.struct(pl.element().struct.field(name) for name in ("role", "content"))
    )
    assert "".join(json_lines(rows)) == rows.with_columns(plain).write_ndjson()


def test_rows_that_hold_no_turns_are_as_they_are(tmp_path: Path) -> None:
    rows = pl.DataFrame({"id": ["a", "b"], "texts": [[{"name": "q", "text": None}], None]})
    assert "".join(json_lines(rows)) == rows.write_ndjson()
    save(rows[:0], str(tmp_path / "none.jsonl"))
    assert (tmp_path / "none.jsonl").read_text() == ""


def test_what_is_written_can_be_read_as_records(tmp_path: Path) -> None:
    rows = frame([tool_record(CONVERSATION, "[]"), record("Why?", "So.")])
    save(rows, str(tmp_path / "rows.jsonl"))
    again = pl.read_ndjson(tmp_path / "rows.jsonl", schema=RECORD_COLUMNS)
    assert again.equals(rows)


def test_line_ends_of_other_alphabets_are_texts() -> None:
    """A row with calls among them is encoded once more, line by line."""
    content = "one\u2028two\x85three\x0bfour\r\nfive"
    rows = frame([tool_record(CONVERSATION, "[]"), record(content, content)])
    lines = "".join(json_lines(rows)).split("\n")[:-1]
    (plain,) = [row for row in map(json.loads, lines) if len(row["messages"]) == 2]
    assert [turn["content"] for turn in plain["messages"]] == [content, content]
