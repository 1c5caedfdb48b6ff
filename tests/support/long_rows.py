"""Files whose middle row is nearly as long as a row may be, in every format and kind of text.

What a text takes in memory depends on its widest character: Python holds each character of a
text in as many bytes as the widest one needs, so that one emoji makes an English text of 60 MiB
one of 240 MiB. `python -m tests.support.long_rows FORMAT TEXT PACKING` prints the peak of a
process that loads such a file, in bytes.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.context import Context
from pipeline.execution.peak_memory import peak_memory
from stages.load._files.stream import ROW_LIMIT
from stages.load.documents import documents
from stages.load.pairs import pairs
from stages.load.records import records
from tests.support.loading import gz, zst

SIZE: Final = ROW_LIMIT - 4096
"""Bytes of the long text as UTF-8, or as the JSON that it is written in."""

ENDS: Final = ("Why?", "How?")
"""The prompts of the rows around the long one."""


def _texts(rng: random.Random, characters: str, size: int) -> str:
    """A seeded text of so many characters: a kilobyte of them, many times."""
    piece = "".join(rng.choices(characters, k=1 << 10))
    return piece * (size >> 10)


TEXTS: Final[dict[str, Callable[[random.Random], str]]] = {
    "1-byte": lambda rng: _texts(rng, "abc de", SIZE),
    "2-byte": lambda rng: _texts(rng, "äöüßñ", SIZE // 2),
    "3-byte": lambda rng: _texts(rng, "水潮風", SIZE // 3),
    "4-byte": lambda rng: _texts(rng, "😀🌊𝄞", SIZE // 4),
    "1-byte and one of 4": lambda rng: _texts(rng, "abc de", SIZE - 4096) + "🌊",
    "1-byte, and one of 4 first": lambda rng: "🌊" + _texts(rng, "abc de", SIZE - 4096),
    "escapes": lambda rng: _texts(rng, "\x01\x02\x7f", SIZE // 6),
    "escapes of 4-byte": lambda rng: _texts(rng, "😀🌊𝄞", SIZE // 12),
    "quotes and line breaks": lambda rng: _texts(rng, '"\n,', SIZE // 2),
}
"""Texts by what they are made of."""

_ESCAPED: Final = {"escapes", "escapes of 4-byte"}


def _json(prompt: str, escaped: bool) -> bytes:
    return json.dumps({"prompt": prompt, "completion": "So."}, ensure_ascii=escaped).encode()


def _jsonl(texts: list[str], escaped: bool) -> bytes:
    return b"".join(_json(text, escaped) + b"\n" for text in texts)


def _array(texts: list[str], escaped: bool) -> bytes:
    return b"[" + b", ".join(_json(text, escaped) for text in texts) + b"]"


def _objects(texts: list[str], escaped: bool) -> bytes:
    return b"\n".join(b"{\n" + _json(text, escaped)[1:] for text in texts)


def _table(delimiter: str) -> Callable[[list[str], bool], bytes]:
    def write(texts: list[str], escaped: bool) -> bytes:
        cells = ((text.replace('"', '""'), "So.") for text in texts)
        rows = [("prompt", "completion"), *cells]
        return "".join(delimiter.join(f'"{c}"' for c in row) + "\n" for row in rows).encode()

    return write


def _lines(texts: list[str], escaped: bool) -> bytes:
    return "".join(text.replace("\n", " ") + "\n" for text in texts).encode()


def _arrow_table(texts: list[str]) -> pa.Table:
    return pa.table({"prompt": texts, "completion": ["So."] * len(texts)})


def _parquet(texts: list[str], escaped: bool) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(_arrow_table(texts), buffer)
    return buffer.getvalue()


def _arrow(texts: list[str], escaped: bool) -> bytes:
    buffer = io.BytesIO()
    table = _arrow_table(texts)
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _messages(texts: list[str], escaped: bool) -> bytes:
    rows = (
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "So."}]}
        for text in texts
    )
    return b"".join(json.dumps(row, ensure_ascii=escaped).encode() + b"\n" for row in rows)


def _reasoning(texts: list[str], escaped: bool) -> bytes:
    rows = ({"prompt": "q", "completion": f"<think>{text}</think>So."} for text in texts)
    return b"".join(json.dumps(row, ensure_ascii=escaped).encode() + b"\n" for row in rows)


def _pairs(texts: list[str], escaped: bool) -> bytes:
    rows = ({"prompt": text, "chosen": "So.", "rejected": "No."} for text in texts)
    return b"".join(json.dumps(row, ensure_ascii=escaped).encode() + b"\n" for row in rows)


def _extra(texts: list[str], escaped: bool) -> bytes:
    rows = ({"prompt": "q", "completion": "a", "more": {"text": text}} for text in texts)
    return b"".join(json.dumps(row, ensure_ascii=escaped).encode() + b"\n" for row in rows)


def _prose(texts: list[str], escaped: bool) -> bytes:
    return max(texts, key=len).encode()


def _documents(texts: list[str], escaped: bool) -> bytes:
    return _jsonl(texts, escaped).replace(b'"prompt"', b'"text"')


FORMATS: Final = {
    "json lines": ("p.jsonl", _jsonl),
    "json array": ("p.json", _array),
    "json objects": ("p.json", _objects),
    "csv": ("p.csv", _table(",")),
    "tsv": ("p.tsv", _table("\t")),
    "lines": ("p.txt", _lines),
    "parquet": ("p.parquet", _parquet),
    "arrow": ("p.arrow", _arrow),
    "messages": ("p.jsonl", _messages),
    "reasoning": ("p.jsonl", _reasoning),
    "extra": ("p.jsonl", _extra),
    "pairs": ("p.jsonl", _pairs),
    "document": ("p.md", _prose),
    "documents": ("d.jsonl", _documents),
}
"""Formats by name: the file and how it is written."""

PACKINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "plain": lambda data: data,
    "gzip": gz,
    "zstd": zst,
}


def written(format: str, text: str, packing: str, folder: Path) -> Path:
    """A file whose middle row is long.

    Args:
        format: One of `FORMATS`.
        text: One of `TEXTS`.
        packing: One of `PACKINGS`.
        folder: Where it is written.
    """
    name, write = FORMATS[format]
    long = TEXTS[text](random.Random(f"{format} {text}"))
    path = folder / name
    path.write_bytes(PACKINGS[packing](write([ENDS[0], long, ENDS[1]], text in _ESCAPED)))
    return path


def main(format: str, path: str) -> None:
    """Load the file and print the peak of memory in bytes."""
    ctx = Context.scratch(Path(path).parent)
    where = {"source": "s", "license": "MIT"}
    if format in ("document", "documents"):
        frame = documents(ctx, path=(path,), **where)
    elif format == "pairs":
        frame = pairs(ctx, path=(path,), **where)
    else:
        how = {"format": "lines"} if format == "lines" else {}
        frame = pl.concat(records(ctx, path=(path,), **how, **where))  # type: ignore[arg-type]
    print(peak_memory(), len(frame), frame["error"].drop_nulls().to_list())


if __name__ == "__main__":
    main(*sys.argv[1:])
