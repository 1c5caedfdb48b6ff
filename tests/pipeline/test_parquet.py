"""One table, one sequence of bytes, however it lies in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.store.parquet import (
    ROW_GROUP,
    column_names,
    read_frame,
    to_arrow,
    write_frame,
    write_table,
)


def frame(rows: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"{i:06}" for i in range(rows)],
            "messages": [[{"role": "user", "content": "ä" * (i % 7)}] for i in range(rows)],
            "vector": [[i / 3, None] if i % 5 else None for i in range(rows)],
            "some": pl.Series([None if i % 3 else i for i in range(rows)], dtype=pl.Int32),
            "both": [{"a": i, "b": None if i % 2 else "x"} for i in range(rows)],
        },
        schema_overrides={"vector": pl.List(pl.Float32)},
    )


def chopped(table: pl.DataFrame) -> pl.DataFrame:
    cuts = [0, 1, 5, ROW_GROUP - 3, ROW_GROUP + 1, len(table)]
    cuts = [c for c in cuts if c <= len(table)]
    parts = [table[a:b] for a, b in itertools.pairwise(cuts)]
    return pl.concat(parts, rechunk=False)


LAYOUTS: list[Callable[[pl.DataFrame], pl.DataFrame]] = [
    chopped,
    lambda t: pl.concat([t, t]).slice(len(t), len(t)),
    lambda t: t.sort("id", descending=True).sort("id"),
    lambda t: t.filter(pl.lit(True)).rechunk(),
    lambda t: pl.DataFrame(t.to_arrow()),
]


@pytest.mark.parametrize("rows", [0, 1, 3 * ROW_GROUP // 2])
@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_bytes_do_not_depend_on_chunks(tmp_path: Path, rows: int, layout: int) -> None:
    table = frame(3 * ROW_GROUP // 2)[:rows]
    if rows < 10 and layout == 0:
        pytest.skip("nothing to cut")
    write_frame(tmp_path / "a", table)
    write_frame(tmp_path / "b", LAYOUTS[layout](table))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_frame(tmp_path / "a").equals(table)
    assert pq.ParquetFile(tmp_path / "a").metadata.num_rows == rows


def test_bytes_do_not_depend_on_the_kind_of_arrow_texts(tmp_path: Path) -> None:
    texts = ["a", None, "", "long " * 30] * 10
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        table = pl.DataFrame(pl.Series("x", pa.array(texts, kind)))
        write_frame(tmp_path / str(kind), table)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert pq.read_schema(tmp_path / "string").field("x").type == pa.string()


def test_types_are_plain_and_nothing_else_is_stored(tmp_path: Path) -> None:
    table = to_arrow(frame(5))
    assert table.schema.field("messages").type == pa.list_(
        pa.struct([("role", pa.string()), ("content", pa.string())])
    )
    write_table(tmp_path / "a", table.replace_schema_metadata({"when": "now"}))
    assert pq.read_schema(tmp_path / "a").metadata is None
    assert column_names(tmp_path / "a") == ["id", "messages", "vector", "some", "both"]


def test_rows_are_read_in_the_order_of_the_files(tmp_path: Path) -> None:
    table = frame(10)
    write_frame(tmp_path / "a", table[:4])
    write_frame(tmp_path / "b", table[4:])
    assert read_frame([tmp_path / "b", tmp_path / "a"], ["some", "id"])["id"].to_list() == [
        *table["id"][4:],
        *table["id"][:4],
    ]


@pytest.mark.proof
def test_texts_of_more_than_two_gibibytes(tmp_path: Path) -> None:
    rows, size = 70_000, 32_768
    letters = np.random.default_rng(0).integers(97, 123, size, dtype=np.uint8)
    text = letters.tobytes().decode()
    table = pl.DataFrame({"id": range(rows)}).select(
        "id", (pl.lit(text) + pl.col("id").cast(pl.String)).alias("text")
    )
    assert table["text"].str.len_bytes().sum() > 2**31
    write_frame(tmp_path / "a", table)
    read = pl.scan_parquet(tmp_path / "a").select(pl.col("text").str.len_bytes().sum()).collect()
    assert read.item() == table["text"].str.len_bytes().sum()
