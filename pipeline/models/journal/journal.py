"""The request journal: every raw answer of a language model, durable before anything parses it.

A request is keyed by its full payload, so the journal is a look-up table: a request
with an answer in it is not sent again, after a kill, in another recipe or on another
machine that was given the file.

It is one SQLite file in WAL mode with synchronous=FULL. Why not an append-only log:

- A commit is on disk (fsync of the write-ahead log) before `put_many` returns, and a
  batch is stored completely or not at all, whenever the process is killed.
- Several processes may write. Their locks are the kernel's and end with the process, so
  a killed writer blocks nobody, and its unfinished transaction is rolled back by the
  next process that opens the file.
- Look-up needs an index that is as durable as the data.

The store must be on a local disk: the write-ahead log needs shared memory, which network
file systems do not have.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.errors import UserError
from pipeline.models.journal.responses import (
    UNREADABLE,
    ParsedResponse,
    RawResponse,
    parse_response,
)
from pipeline.store.files import OTHER_STORE, check_kind
from pipeline.store.hashing import encode

NAME = "journal.sqlite"
FORMAT = 2
"""Version of the table. The keys of another version would not be found, and be paid again."""
LOCK_TIMEOUT = 60.0
"""Seconds to wait for another process to commit."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    key      BLOB NOT NULL PRIMARY KEY,  -- digest of the request
    request  TEXT NOT NULL,     -- canonical JSON of the whole payload
    response TEXT NOT NULL,     -- JSON, as the engine gave it
    answers  INTEGER NOT NULL DEFAULT 1  -- how often an answer came; the first one stays
)
"""
MODELS = """
CREATE TABLE IF NOT EXISTS models (
    digest TEXT NOT NULL PRIMARY KEY,  -- of local weights, as in a request's model
    name   TEXT NOT NULL               -- for people: the last part of the folder's path
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
WITH RECURSIVE requested(start) AS (
    SELECT 1 UNION ALL SELECT start + 16 FROM requested WHERE start + 16 < length(?1)
)
SELECT lower(hex(key)), response FROM responses WHERE rowid IN (
    SELECT rowid FROM responses WHERE key IN (SELECT substr(?1, start, 16) FROM requested)
)
"""
"""The responses to many keys, which are concatenated in one parameter. First all look-ups in
the index, in the order of the keys, then the responses in the order in which they were
written: the requests of one stage are adjacent, so each page is read once."""

NEWEST = """
SELECT lower(hex(key)), response
FROM (SELECT key, request, response FROM responses ORDER BY rowid DESC LIMIT 20000)
WHERE request -> '$.model' = ? LIMIT ?
"""
LENGTHS_SAMPLE = 500
"""Requests from which mean lengths are estimated."""


class JournalEntry(NamedTuple):
    """An entry to be written.

    Attributes:
        key: 32 hex digits: the digest of `request`.
        request: The request's full payload, as canonical JSON.
        response: The raw response as a JSON object, or as a JSON text that is stored
            unchanged.
    """

    key: str
    request: str
    response: RawResponse


class StoredEntry(NamedTuple):
    """An entry as it is stored.

    Attributes:
        key: 32 hex digits: the digest of `request`.
        request: The request's full payload, as canonical JSON.
        response: The raw response, as a JSON text.
        answers: How often the request was answered; the first answer is the stored one.
    """

    key: str
    request: str
    response: str
    answers: int


class Journal:
    """The journal in a folder, which is created if need be.

    An object belongs to one process and one thread.

    Args:
        folder: The folder of the journal's file.

    Raises:
        UserError: The file in the folder is not a journal of this format, or the folder or
            the file is another thing (a device, a FIFO) or cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> folder = TemporaryDirectory()
        >>> journal = Journal(Path(folder.name))
        >>> journal.put_many([JournalEntry("0" * 32, "{}", {"text": "Yes"})])
        >>> journal.get_many(["0" * 32, "f" * 32])
        {'00000000000000000000000000000000': {'text': 'Yes'}}
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        check_kind(folder, "the journal", folder=True)
        check_kind(self.path, "the journal's file", folder=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = _connect(self.path)
        except (sqlite3.DatabaseError, OSError) as error:
            raise UserError(
                "the request journal cannot be opened",
                where=str(self.path),
                why=str(error),
                hint=_DAMAGED_HINT if _is_damage(error) else OTHER_STORE,
            ) from error

    def get_many(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The responses by key, of those requests that are answered.

        Raises:
            UserError: The journal is damaged or cannot be read.
        """
        with _errors_explained(self.path):
            rows = self._connection.execute(SELECT, [bytes.fromhex("".join(keys))])
            return {key: self._loaded(key, response) for key, response in rows}

    def _loaded(self, key: str, response: str) -> dict[str, Any]:
        try:
            value = json.loads(response)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise damaged_entry(self.path, key)
        return value

    def put_many(self, entries: Iterable[JournalEntry]) -> None:
        """Make entries durable, all or none. A key that has an answer keeps it.

        Raises:
            UserError: The journal is damaged or cannot be written.
        """
        rows = _rows(entries)
        with _errors_explained(self.path), self._connection:
            # IMMEDIATE takes the write lock at once: a transaction that reads first could
            # not wait for another writer and would fail instead.
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(INSERT, rows)

    def add_missing(self, entries: Iterable[JournalEntry]) -> int:
        """Add entries of another journal whose keys have no answer yet; how many were new."""
        rows = _rows(entries)
        with _errors_explained(self.path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            return self._connection.executemany(INSERT_MISSING, rows).rowcount

    def entries(self) -> Iterator[StoredEntry]:
        """All entries, in the order of the keys."""
        query = "SELECT lower(hex(key)), request, response, answers FROM responses ORDER BY key"
        with _errors_explained(self.path):
            for row in self._connection.execute(query):
                yield StoredEntry(*row)

    def integrity(self) -> list[str]:
        """What SQLite's own check finds wrong with the file; empty for a sound one."""
        with _errors_explained(self.path):
            messages = [text for (text,) in self._connection.execute("PRAGMA quick_check")]
        return [] if messages == ["ok"] else messages

    def count(self) -> int:
        """Number of answered requests."""
        with _errors_explained(self.path):
            (count,) = self._connection.execute("SELECT count(*) FROM responses").fetchone()
        return int(count)

    def name_weights(self, digest: str, name: str) -> None:
        """Remember what people call local weights, of which requests have the digest alone.

        Args:
            digest: The digest of the weights, as in a model's identity.
            name: Their name; the first one stays.
        """
        if digest not in self.names():
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute(MODELS)
                self._connection.execute(
                    "INSERT OR IGNORE INTO models VALUES (?, ?)", [digest, name]
                )

    def names(self) -> dict[str, str]:
        """The names of local weights by their digests."""
        query = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'models')"
        if self._connection.execute(query).fetchone() == (0,):
            return {}
        return dict(self._connection.execute("SELECT digest, name FROM models"))

    def lengths(self, model: Mapping[str, Any]) -> tuple[float, float] | None:
        """Mean tokens of prompts and of answers, of a model's newest requests.

        Args:
            model: The model's identity.

        Returns:
            (prompt tokens, answer tokens), or None for a model without any request.
        """
        with _errors_explained(self.path):
            rows = self._connection.execute(NEWEST, [encode(model).decode(), LENGTHS_SAMPLE])
            responses = [parse_stored(self.path, key, response) for key, response in rows]
        if not responses:
            return None
        prompts = sum(response.prompt_tokens for response in responses)
        answers = sum(response.completion_tokens for response in responses)
        return prompts / len(responses), answers / len(responses)

    def close(self) -> None:
        """Close the file; the object cannot be used afterwards."""
        self._connection.close()


def journal_in(store: Path) -> Journal | None:
    """The journal of a store, or None: none is created."""
    folder = store / "journal"
    return Journal(folder) if (folder / NAME).exists() else None


def parse_stored(path: Path, key: str, response: str | Mapping[str, Any]) -> ParsedResponse:
    """A stored response, parsed.

    Args:
        path: The journal's file, for the message.
        key: The entry's key.
        response: The response, as it is stored or loaded.

    Raises:
        UserError: It is not what an engine gave: the journal is damaged.
    """
    try:
        return parse_response(json.loads(response) if isinstance(response, str) else response)
    except UNREADABLE:
        raise damaged_entry(path, key) from None


def damaged_entry(path: Path, key: str) -> UserError:
    """The error for an entry whose request or response is not what was written."""
    return UserError(
        "an entry of the request journal is damaged",
        where=f"{path}: {key}",
        why="its content cannot be read",
        hint=_DAMAGED_HINT,
    )


_DAMAGED_HINT: Final = "restore a copy of it, or move it away to send all its requests again"
_DISK: Final = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM,
})  # fmt: skip
"""Results of SQLite that say nothing about the file's content."""


