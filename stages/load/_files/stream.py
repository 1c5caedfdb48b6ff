"""The bytes of a file: decompressed in small blocks, and cut into lines.

Compression is recognized by the first bytes and not by the name. Data that end early
raise nothing: what comes before is read, and `Stream.cut` says why no more follows.
However far compressed data expand, a block holds at most a megabyte.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.errors import UserError

HEAD: Final = 1 << 20
"""How much of a file is examined before any work: one megabyte, decompressed."""

ROW_LIMIT: Final = 64 << 20
"""How long a row may be, in bytes. A longer one fails by itself: memory stays bounded."""

TOO_LONG: Final = f"the row is longer than {ROW_LIMIT >> 20} MiB"

_BLOCK: Final = 1 << 16
_PIECE: Final = 1 << 20
_BOM: Final = b"\xef\xbb\xbf"
_MAGIC: Final = 4
_SKIPPABLE: Final = tuple(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))
"""Frames of zstandard that hold no data, as parallel compressors write them."""

_ZSTD_WINDOW: Final = 1 << 29
"""The largest window (what a frame may refer back to) that is held: `zstd --long=29`."""

_ZSTD_SLICE: Final = 1 << 10
"""Bytes of a zstandard file that are decompressed at once: a block of 4 bytes may hold 128 KiB
of data, so these hold 32 MiB at most."""


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
        codec = next((codec for codec in _CODECS if first.startswith(codec.magic)), None)
        if codec:
            yield from self._members(first, raw, codec)
        else:
            yield first
            yield from raw

    def _raw(self) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            while block := file.read(_BLOCK):
                self.read += len(block)
                yield block

    def _members(self, block: bytes, raw: Iterator[bytes], codec: _Codec) -> Iterator[bytes]:
        """The members (frames) of a compressed file, one after the other."""
        import zstandard

        while block.startswith(codec.magic):
            member = codec.start()
            while not member.eof:
                try:
                    yield from codec.decompress(member, block)
                except (zlib.error, zstandard.ZstdError, MemoryError) as error:
                    self.cut = f"the compressed data are damaged from here on ({error})"
                    return
                if not member.eof and not (block := next(raw, b"")):
                    self.cut = "the compressed data end early; what followed is lost"
                    return
            block = member.unused_data
            while len(block) < _MAGIC and (more := next(raw, b"")):
                block += more
        # Zeros are padding, which gzip itself ignores.
        if block.strip(b"\0") or any(more.strip(b"\0") for more in raw):
            self.cut = "something follows the compressed data that is not compressed like them"


def _gzip_pieces(member: Any, data: bytes) -> Iterator[bytes]:
    """What a block of a member holds; up to the very byte where it is damaged."""
    piece = b""
    while not member.eof and (data or len(piece) == _PIECE):
        before = member.copy()
        try:
            piece = member.decompress(data, _PIECE)
        except zlib.error:
            for at in range(len(data)):
                yield before.decompress(data[at : at + 1])
            raise
        yield piece
        data = member.unconsumed_tail


def _zstd_pieces(member: Any, data: bytes) -> Iterator[bytes]:
    """What a block of a frame holds, slice by slice: its decompressor knows no limit."""
    for start in range(0, len(data), _ZSTD_SLICE):
        if member.eof:
            break
        data_of_slice = member.decompress(data[start : start + _ZSTD_SLICE])
        for at in range(0, len(data_of_slice), _PIECE):
            yield data_of_slice[at : at + _PIECE]


class _Codec(NamedTuple):
    """A kind of compression.

    Attributes:
        magic: How a member may begin.
        start: Makes a decompressor for one member.
        decompress: The pieces that some bytes hold.
    """

    magic: tuple[bytes, ...]
    start: Callable[[], Any]
    decompress: Callable[[Any, bytes], Iterator[bytes]]


def _zstd_member() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


_CODECS: Final = (
    _Codec((b"\x1f\x8b",), lambda: zlib.decompressobj(wbits=31), _gzip_pieces),
    _Codec((b"\x28\xb5\x2f\xfd", *_SKIPPABLE), _zstd_member, _zstd_pieces),
)


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed by gzip or zstandard."""
    with open(path, "rb") as file:
        start = file.read(_MAGIC)
    return any(start.startswith(codec.magic) for codec in _CODECS)


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


def whole(stream: Stream, limit: int) -> bytes | None:
    """All bytes of a stream; None where they are more than the limit."""
    data = bytearray()
    for block in stream:
        data += block
        if len(data) > limit:
            return None
    return bytes(data)


def lines(stream: Stream) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers from 1, without the newline; None for one beyond the limit.

    Blank ones may be left out. A last line that has no newline comes after `cut` is set.
    """
    number, size = 1, 0
    pieces: list[bytes] = []
    for block in stream:
        if block.isspace() and not size:  # one piece, however many lines
            number += block.count(b"\n")
            continue
        first, *others = block.split(b"\n")
        pieces.append(first)
        size += len(first)
        for other in others:
            line = b"".join(pieces) if size <= ROW_LIMIT else None
            number, pieces, size = number + 1, [other], len(other)
            yield number - 1, line
        if size > ROW_LIMIT:
            pieces = []
    if size:
        yield number, b"".join(pieces) if size <= ROW_LIMIT else None
