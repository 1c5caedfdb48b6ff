"""What expands or never ends: bounded memory, and the rows around it are loaded."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.errors import UserError
from stages.load._files.stream import ROW_LIMIT, Stream
from stages.load._files.tables import delimited
from stages.load.records import _check as check
from stages.load.records import records
from tests.conftest import ROOT
from tests.support.loading import failures, gz, json_lines, load, turns
from tests.support.options import options_of

FIRST, LAST = (b'{"prompt": "%s", "completion": "So."}' % name for name in (b"Why?", b"How?"))
PIECE = 1 << 20


def lines_around(row: list[bytes]) -> Iterator[bytes]:
    yield FIRST + b"\n"
    yield from row
    yield b"\n" + LAST + b"\n"


def array_around(row: list[bytes]) -> Iterator[bytes]:
    yield b"[" + FIRST + b", "
    yield from row
    yield b", " + LAST + b"]"


def csv_around(row: list[bytes]) -> Iterator[bytes]:
    yield b"prompt,completion\nWhy?,So.\n"
    yield from row
    yield b"\nHow?,So.\n"


def long_text(size: int) -> list[bytes]:
    return [b'{"prompt": "', *[b"a" * PIECE] * (size // PIECE), b'"}']


def long_cell(size: int) -> list[bytes]:
    return [b'"', *[b"a" * PIECE] * (size // PIECE), b'",b']


def many_values(size: int) -> list[bytes]:
    return [b'{"prompt": [', *[b'{"b":1},' * (PIECE // 8)] * (size // PIECE), b"0]}"]


def gzipped(pieces: Iterator[bytes]) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([*map(packer.compress, pieces), packer.flush()])


def zstandarded(pieces: Iterator[bytes]) -> bytes:
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join([*map(packer.compress, pieces), packer.flush()])


CASES = {
    "lines": (lines_around, long_text, "longer than 64 MiB", "p.jsonl"),
    "array": (array_around, long_text, "longer than 64 MiB", "p.json"),
    "csv": (csv_around, long_cell, "longer than 64 MiB", "p.csv"),
    "values": (lines_around, many_values, "4,000,000 values", "p.jsonl"),
    "values of an array": (array_around, many_values, "4,000,000 values", "p.json"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_row_too_long_fails_by_itself(case: str) -> None:
    around, row, why, name = CASES[case]
    size = ROW_LIMIT // 2 if "values" in case else ROW_LIMIT + 3 * PIECE
    frame = load(zstandarded(around(row(size))), name=name)
    assert [conversation[0][1] for conversation in turns(frame)] == ["Why?", "How?"]
    [(line, error)] = failures(frame)
    assert line == (1 if around is array_around else 3 if around is csv_around else 2)
    assert why in error


HEADER = b"prompt,completion\nWhy?,So.\n"
REST_OF_CELLS = [b'",b\n', b'","b\nc"\n', b'"\n', b'",b']


@pytest.mark.parametrize(
    "piece",
    [b"\n" * 64, b"\r\n" * 32, b"a\n" * 32, b'""\n\n' * 16, b'""' * 32, b"a" * 63 + b"\n"],
    ids=["line breaks", "CRLF", "short lines", "quotes and line breaks", "quotes", "lines"],
)
@pytest.mark.parametrize("end", REST_OF_CELLS, ids=["ends", "goes on", "is all", "ends the file"])
def test_a_cell_of_line_breaks_without_end_is_one_row(piece: bytes, end: bytes) -> None:
    cell = [b'"', *[piece * (PIECE // len(piece))] * 70, end]
    behind = b"" if not end.endswith(b"\n") else b"How?,So.\n"
    began = time.perf_counter()
    frame = load(zstandarded(iter([HEADER, *cell, behind])), name="p.csv")
    assert time.perf_counter() - began < 20
    assert [conversation[0][1] for conversation in turns(frame)] == ["Why?", "How?"][
        : 1 + bool(behind)
    ]
    assert failures(frame) == [(3, "the row is longer than 64 MiB")]


def test_the_lines_behind_a_long_cell_are_counted() -> None:
    cell = [b'"', *[b"a\n" * (PIECE // 2)] * 66, b'",b\n"so\n']
    frame = load(zstandarded(iter([HEADER, *cell, b"How?,So.\n"])), name="p.csv")
    lines_of_cell = 66 * PIECE // 2 + 1
    [_, (line, error)] = failures(frame)
    assert line == 3 + lines_of_cell
    assert error.startswith("invalid CSV")


@pytest.mark.parametrize("start", [b'"stray,b\n', b'"' + b"long " * (14 * PIECE) + b",b\n"])
def test_rows_that_a_stray_quote_swallows_are_read(start: bytes, tmp_path: Path) -> None:
    rows = b"".join(b"row %d,b\n" % n for n in range(100_000)) * 60
    path = tmp_path / "p.csv"
    path.write_bytes(HEADER + start + rows)
    assert len(rows) > ROW_LIMIT
    read = list(islice(delimited(Stream(path), ",", None, frozenset()), 4))
    assert [(line, row and row["prompt"]) for line, row, _ in read] == [
        (2, "Why?"), (3, None), (4, "row 0"), (5, "row 1")
    ]  # fmt: skip


def test_blank_lines_between_rows_take_no_time() -> None:
    began = time.perf_counter()
    blank = [b"\n" * (PIECE // 2) + b"\r\n" * (PIECE // 2)] * 100
    frame = load(zstandarded(iter([b"\n\r\n", HEADER, *blank, b"How?,So.\n,,\n"])), name="p.csv")
    assert time.perf_counter() - began < 10
    assert [conversation[0][1] for conversation in turns(frame)] == ["Why?", "How?"]
    assert [line for line, _ in failures(frame)] == [100 * PIECE + 6]


@pytest.mark.proof
@pytest.mark.parametrize("pack", [gzipped, zstandarded])
@pytest.mark.parametrize("case", CASES)
def test_a_bomb_is_loaded_in_a_gigabyte(case: str, pack: Any, tmp_path: Path) -> None:
    around, row, _, name = CASES[case]
    path = tmp_path / name
    path.write_bytes(pack(around(row(400 * PIECE))))
    code = (
        "import sys; from pathlib import Path; import polars as pl\n"
        "from pipeline.execution.peak_memory import peak_memory\n"
        "from pipeline.context import Context; from stages.load.records import records\n"
        "frame = pl.concat(records(Context.scratch(Path(sys.argv[1])), path=(sys.argv[2],), "
        "source='s', license='l'))\n"
        "assert len(frame) == 3\n"
        "print(peak_memory())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "ctx"), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1 << 30


def parquet_of(columns: dict[str, Any], **how: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **how)
    return buffer.getvalue()


def test_a_parquet_column_that_expands_is_refused_at_once(tmp_path: Path) -> None:
    texts = ["a" * PIECE] * 40
    data = parquet_of({"prompt": texts}, compression="zstd", use_dictionary=False)
    (tmp_path / "p.parquet").write_bytes(data)
    with pytest.raises(UserError, match="expands to") as caught:
        check(options_of(records, path=(str(tmp_path / "p.parquet"),)))
    assert "times its size" in str(caught.value)
    assert len(failures(load(data, name="p.parquet"))) == 40


def test_a_row_group_that_cannot_be_read_costs_its_rows_alone() -> None:
    names = [f"row {n} " + "x" * 50 for n in range(30)]
    data = bytearray(
        parquet_of({"prompt": names}, row_group_size=10, compression="none", use_dictionary=False)
    )
    group = pq.ParquetFile(pa.BufferReader(bytes(data))).metadata.row_group(1).column(0)
    data[group.data_page_offset : group.data_page_offset + 8] = b"\xff" * 8
    frame = load(bytes(data), name="p.parquet")
    assert [line for line, _ in failures(frame)] == list(range(11, 21))
    assert [t[0][1] for t in turns(frame)] == names[:10] + names[20:]


def test_what_follows_compressed_data_is_not_passed_over() -> None:
    good = json_lines([{"prompt": "a", "completion": "b"}])
    for behind in (good, b"\0\0" + gz(good), b"xx" + gz(good)):
        frame = load(gz(good) + behind, name="p.jsonl.gz")
        assert len(turns(frame)) == 1
        assert "follows the compressed data" in failures(frame)[0][1]


def test_frames_without_data_are_passed_over() -> None:
    good = json_lines([{"prompt": "a", "completion": "b"}])
    empty = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    pack = zstandard.ZstdCompressor().compress
    frame = load(empty + pack(good) + empty + pack(good.replace(b"a", b"c")), name="p.zst")
    assert failures(frame) == []
    assert len(turns(frame)) == 2
