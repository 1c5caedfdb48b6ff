"""The bytes of a file: decompressed in blocks, and how they hold rows.

Compression is recognized by the first bytes and not by the name. Data that end early
raise nothing: what comes before is read, and `Stream.cut` says why no more follows.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from pipeline.errors import UserError

Container = Literal["jsonl", "json", "csv", "tsv", "parquet", "text"]
"""How a file holds its rows; a `text` is one row by itself."""

HEAD: Final = 1 << 20
"""How much of a file is examined before any work: one megabyte, decompressed."""

_STRING: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_SCALAR: Final = rf'(?:{_STRING}|[^\s"\[\]{{}},]+)'

WRAPPED: Final = re.compile(
    rf'\s*\{{\s*(?:{_STRING}\s*:\s*{_SCALAR}\s*,\s*)*"data"\s*:\s*\[(?=\s*\{{)'
)
"""The start of one JSON object whose field `data` holds the rows: {"version": 1, "data": [{...

The field is called so by convention (`datasets` reads it with `field="data"`)."""

_BLOCK: Final = 1 << 16
_BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PARQUET: Final = b"PAR1"


class Stream:
    """The decompressed bytes of a file, in blocks, without a byte-order mark.

    Args:
        path: The file.
        limit: Stop after about this many bytes.

    Attributes:
        cut: After the last block, why the data ended early; None if they did not.
        complete: After the last block, whether the limit left nothing unread.
        read: Bytes of the file itself that have been read.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.path, self.limit = path, limit
        self.cut: str | None = None
        self.complete = False
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for block in self._unmarked():
            size += len(block)
            yield block
            if self.limit is not None and size >= self.limit:
                return
        self.complete = True

    def _unmarked(self) -> Iterator[bytes]:
        start = b""
        blocks = self._decompressed()
        for block in blocks:
            start += block
            if len(start) >= len(_BOM):
                break
        yield start.removeprefix(_BOM)
        yield from blocks

    def _decompressed(self) -> Iterator[bytes]:
        raw = self._raw()
        first = next(raw, b"")
        magic = next((m for m in (_GZIP, _ZSTD) if first.startswith(m)), None)
        if magic:
            yield from self._members(first, raw, magic)
        else:
            yield first
            yield from raw

    def _raw(self) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            while block := file.read(_BLOCK):
                self.read += len(block)
                yield block

    def _members(self, block: bytes, raw: Iterator[bytes], magic: bytes) -> Iterator[bytes]:
        """The members (frames) of a compressed file, one after the other."""
        import zstandard

        member = _decompressor(magic)
        while True:
            try:
                yield member.decompress(block)
            except (zlib.error, zstandard.ZstdError) as error:
                self.cut = f"the compressed data are damaged from here on ({error})"
                return
            rest = member.unused_data if member.eof else b""
            following = next(raw, None) if len(rest) < len(magic) else b""
            if following is None:
                break
            block = rest + following
            if member.eof:
                if not block.startswith(magic):
                    return  # padding behind the last member, which gzip itself ignores
                member = _decompressor(magic)
        if not member.eof:
            self.cut = "the compressed data end early; what followed is lost"


def _decompressor(magic: bytes) -> Any:
    import zstandard

    if magic == _GZIP:
        return zlib.decompressobj(wbits=31)
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


def head(path: Path) -> tuple[bytes, bool]:
    """The first megabyte of a file, decompressed, and whether that is all of it.

    Raises:
        UserError: The file cannot be read at all.
    """
    stream = Stream(path, HEAD)
    try:
        return b"".join(stream), stream.complete
    except OSError as error:
        raise UserError(
            f"cannot read {path.name!r}",
            why=error.strerror,
            hint=f"check the path and its permissions: {path}",
        ) from None


def lines(stream: Stream) -> Iterator[bytes]:
    """Lines without their newline; a last line that has none comes after `cut` is set."""
    pieces: list[bytes] = []
    for block in stream:
        first, *others = block.split(b"\n")
        pieces.append(first)
        for other in others:
            yield b"".join(pieces)
            pieces = [other]
    if rest := b"".join(pieces):
        yield rest


def container(path: Path, start: bytes) -> Container:
    """How a file holds its rows, from the start of its data; its name decides on CSV and TSV only.

    >>> container(Path("pool"), b'[{"prompt": "Why?"')
    'json'
    """
    if start.startswith(_PARQUET):
        return "parquet"
    suffix = Path(re.sub(r"\.(gz|zst)$", "", path.name)).suffix
    if suffix in (".csv", ".tsv"):
        return "csv" if suffix == ".csv" else "tsv"
    text = start.lstrip()
    line, _, following = text.partition(b"\n")
    if text.startswith(b"["):
        # A complete list on the first line and more behind it: rows (of a wrong type), no array.
        return "jsonl" if line.rstrip().endswith(b"]") and following.strip() else "json"
    is_wrapped = WRAPPED.match(text.decode("utf-8", "replace"))
    if is_wrapped and not (following.strip() and _is_json(line)):
        return "json"
    if not text or any(row.lstrip().startswith(b"{") for row in text.split(b"\n")):
        return "jsonl"
    return "tsv" if b"\t" in line else "csv"


def _is_json(line: bytes) -> bool:
    """Whether the line is a JSON value, and so a row of JSON Lines where more of them follow."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
