"""What one does with a journal as a whole: count it, check it, hand it to others.

An export is JSON Lines, one object a request with `key`, `request` and `response`, in
the order of the keys; `.gz` compresses it. It holds no path, no server's address and no
key to a server. Whoever imports it rebuilds the data set with the engine `replay`.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from pipeline.errors import UserError
from pipeline.models.journal.journal import Journal, JournalEntry
from pipeline.models.journal.responses import reading, well_formed
from pipeline.store.hashing import encode

BATCH: Final = 5000
SHOWN: Final = 5


def stats(journal: Journal) -> dict[str, Any]:
    """How many requests and tokens, by model; what was cut; what was answered more than once."""
    models: dict[str, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(("requests", "prompt_tokens", "completion_tokens", "cut", "again"), 0)
    )
    for entry in journal.entries():
        found = reading(json.loads(entry.response))
        told = models[json.dumps(json.loads(entry.request)["model"], sort_keys=True)]
        told["requests"] += 1
        told["prompt_tokens"] += found.prompt_tokens
        told["completion_tokens"] += found.completion_tokens
        told["cut"] += found.finish_reason == "length"
        told["again"] += entry.answers - 1
    rows = [{"model": json.loads(name), **told} for name, told in sorted(models.items())]
    return {"requests": journal.count(), "bytes": journal.path.stat().st_size, "models": rows}


def export(journal: Journal, path: Path) -> int:
    """Write all entries to a file, aside first; how many there are."""
    count = 0
    aside = path.with_name(f".{path.name}.part")
    try:
        with _open(aside, "w", path.suffix == ".gz") as file:
            for entry in journal.entries():
                # As parsed: a server may break its answer over lines.
                response = json.dumps(json.loads(entry.response))
                file.write(
                    f'{{"key":"{entry.key}","request":{entry.request},"response":{response}}}\n'
                )
                count += 1
        aside.replace(path)
    except OSError as error:
        raise UserError("the file cannot be written", where=str(path), why=str(error)) from None
    finally:
        aside.unlink(missing_ok=True)
    return count


def import_entries(journal: Journal, path: Path) -> tuple[int, int]:
    """Take in an export: how many entries were new, and how many known before.

    Where both have an answer, the journal's own stays. Raises UserError with the line
    of an entry that is none, or whose key is not that of its request; what stands
    before it has been taken in.
    """
    new = known = 0
    entries = _entries(path)
    while True:
        batch: list[JournalEntry] = []
        try:
            batch.extend(islice(entries, BATCH))
        finally:
            added = journal.add_missing(batch)
        if not batch:
            return new, known
        new, known = new + added, known + len(batch) - added


def _entries(path: Path) -> Iterator[JournalEntry]:
    try:
        with _open(path, "r", path.suffix == ".gz") as file:
            for number, line in enumerate(file, 1):
                yield _entry(line, f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError("the file cannot be read", where=str(path), why=str(error)) from None


def _entry(line: str, where: str) -> JournalEntry:
    try:
        given = json.loads(line)
        key, response = given["key"], given["response"]
        request = encode(given["request"]).decode("utf-8")
        given["request"]["model"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError("this is no entry of a journal", where=where, why=repr(error)) from None
    if wrong := _wrong(key, request.encode(), response):
        raise UserError(f"the entry is not whole: {wrong}", where=where)
    return JournalEntry(key, request, json.dumps(response))


def _wrong(key: Any, request: bytes, response: Any) -> str | None:
    if key != blake2b(request, digest_size=16).hexdigest():
        return "its key is not that of its request"
    return None if well_formed(response) else "its response cannot be read"


def verify(journal: Journal) -> int:
    """Check every entry: how many there are. Raises UserError that names what is wrong."""
    problems = journal.integrity()
    count = 0
    for entry in journal.entries():
        count += 1
        try:
            request = encode(json.loads(entry.request))
            wrong = _wrong(entry.key, request, json.loads(entry.response))
        except ValueError as error:
            wrong = str(error)
        if wrong:
            problems.append(f"{entry.key}: {wrong}")
    if problems:
        raise UserError(
            f"the journal has {len(problems):,} mistakes",
            where=str(journal.path),
            why="; ".join(problems[:SHOWN]),
            hint="put back a copy of it, or export it and import what is whole",
        )
    return count


def told(found: dict[str, Any]) -> Iterable[list[str]]:
    """The rows of a table of `stats`: model, requests, tokens, cut, answered again."""
    numbers = ("requests", "prompt_tokens", "completion_tokens", "cut", "again")
    for row in found["models"]:
        name = json.dumps(row["model"]["weights"] if "weights" in row["model"] else row["model"])
        yield [name, *(f"{row[number]:,}" for number in numbers)]


def _open(path: Path, mode: str, packed: bool) -> IO[str]:
    if not packed:
        return path.open(mode, encoding="utf-8")
    if mode == "r":
        return gzip.open(path, "rt", encoding="utf-8")
    # No moment of writing inside: equal journals give equal files.
    return io.TextIOWrapper(gzip.GzipFile(path, "wb", 6, mtime=0), encoding="utf-8")
