"""Rows that need not fit into memory are, in parts, what they are as a whole."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.execution.workers import _Feed
from pipeline.parts import in_parts
from pipeline.store.hashing import ColumnDigest, column_digest
from pipeline.store.parquet import ROW_GROUP, TableWriter, read_parts, to_arrow, write_frame
from pipeline.store.row_cache import KEY, RowCache
from pipeline.store.row_view import _LayerReader
from pipeline.store.sorting import SortedRows
from stages.load._rows.merging import merge_duplicates

IDS = st.lists(st.one_of(st.none(), st.text("abc", min_size=1, max_size=3)), max_size=40)


def turns(values: list[str | None]) -> pl.Series:
    nested = [None if v is None else [{"role": v, "calls": [v, ""]}] * (len(v) - 1) for v in values]
    kind = pl.List(pl.Struct({"role": pl.String, "calls": pl.List(pl.String)}))
    return pl.Series("turns", nested, dtype=kind)


@settings(deadline=None)
@given(IDS, st.integers(1, 7))
def test_a_column_has_one_digest_however_it_comes(values: list[str | None], size: int) -> None:
    for column in (turns(values), pl.Series(values, dtype=pl.String)):
        parts = ColumnDigest(column.dtype)
        for start in range(0, len(column), size):
            parts.update(column.slice(start, size))
        assert parts.hexdigest() == column_digest(column)


@settings(deadline=None)
@given(IDS, st.integers(1, 7), st.sampled_from([0, 100, 1 << 20]))
def test_rows_on_the_disk_are_sorted_as_a_frame_is(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str | None], size: int, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    rows = pl.DataFrame({"id": pl.Series(ids, dtype=pl.String), "turns": turns(ids)})
    rows = rows.with_row_index("position")
    by_id = SortedRows(folder, limit)
    for part in in_parts(rows, size):
        by_id.add(part)
    assert pl.concat(by_id.parts()).equals(rows.sort("id", maintain_order=True))
    assert not list(folder.iterdir())


def test_a_file_has_the_same_bytes_wherever_its_parts_end(tmp_path: Path) -> None:
    rows = pl.DataFrame({"id": [f"{n:05}" for n in range(2 * ROW_GROUP + 5)]})
    write_frame(tmp_path / "whole", rows)
    table = to_arrow(rows)
    with TableWriter(tmp_path / "parts", table.schema) as writer:
        for start in range(0, len(rows), 5_000):
            writer.add(table.slice(start, 5_000))
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()
    assert pl.concat(read_parts(tmp_path / "whole", ["id"])).equals(rows)


@given(st.lists(st.integers(0, 200), unique=True, min_size=1), st.data())
def test_a_layer_is_read_beside_the_rows_that_remain(
    numbers: list[int], data: st.DataObject
) -> None:
    ids = pl.Series(sorted(f"{n:03}" for n in numbers))
    layer = pl.DataFrame({"id": ids, "x": ids + "x"})
    kept = ids.filter(
        pl.Series(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    )
    reader = _LayerReader(iter(layer.iter_slices(3)), filters=True)
    parts = [reader.take(part["id"]) for part in kept.to_frame("id").iter_slices(4)]
    assert [x for part in parts for x in part["x"]] == [f"{id}x" for id in kept]


def test_cached_rows_come_in_the_order_of_their_keys(tmp_path: Path) -> None:
    cache = RowCache(tmp_path)
    for start in range(0, 3 * ROW_GROUP, ROW_GROUP + 7):
        keys = [str(n) for n in range(start, start + ROW_GROUP + 7)]
        cache.add(pl.DataFrame({KEY: keys, "x": keys}))
    keys = pl.Series(["40000", "3", "20001", "16384"])
    for opened in (cache, RowCache(tmp_path)):
        assert opened.knows(pl.Series(["3", "x"])).to_list() == [True, False]
        assert opened.rows(keys)["x"].to_list() == keys.to_list()


def test_chunks_hold_no_more_than_they_may() -> None:
    rows = pl.DataFrame({"id": [str(n) for n in range(100)], "text": ["x" * 100] * 100})
    feed = _Feed(rows.iter_slices(30), limit=1_000)
    chunks = []
    while len(chunk := feed.take(64)):
        chunks.append(chunk)
    assert pl.concat(chunks).equals(rows)
    assert max(map(len, chunks)) < 12
    assert len(_Feed([rows], limit=1).take(5)) == 1


def test_equal_rows_are_merged_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pl.DataFrame({"id": [*"abcab", None, *"cd"]})
    whole = pl.concat(merge_duplicates([rows], "web", "MIT", tmp_path))
    assert whole["origins"].list.len().to_list() == [2, 2, 2, 1, 1, None, 1, 1]
    monkeypatch.setattr("stages.load._rows.merging._PART_BYTES", 0)
    parts = list(merge_duplicates(rows.iter_slices(2), "web", "MIT", tmp_path))
    assert len(parts) == 4
    assert pl.concat(parts).equals(whole)
    assert not list(tmp_path.iterdir())
