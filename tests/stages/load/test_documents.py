"""Documents: rows with a text, and files that are one."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from schemas.records import digest
from stages.load.documents import _check as check
from stages.load.documents import documents
from tests.conftest import ROOT
from tests.support.loading import assert_accounted, failures, gz, json_array, json_lines, zst
from tests.support.options import options_of

BOOK = ROOT / "data/samples/rust_book.jsonl.gz"
ROWS = [{"text": f"text {n}", "title": f"title {n}", "n": n} for n in range(5)]


def load(ctx: Context, *contents: bytes, name: str = "texts", **options: Any) -> pl.DataFrame:
    paths = []
    for number, content in enumerate(contents):
        path = ctx.work / f"{number}-{name}"
        path.write_bytes(content)
        paths.append(str(path))
    frame = documents(ctx, path=tuple(paths), source="here", license="CC0-1.0", **options)
    assert_accounted(frame)
    return frame


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(rows).write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (json_lines(ROWS), "t.jsonl"),
        (gz(json_array(ROWS)), "t.json"),
        (zst(as_csv(ROWS)), "t.csv.zst"),
        (as_parquet(ROWS), "t"),
    ],
)
def test_every_container(ctx: Context, data: bytes, name: str) -> None:
    frame = load(ctx, data, name=name)
    assert frame.select("text", "title").rows() == [(r["text"], r["title"]) for r in ROWS]
    assert [int(json.loads(extra)["n"]) for extra in frame["extra"]] == list(range(5))
    assert frame["origins"].list.first().struct.field("index").to_list() == list(range(5))


@given(texts=st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_id_is_the_digest_of_the_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    ctx = Context.scratch(tmp_path_factory.mktemp("ctx"))
    frame = load(ctx, json_lines([{"text": text} for text in texts]))
    assert frame["text"].to_list() == texts
    assert frame["id"].to_list() == [digest(text) for text in texts]


def test_prose_files_are_one_document_each(ctx: Context) -> None:
    frame = load(ctx, b"\xef\xbb\xbf[Not](json)\r\n{at all}\n", gz(b"two"), name="notes.md")
    assert frame.select("text", "title").rows() == [
        ("[Not](json)\r\n{at all}\n", "0-notes.md"),
        ("two", "1-notes.md"),
    ]
    [(line, reason)] = failures(load(ctx, b"good", b"b\xffd", name="notes.txt"))
    assert line == 1
    assert "invalid UTF-8" in reason
    assert "compressed data" in failures(load(ctx, gz(b"text" * 99)[:-9], name="a.txt"))[0][1]


def test_equal_texts_are_one_document(ctx: Context) -> None:
    frame = load(ctx, json_lines([{"text": "a", "title": "x"}, {"text": "a"}, {"text": "b"}]))
    assert frame["drop_reason"].to_list() == [None, "duplicate", None]
    assert [o["index"] for o in frame["origins"][0].to_list()] == [0, 1]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"text": ""}', "empty text"),
        (b'{"title": "a"}', "missing field 'text'"),
        (b'{"text": 3}', "'text' is no text"),
        (b'{"text": "a", "title": []}', "'title' is no text"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b'{"text": "a", "title": "\\ud800"}', "lone surrogate"),
        (b"[1]", "a row must be an object"),
        (b"{", "invalid JSON"),
    ],
)
def test_a_bad_row_costs_only_itself(ctx: Context, row: bytes, reason: str) -> None:
    frame = load(ctx, json_lines(ROWS[:1]) + row + b"\n" + json_lines(ROWS[1:]), name="t.jsonl")
    assert frame["text"].drop_nulls().len() == 5
    [(line, error)] = failures(frame)
    assert line == 2
    assert reason in error


@given(st.sampled_from([b"", b"{", b"[{", b"PAR1", b"text,title\n"]), st.binary(max_size=99))
def test_random_bytes_are_rows_or_failures(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes
) -> None:
    ctx = Context.scratch(tmp_path_factory.mktemp("ctx"))
    load(ctx, start + rest)
    load(ctx, start + rest, name="a.txt")


def test_the_book(ctx: Context) -> None:
    frame = documents(ctx, path=(str(BOOK),), source="rust-book", license="MIT")
    assert len(frame) == 107
    assert frame["error"].is_null().all()
    assert frame["text"].str.len_bytes().sum() > 1_000_000


def test_fields_are_renamed(ctx: Context) -> None:
    rows = json_lines([{"body": "a", "head": "b", "text": "c"}])
    frame = load(ctx, rows, fields={"text": "body", "title": "head"})
    assert frame.select("text", "title", "extra").row(0) == ("a", "b", '{"text": "c"}')


def options(path: Path, **more: Any) -> SimpleNamespace:
    return options_of(documents, path=(str(path),), **more)


def test_a_file_without_texts_is_reported_before_any_work(tmp_path: Path) -> None:
    check(options(BOOK))
    (tmp_path / "rows").write_bytes(json_lines([{"body": "a"}]))
    check(options(tmp_path / "rows", fields={"text": "body"}))
    with pytest.raises(UserError, match="holds no row with a text") as caught:
        check(options(tmp_path / "rows"))
    assert "the fields body" in str(caught.value)
    (tmp_path / "rows").write_bytes(b"")
    with pytest.raises(UserError, match="it is empty"):
        check(options(tmp_path / "rows"))
