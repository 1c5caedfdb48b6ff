"""How a file holds its rows, from its first megabyte."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final, Literal

Container = Literal["jsonl", "json", "objects", "csv", "tsv", "parquet", "arrow", "lines", "text"]
"""How a file holds its rows: `objects` are JSON objects one after the other, over several lines,
`lines` are texts, a `text` is one row by itself."""

_STRING: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_SCALAR: Final = rf'(?:{_STRING}|[^\s"\[\]{{}},]+)'

WRAPPED: Final = re.compile(
    rf'\s*\{{\s*(?:{_STRING}\s*:\s*{_SCALAR}\s*,\s*)*"(?:data|train)"\s*:\s*\['
    rf"(?!\s*(?:{_SCALAR}\s*(?:,\s*{_SCALAR}\s*)*)?(?:\]\s*(?:[,}}]|$)|$))"
)
"""The start of one JSON object whose field `data` or `train` holds the rows: {"data": [{...
or, where the first row has lost its beginning, {"data": ["prompt": ... A list of scalars is none.

The field is called so by convention (`datasets` reads it with `field="data"`, and writes splits
by name)."""

_PARQUET: Final = b"PAR1"
_ARROW: Final = (b"ARROW1", b"\xff\xff\xff\xff")
"""Arrow's file format, and its stream format, as `save_to_disk` writes it."""

_UTF16: Final = "the file is UTF-16, not UTF-8: iconv -f UTF-16 -t UTF-8 OLD > NEW"
_ENCODINGS: Final = {
    b"\xff\xfe\0\0": "the file is UTF-32, not UTF-8: iconv -f UTF-32 -t UTF-8 OLD > NEW",
    b"\0\0\xfe\xff": "the file is UTF-32, not UTF-8: iconv -f UTF-32 -t UTF-8 OLD > NEW",
    b"\xff\xfe": _UTF16,
    b"\xfe\xff": _UTF16,
}
_BINARY: Final = {
    b"PK\x03\x04": "the file is a ZIP archive or a spreadsheet: unpack it, or save it as CSV",
    b"BZh": "the file is compressed by bzip2: decompress it with `bunzip2`",
    b"\xfd7zXZ\0": "the file is compressed by xz: decompress it with `unxz`",
    b"%PDF-": "the file is a PDF: extract its text",
    b"SQLite format 3\0": "the file is an SQLite data base: export its table as CSV",
}


def unreadable(start: bytes) -> str | None:
    """Why no rows can be read from a file of another encoding or kind; None if they can.

    >>> unreadable("[]".encode("utf-16"))
    'the file is UTF-16, not UTF-8: iconv -f UTF-16 -t UTF-8 OLD > NEW'
    """
    if start.startswith(_ARROW):
        return None
    for magic, reason in (_ENCODINGS | _BINARY).items():
        if start.startswith(magic):
            return reason
    even, odd = start[:256:2], start[1:256:2]
    # Without a mark: every other byte of Latin text is zero.
    if len(start) >= 8 and ((all(even) and not any(odd)) or (all(odd) and not any(even))):
        return _UTF16
    return None


def container(path: Path, start: bytes) -> Container:
    """How a file holds its rows, from the start of its data; its name decides on CSV and TSV only.

    >>> container(Path("pool"), b'[{"prompt": "Why?"')
    'json'
    """
    if start.startswith(_PARQUET):
        return "parquet"
    if start.startswith(_ARROW):
        return "arrow"
    suffix = Path(re.sub(r"\.(gz|zst)$", "", path.name)).suffix
    if suffix in (".csv", ".tsv"):
        return "csv" if suffix == ".csv" else "tsv"
    text = start.lstrip()
    line, _, following = text.partition(b"\n")
    if text.startswith(b"["):
        return "jsonl" if _is_row_of_lines(line, following) else "json"
    is_wrapped = WRAPPED.match(text.decode("utf-8", "replace"))
    if is_wrapped and not (following.strip() and parses(line)):
        return "json"
    if text.startswith(b"{") and _is_object_over_lines(text, line):
        return "objects"
    if not text or any(row.lstrip().startswith(b"{") for row in text.split(b"\n")):
        return "jsonl"
    return "tsv" if b"\t" in line else "csv"


def _is_row_of_lines(line: bytes, following: bytes) -> bool:
    """Whether a first line that begins with a bracket is a row, and no start of an array.

    It is one where it is a complete list and more follows, or where it is broken and the
    next line is a complete object, without the comma that would part rows of an array.
    """
    line, second = line.strip(), following.lstrip().partition(b"\n")[0].strip()
    if line.endswith(b"]") and parses(line):
        return bool(second) and not second.startswith(b",")
    return not line.endswith((b"[", b",")) and second[:1] in (b"{", b"[") and parses(second)


def _is_object_over_lines(text: bytes, line: bytes) -> bool:
    """Whether a file begins with an object that does not end where its line ends."""
    if line.strip() == b"{":
        return True
    try:
        _, end = json.JSONDecoder().raw_decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    first = text.decode("utf-8", "replace")[:end]
    rest = line.decode("utf-8", "replace")[len(first) :].strip()
    return "\n" in first or rest.startswith("{")


def parses(line: bytes) -> bool:
    """Whether a line is a JSON value."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
