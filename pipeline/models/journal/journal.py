"""The request journal: every raw answer of a language model, durable before anything parses it.

A request is keyed by its full payload, so the journal is a plain look-up table:
who finds an answer there does not ask again, after a kill, in another recipe or
on another machine that was handed the file.

It is one SQLite file in WAL mode with synchronous=FULL. Why not a log of our own:

- A commit is on disk (fsync of the write-ahead log) before `put_many` returns,
  and a batch is there as a whole or not at all, wherever a kill falls.
- Several processes may write. Their locks are the kernel's and go with the
  process, so a killed writer blocks nobody, and what it left half written is
  rolled back by whoever opens the file next.
- Look-up needs an index that is as durable as the data.

The store must lie on a local disk: the write-ahead log needs shared memory,
which network file systems do not give.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.models.journal.responses import reading
from pipeline.store.hashing import encode

NAME = "journal.sqlite"
FORMAT = 2
"""Raised with the table's layout: the keys of another layout would not be found, and paid again."""
WAIT = 60.0
"""Seconds to wait while another process commits."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    key      BLOB NOT NULL PRIMARY KEY,  -- digest of the request
    request  TEXT NOT NULL,     -- canonical JSON of the whole payload
    response TEXT NOT NULL,     -- JSON, as the engine gave it
    answers  INTEGER NOT NULL DEFAULT 1  -- how often an answer came; the first one stays
)
"""
INSERT = """
INSERT INTO responses (key, request, response) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET answers = answers + 1
"""
INSERT_MISSING = """
INSERT INTO responses (key, request, response) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING
"""
SELECT = """
WITH RECURSIVE asked(start) AS (
    SELECT 1 UNION ALL SELECT start + 16 FROM asked WHERE start + 16 < length(?1)
)
SELECT lower(hex(key)), response FROM responses WHERE rowid IN (
    SELECT rowid FROM responses WHERE key IN (SELECT substr(?1, start, 16) FROM asked)
)
"""
"""The responses to many keys, given one behind the other: first all steps through the index,
in the order of the keys, then the responses, in the order in which they were written. What
a stage asked lies together, so each page is read once."""

NEWEST = """
SELECT response
FROM (SELECT request, response FROM responses ORDER BY rowid DESC LIMIT 20000)
WHERE request -> '$.model' = ? LIMIT ?
"""
SAMPLE = 500
"""Requests that an estimate of lengths looks at."""


class JournalEntry(NamedTuple):
    """One line of the journal. key: 32 hex digits; request: canonical JSON.

    response: any JSON object, or the text of one, which is kept as it is.
    """

    key: str
    request: str
    response: dict[str, Any] | str


class Entry(NamedTuple):
    """A line as it is stored. answers: how often an answer came; the first one stayed."""

    key: str
    request: str
    response: str
    answers: int


class Journal:
    """The journal in a folder, which is made if need be. One object per process and thread.

    Raises UserError if the file there is no journal.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        try:
            self._connection = _connect(self.path)
        except sqlite3.DatabaseError as error:
            raise UserError(
                "the request journal cannot be opened",
                where=str(self.path),
                why=str(error),
                hint="put back a copy of it, or move it away to ask all its requests again",
            ) from error

    def get_many(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The responses to those of these requests that were answered, by key."""
        rows = self._connection.execute(SELECT, [bytes.fromhex("".join(keys))])
        return {key: json.loads(response) for key, response in rows}

    def put_many(self, answers: Iterable[JournalEntry]) -> None:
        """Make answers durable, all or none. Where a key has an answer, that one stays."""
        rows = _rows(answers)
        with self._connection:
            # The write lock is taken at once: a transaction that reads first could
            # not wait for another writer and would fail instead.
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(INSERT, rows)

    def add_missing(self, answers: Iterable[JournalEntry]) -> int:
        """Add answers that came from elsewhere, where there are none; how many were new."""
        rows = _rows(answers)
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            return self._connection.executemany(INSERT_MISSING, rows).rowcount

    def entries(self) -> Iterator[Entry]:
        """Every entry, in the order of the keys."""
        rows = self._connection.execute(
            "SELECT lower(hex(key)), request, response, answers FROM responses ORDER BY key"
        )
        return (Entry(*row) for row in rows)

    def integrity(self) -> list[str]:
        """What the database itself finds wrong with the file."""
        found = [text for (text,) in self._connection.execute("PRAGMA quick_check")]
        return [] if found == ["ok"] else found

    def count(self) -> int:
        """How many requests were answered."""
        (count,) = self._connection.execute("SELECT count(*) FROM responses").fetchone()
        return int(count)

    def most_answers(self) -> int:
        """The largest number of answers that came to one request: 1 if none was sent twice."""
        (most,) = self._connection.execute("SELECT max(answers) FROM responses").fetchone()
        return int(most or 0)

    def lengths(self, model: Mapping[str, Any]) -> tuple[float, float] | None:
        """Mean tokens of prompt and answer in the model's newest requests, if it has any."""
        rows = self._connection.execute(NEWEST, [encode(model).decode(), SAMPLE])
        found = [reading(json.loads(response)) for (response,) in rows]
        if not found:
            return None
        prompts = sum(f.prompt_tokens for f in found)
        return prompts / len(found), sum(f.completion_tokens for f in found) / len(found)

    def close(self) -> None:
        """Give the file back; the journal object is of no use afterwards."""
        self._connection.close()


def journal_in(store: Path) -> Journal | None:
    """The journal of a store, if it has one; none is made."""
    folder = store / "journal"
    return Journal(folder) if (folder / NAME).exists() else None


def _rows(answers: Iterable[JournalEntry]) -> list[tuple[bytes, str, str]]:
    return [(bytes.fromhex(a.key), a.request, _text(a.response)) for a in answers]


def _text(response: dict[str, Any] | str) -> str:
    return response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # Keys have no order, so every batch touches pages all over the index: rewriting
    # them in the main file seldom, and keeping them in memory, doubles the speed.
    # They are read, not mapped: a mapped page costs a page fault, and a look-up that
    # finds the journal just opened would wait for those, twice as long as for reads.
    connection.execute("PRAGMA wal_autocheckpoint = 16000")
    connection.execute("PRAGMA cache_size = -65536")
    found = "SELECT user_version, EXISTS (SELECT 1 FROM sqlite_master) FROM pragma_user_version"
    version, filled = connection.execute(found).fetchone()
    if filled and version != FORMAT:
        raise sqlite3.DatabaseError(f"its format is {version}, and this version reads {FORMAT}")
    if not filled:
        # As one, so that whoever opens it at the same time sees both or neither.
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(SCHEMA)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
    return connection
