"""Damaged files of every format that the loaders read, with what must become of their rows.

A file is written row by row, so that the place of each is known. One row is damaged, as
editors, crawlers and disks do it; all others must be kept. `python -m tests.support.mutations
FORMAT COUNT SEED MEMORY` does that in a process whose address space is limited.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import zstandard

from pipeline.context import Context
from pipeline.errors import UserError
from stages.load.documents import documents
from stages.load.pairs import pairs
from stages.load.records import records
from stages.load.sessions import sessions
from tests.support.loading import assert_accounted, gz, zst

ROWS = 40
SECONDS = 10
STRUCTURE = b'"{}[],:;\\\t\n'


class Pieces(NamedTuple):
    """A file in pieces: what is between the rows, and the rows.

    Attributes:
        start: Before the first row.
        rows: Each row.
        separator: Between two rows.
        end: Behind the last row.
    """

    start: bytes
    rows: list[bytes]
    separator: bytes
    end: bytes = b""

    def data(self) -> bytes:
        return self.start + self.separator.join(self.rows) + self.end


def marker(number: int) -> str:
    return f"row-{number:03d}-"


def _words(rng: random.Random, number: int) -> str:
    words = [rng.choice(["tide", "Ü", "水", "a, b", "{x}", 'he said "no"', "f({}, {})", "]"])]
    words += [rng.choice(["wind", "\n", "x; y", "[1, 2]", "\\", "}, {", "'"]) for _ in range(4)]
    return marker(number) + " ".join(words)


def alpaca(rng: random.Random, number: int) -> dict[str, Any]:
    fields = [("instruction", _words(rng, number)), ("input", ""), ("output", _words(rng, 999))]
    return dict(rng.sample(fields, 3))


def chat(rng: random.Random, number: int) -> dict[str, Any]:
    turns = [
        {"role": role, "content": _words(rng, number if at == 0 else 999)}
        for at, role in enumerate(("user", "assistant") * rng.randint(1, 3))
    ]
    return {"id": number, "messages": turns, "tags": [{"name": "a"}, {"name": "b"}]}


def tool_chat(rng: random.Random, number: int) -> dict[str, Any]:
    """A conversation whose turns have different fields, as have the lists beside them."""
    function = {"name": "tide", "arguments": json.dumps({"port": _words(rng, 999)})}
    call = {"id": "c", "type": "function", "function": function}
    turns = [
        {"role": "user", "content": _words(rng, number)},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "3.1"},
        {"role": "assistant", "content": _words(rng, 999)},
    ]
    tool = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
    return {"messages": turns, "tools": [tool]}


def two_shapes(rng: random.Random, number: int) -> dict[str, Any]:
    return alpaca(rng, number) if rng.random() < 0.5 else chat(rng, number)


def bare_list(rng: random.Random, number: int) -> list[dict[str, str]]:
    return [
        {"from": name, "value": _words(rng, number if name == "human" else 999)}
        for name in ("human", "gpt")
    ]


Make = Callable[[random.Random, int], Any]


def array(make: Make, **how: Any) -> Callable[[random.Random], Pieces]:
    """A JSON array: compact, a row a line, or indented; perhaps the field of an object."""

    def write(rng: random.Random) -> Pieces:
        indent, wrapped = how.get("indent"), how.get("wrapped", False)
        ascii_only = rng.random() < 0.5
        rows = [
            json.dumps(make(rng, n), indent=indent, ensure_ascii=ascii_only).encode()
            for n in range(ROWS)
        ]
        if indent:
            rows = [row.replace(b"\n", b"\n" + b" " * indent) for row in rows]
        gap = how.get("gap", "").encode()
        before = how.get("before_comma", "").encode()
        start, end = (b'{"version": 1, "data": [', b"]}") if wrapped else (b"[", b"]\n")
        return Pieces(start + gap, rows, before + b"," + gap, end)

    return write


def lines(rng: random.Random) -> Pieces:
    rows = [json.dumps(two_shapes(rng, n)).encode() for n in range(ROWS)]
    return Pieces(b"", rows, b"\n", b"\n")


def table(delimiter: str) -> Callable[[random.Random], Pieces]:
    """A table whose cells are quoted where they must be."""

    def cell(text: str) -> str:
        quoted = text.replace('"', '""')
        return f'"{quoted}"' if any(c in text for c in f'{delimiter}"\n') else text

    def write(rng: random.Random) -> Pieces:
        names = ["instruction", "input", "output"]
        rows = [
            delimiter.join(cell(row[name]) for name in names).encode()
            for row in (alpaca(rng, n) for n in range(ROWS))
        ]
        return Pieces((delimiter.join(names) + "\r\n").encode(), rows, b"\r\n", b"\r\n")

    return write


def prompts(rng: random.Random) -> Pieces:
    rows = [_words(rng, n).replace("\n", " ").encode() for n in range(ROWS)]
    return Pieces(b"", rows, b"\n", b"\n")


def preferences(rng: random.Random) -> Pieces:
    """Pairs: as texts, as turns, ranked, and answers with a label."""

    def row(n: int) -> dict[str, Any]:
        prompt, better, worse = _words(rng, n), _words(rng, 998), _words(rng, 999)
        asked = [{"role": "user", "content": prompt}]
        said = [{"role": "assistant", "content": text} for text in (better, worse)]
        return rng.choice(
            [
                {"prompt": prompt, "chosen": better, "rejected": worse},
                {"chosen": [*asked, said[0]], "rejected": [*asked, said[1]]},
                {"instruction": prompt, "input": "", "output": [better, worse]},
                {"prompt": asked, "completion": said[:1], "label": rng.random() < 0.5},
            ]
        )

    return Pieces(b"", [json.dumps(row(n)).encode() for n in range(ROWS)], b"\n", b"\n")


def claude_code(rng: random.Random) -> Pieces:
    """A session of requests, each with the answer that follows."""
    rows = []
    for n in range(ROWS):
        texts = [("user", _words(rng, n)), ("assistant", [{"type": "text", "text": "So."}])]
        lines = [
            {"type": role, "sessionId": "s", "uuid": f"{n} {role}", "message": {"content": text}}
            for role, text in texts
        ]
        rows.append("\n".join(map(json.dumps, lines)).encode())
    return Pieces(b"", rows, b"\n", b"\n")


def codex(rng: random.Random) -> Pieces:
    """The same, as the Codex CLI writes it."""
    rows = []
    for n in range(ROWS):
        texts = [("user", "input_text", _words(rng, n)), ("assistant", "output_text", "So.")]
        lines = [
            {
                "type": "response_item",
                "payload": {
                    "type": "message",
                    "role": role,
                    "content": [{"type": kind, "text": text}],
                },
            }
            for role, kind, text in texts
        ]
        rows.append("\n".join(map(json.dumps, lines)).encode())
    meta = {"type": "session_meta", "payload": {"id": "s", "cwd": "/srv"}}
    return Pieces(json.dumps(meta).encode() + b"\n", rows, b"\n", b"\n")


class Format(NamedTuple):
    """A format of the loaders.

    Attributes:
        write: A file in pieces.
        name: The name of the file.
        options: Of the loader.
        pack: Compresses the file, which is then damaged anywhere.
        is_exact: Whether a damaged row is one row, or few: parts of it may fail by themselves.
        stage: The loader.
        saved: What `save_to_disk` writes beside the file, if it is one of that.
    """

    write: Callable[[random.Random], Pieces]
    name: str
    options: dict[str, Any] = {}  # noqa: RUF012
    pack: Callable[[bytes], bytes] | None = None
    is_exact: bool = False
    stage: Callable[..., pl.DataFrame] = records
    saved: dict[str, str] = {}  # noqa: RUF012

    def put(self, folder: Path, data: bytes) -> dict[str, Any]:
        """Write a file of the format; the options that load it.

        Args:
            folder: Where.
            data: The file.
        """
        (folder / self.name).write_bytes(data)
        for name, text in self.saved.items():
            (folder / name).write_text(text)
        where = {"dataset": str(folder)} if self.saved else {"path": (str(folder / self.name),)}
        return {**where, "source": "here", "license": "MIT", **self.options}


def _texts(data: bytes) -> pl.DataFrame:
    rows = [json.loads(line) for line in data.splitlines()]
    return pl.DataFrame([{"prompt": json.dumps(row), "completion": "So."} for row in rows])


def parquet(data: bytes) -> bytes:
    buffer = io.BytesIO()
    _texts(data).write_parquet(buffer, row_group_size=7, compression="zstd")
    return buffer.getvalue()


def arrow_file(data: bytes) -> bytes:
    return _arrow(data, pa.ipc.new_file)


def arrow_stream(data: bytes) -> bytes:
    return _arrow(data, pa.ipc.new_stream)


def _arrow(data: bytes, writer_of: Callable[..., Any]) -> bytes:
    table, buffer = _texts(data).to_arrow(compat_level=pl.CompatLevel.oldest()), io.BytesIO()
    with writer_of(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return buffer.getvalue()


SAVED = {
    "state.json": '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train",'
    ' "_fingerprint": "x", "_format_type": null, "_format_columns": null,'
    ' "_format_kwargs": {}, "_output_all_columns": false}',
    "dataset_info.json": '{"features": {"prompt": {"dtype": "large_string", "_type": "Value"},'
    ' "completion": {"dtype": "large_string", "_type": "Value"}}}',
}

FORMATS = {
    "array": Format(array(alpaca, gap=" "), "p.json", is_exact=True),
    "array-lines": Format(array(two_shapes, gap="\n"), "p.json", is_exact=True),
    "array-indented": Format(array(chat, gap="\n    ", indent=4), "p.json", is_exact=True),
    "array-compact": Format(array(two_shapes), "p.json", is_exact=True),
    "array-chat": Format(array(chat, gap=" "), "p.json", is_exact=True),
    "array-lists": Format(array(bare_list, gap=" "), "p.json", is_exact=True),
    "array-wrapped": Format(array(two_shapes, gap=" ", wrapped=True), "p.json", is_exact=True),
    "array-tools": Format(array(tool_chat, gap=" ", wrapped=True), "p.json", is_exact=True),
    "lines": Format(lines, "p.jsonl"),
    "csv": Format(table(","), "p.csv"),
    "semicolons": Format(table(";"), "p.csv", {"delimiter": ";"}),
    "tsv": Format(table("\t"), "p.tsv"),
    "prompts": Format(prompts, "p.txt", {"format": "lines"}),
    "parquet": Format(lines, "p.parquet", pack=parquet),
    "gzip": Format(lines, "p.jsonl.gz", pack=gz),
    "zstd": Format(lines, "p.jsonl.zst", pack=zst),
    "documents": Format(prompts, "p.md", {"format": "text"}, stage=documents),
    "array-loose": Format(array(alpaca, before_comma="\n", gap="\n"), "p.json", is_exact=True),
    "arrow": Format(lines, "p.arrow", pack=arrow_file),
    "arrow-stream": Format(lines, "p.arrow", pack=arrow_stream),
    "saved": Format(lines, "data-00000-of-00001.arrow", pack=arrow_stream, saved=SAVED),
    "pairs": Format(preferences, "p.jsonl", stage=pairs),
    "claude-code": Format(claude_code, "p.jsonl", {"unit": "request"}, stage=sessions),
    "codex": Format(codex, "p.jsonl", {"unit": "request"}, stage=sessions),
}


def damage(data: bytes, rng: random.Random) -> bytes:
    """A row, or any bytes, with one thing wrong."""
    at = rng.randrange(len(data))
    kind = rng.randrange(11)
    places = [i for i, byte in enumerate(data) if byte in STRUCTURE] or [at]
    place = rng.choice(places)
    if kind == 0:
        return data[:at] + data[at + 1 :]
    if kind in (1, 2):
        return data[:place] + data[place + 1 :]
    if kind == 3:
        return data[:at] + bytes([rng.choice(STRUCTURE)]) + data[at:]
    if kind == 4:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 5:
        return data[:at] + rng.choice([b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3"]) + data[at:]
    if kind == 6:
        return data[:place] + bytes([rng.choice(STRUCTURE)]) + data[place + 1 :]
    if kind == 7:
        return data[:at] + data[at + rng.randrange(1, 20) :]
    if kind == 8:
        return data[at:]
    if kind == 9:
        return data[: max(at, 1)]
    bracket = bytes([rng.choice(b"[]{}")])
    return rng.choice([bracket + data, data + bracket, data[1:], data[:-1]])


def damaged(format: Format, rng: random.Random) -> tuple[bytes, set[int], int, int | None]:
    """A damaged file, the rows that must be kept, and how many rows there are, at least and most.

    Of compressed data only what can be decompressed counts.
    """
    pieces = format.write(rng)
    if format.pack:
        return _damaged_pack(format, pieces, rng)
    # Not two beside each other: where both ends are gone, nobody knows that they were two.
    hit = rng.sample(range(rng.randrange(2), ROWS, 2), rng.choice([1, 1, 2]))
    for number in hit:
        pieces.rows[number] = damage(pieces.rows[number], rng)
    data = pieces.data()
    intact = set(range(ROWS)) - set(hit)
    if format.stage is sessions:
        return data, intact, 1, None
    if format.name.endswith((".jsonl", ".txt")):
        count = sum(bool(line.strip()) for line in data.split(b"\n"))
        return data, intact, count, count
    return data, intact, ROWS, ROWS + 2 * len(hit) if format.is_exact else None


def _damaged_pack(
    format: Format, pieces: Pieces, rng: random.Random
) -> tuple[bytes, set[int], int, int | None]:
    assert format.pack
    data = format.pack(pieces.data())
    data = data[: rng.randrange(len(data))] if rng.random() < 0.2 else damage(data, rng)
    if format.name.endswith(".gz"):
        whole = _decompressed(data)
        count = whole.count(b"\n")
        kept = whole[: whole.rfind(b"\n") + 1]
        intact = {n for n, row in enumerate(pieces.rows) if row + b"\n" in kept}
        return data, intact, count, None
    return data, set(), 1, None


def _decompressed(data: bytes) -> bytes:
    """What zlib makes of a damaged file, byte by byte."""
    decompressor, parts = zlib.decompressobj(wbits=31), []
    try:
        for at in range(len(data)):
            parts.append(decompressor.decompress(data[at : at + 1]))
    except zlib.error:
        pass
    return b"".join(parts)


def problems(name: str, count: int, seed: int) -> Iterator[str]:
    """What went wrong with damaged files of a format.

    Args:
        name: Of `FORMATS`.
        count: How many files.
        seed: Of the draws.
    """
    format = FORMATS[name]
    for number in range(count):
        rng = random.Random(f"{name} {seed} {number}")
        data, intact, least, most = damaged(format, rng)
        began = time.process_time()
        try:
            frame = load(format, data)
            if format.stage is records and not format.saved:
                assert_accounted(frame)
        except Exception as error:
            yield f"{name} {seed} {number}: {type(error).__name__}: {error}"
            continue
        if time.process_time() - began > SECONDS:
            yield f"{name} {seed} {number}: it took {time.process_time() - began:.0f} s"
        if name == "documents":
            continue
        texts = _texts_of(frame)
        lost = [n for n in intact if marker(n) not in texts]
        if lost:
            yield f"{name} {seed} {number}: intact rows {lost} are not kept, of {len(frame)}"
        if not (least <= len(frame) and (most is None or len(frame) <= most)):
            yield f"{name} {seed} {number}: {len(frame)} rows, not {least} to {most}"


def _texts_of(frame: pl.DataFrame) -> str:
    """The turns of all rows, those that are dropped among them: accounted is not lost."""
    columns = [name for name in ("messages", "prompt", "chosen", "rejected") if name in frame]
    return "".join(
        turn["content"]
        for name in columns
        for row in frame[name].drop_nulls()
        for turn in row
        if turn["content"] is not None
    )


def load(format: Format, data: bytes) -> pl.DataFrame:
    """The rows of a file of a format; the mistake of a user where all of it cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context.scratch(Path(folder) / "ctx")
        try:
            rows = format.stage(ctx, **format.put(Path(folder), data))
            return rows if isinstance(rows, pl.DataFrame) else pl.concat(rows)
        except UserError:
            if not format.saved:
                raise
            return pl.DataFrame({"messages": [None], "error": "the data set cannot be loaded"})


def main(name: str, count: str, seed: str, memory: str) -> None:
    load(FORMATS["lines"], b'{"prompt": "Why?"}')  # what is imported late is not the data's
    load(FORMATS["parquet"], parquet(b"{}"))
    if FORMATS[name].saved:
        load(FORMATS[name], arrow_stream(b"{}"))
    zstandard.ZstdDecompressor()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(memory), used + int(memory)))
    print("\n".join(problems(name, int(count), int(seed))))


if __name__ == "__main__":
    main(*sys.argv[1:])
