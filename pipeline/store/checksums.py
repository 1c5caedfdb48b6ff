"""Checksums of the parts of Parquet files, so that a reader checks what it reads and no more.

A projection reads the footer and, of each row group, the chunks of its columns. Each of
these parts, and whatever lies between them, has a checksum of its own: `checksums.json`
beside the files, which the manifest covers by a sha256. XXH3 with 128 bits finds damage at
the speed of memory; that nobody forged a file is for the sha256 of the whole file, which
`verify` reads.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow.parquet as pq
from xxhash import xxh3_128

from pipeline.store.files import DamagedFile

CHECKSUMS: Final = "checksums.json"
_BLOCK: Final = 1 << 20


class Part(NamedTuple):
    """Adjacent bytes of a Parquet file.

    Attributes:
        column: The column whose values they are; None for what every reader reads.
        start: Position of the first byte.
        size: The number of bytes.
        checksum: XXH3 of them, 32 hex digits.
    """

    column: str | None
    start: int
    size: int
    checksum: str


def write_checksums(folder: Path) -> None:
    """Write the checksums of the Parquet files of a folder beside them, if there are any."""
    parts = {path.name: list(_parts(path)) for path in sorted(folder.glob("*.parquet"))}
    if parts:
        (folder / CHECKSUMS).write_text(json.dumps(parts, separators=(",", ":")), "utf-8")


def read_checksums(folder: Path) -> dict[str, list[Part]]:
    """The parts of each Parquet file of a folder; the bytes that hold them must be verified."""
    raw: dict[str, list[Any]] = json.loads((folder / CHECKSUMS).read_bytes())
    return {name: [Part(*part) for part in parts] for name, parts in raw.items()}


def verify_parts(path: Path, parts: Sequence[Part], columns: Collection[str | None]) -> None:
    """Check the parts of a file that hold some columns.

    Args:
        path: The file.
        parts: All parts of it.
        columns: Columns; None among them stands for what every reader reads.

    Raises:
        DamagedFile: Some bytes are not those that were written.
    """
    with path.open("rb") as file:
        for column, start, size, checksum in parts:
            if column in columns and _checksum(file, start, size) != checksum:
                place = "its footer" if column is None else f"its column {column!r}"
                raise DamagedFile(path, f"the bytes of {place} are not those that were written")


def _parts(path: Path) -> Iterator[Part]:
    """The parts of a file in order, each byte in exactly one."""
    end = 0
    with path.open("rb") as file:
        for column, start, size in [*_chunks(path), (None, path.stat().st_size, 0)]:
            if start > end:
                yield Part(None, end, start - end, _checksum(file, end, start - end))
            if size:
                yield Part(column, start, size, _checksum(file, start, size))
            end = start + size


def _chunks(path: Path) -> list[tuple[str | None, int, int]]:
    """Column, start and size of each column chunk, in the order of the bytes."""
    metadata = pq.read_metadata(path)
    names = [
        field.name for field in metadata.schema.to_arrow_schema() for _ in range(_leaves(field))
    ]
    chunks: list[tuple[str | None, int, int]] = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for name, chunk in zip(names, map(group.column, range(len(names))), strict=True):
            # A chunk without rows has a dictionary and no data: then the latter's offset is 0.
            offsets = (chunk.data_page_offset, chunk.dictionary_page_offset)
            start = min(filter(None, offsets), default=0)
            chunks.append((name, start, chunk.total_compressed_size))
    return sorted(chunks, key=lambda chunk: chunk[1])


def _leaves(field: Any) -> int:
    """How many columns Parquet makes of a field: one for each innermost value of its type."""
    dtype = field.type
    return sum(_leaves(dtype.field(i)) for i in range(dtype.num_fields)) or 1


def _checksum(file: Any, start: int, size: int) -> str:
    state = xxh3_128()
    file.seek(start)
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        state.update(block)
        size -= len(block)
    return state.hexdigest()