def _is_damage(error: Exception) -> bool:
    """Whether an error is that of a file that is no sound journal, not of the disk under it."""
    code = getattr(error, "sqlite_errorcode", None)
    return not isinstance(error, OSError) and (code is None or code & 0xFF not in _DISK)


@contextmanager
def _errors_explained(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into what their user can do."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a bug of whoever called
    except sqlite3.DatabaseError as error:
        if _is_damage(error):
            what, hint = "the request journal is damaged", _DAMAGED_HINT
        else:
            what = "the request journal cannot be written"
            hint = "free some space or choose another folder with --store DIR; nothing is lost"
        raise UserError(what, where=str(path), why=str(error), hint=hint) from error


def _rows(entries: Iterable[JournalEntry]) -> list[tuple[bytes, str, str]]:
    return [(bytes.fromhex(e.key), e.request, _json_text(e.response)) for e in entries]


def _json_text(response: RawResponse) -> str:
    return response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # Keys are digests, so every batch touches pages all over the index: rare checkpoints
    # and a large cache double the speed. No mmap: each mapped page costs a page fault,
    # and a look-up in a journal just opened would take twice as long as with reads.
    connection.execute("PRAGMA wal_autocheckpoint = 16000")
    connection.execute("PRAGMA cache_size = -65536")
    query = "SELECT user_version, EXISTS (SELECT 1 FROM sqlite_master) FROM pragma_user_version"
    version, has_table = connection.execute(query).fetchone()
    if has_table and version != FORMAT:
        raise sqlite3.DatabaseError(f"its format must be {FORMAT}, got {version}")
    if not has_table:
        # In one transaction, so that a process that opens it meanwhile sees both or neither.
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(SCHEMA)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
    return connection
