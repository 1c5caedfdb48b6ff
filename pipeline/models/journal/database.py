"""The journal's file: its table, how it is opened, who may read it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pipeline.errors import UserError

FORMAT = 2
"""Version of the table. The keys of another version would not be found, and be paid again."""
PRIVATE: Final = 0o600
"""Rights of the journal's files and of its exports: what models wrote is its owner's."""
LOCK_TIMEOUT = 60.0
"""Seconds to wait for another process to commit."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    key      BLOB NOT NULL PRIMARY KEY,  -- digest of the request
    request  TEXT NOT NULL,     -- canonical JSON of the whole payload
    response TEXT NOT NULL,     -- JSON, as the engine gave it
    answers  INTEGER NOT NULL DEFAULT 1,  -- how often an answer came; the first one stays
    checksum BLOB,              -- XXH3 of key and response; entries of earlier versions have none
    sent     TEXT               -- JSON of what a server got beside the prompt, if spelled otherwise
)
"""
ADDED_COLUMNS: Final = {"checksum": "BLOB", "sent": "TEXT"}
"""Columns that journals of earlier versions lack; they are added where a journal is opened."""
COLUMNS = "SELECT name FROM pragma_table_info('responses')"


def connect(path: Path) -> sqlite3.Connection:
    """Open the journal's file, which is created, or given the columns of today, if need be.

    Raises:
        sqlite3.DatabaseError: It is no journal of this format, or cannot be opened.
    """
    _create(path)
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    _make_private(path)
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
    elif _lacking(connection):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for column in _lacking(connection):
                kind = ADDED_COLUMNS[column]
                connection.execute(f"ALTER TABLE responses ADD COLUMN {column} {kind}")
    return connection


def _lacking(connection: sqlite3.Connection) -> list[str]:
    """The columns that a journal of an earlier version lacks."""
    columns = {name for (name,) in connection.execute(COLUMNS)}
    return [name for name in ADDED_COLUMNS if name not in columns]


def _create(path: Path) -> None:
    """Create the journal's file for its owner alone, if there is none.

    It is never opened here: to close it would release the locks of every connection that this
    process has to it (as POSIX has it), and another process could then remove a log in use.
    """
    if not path.exists():
        with suppress(OSError), TemporaryDirectory(dir=path.parent) as folder:
            empty = Path(folder) / path.name
            empty.touch(PRIVATE)
            os.link(empty, path)


def _make_private(path: Path) -> None:
    """Leave the journal's file and what is beside it to its owner; not one of another owner."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        file = path.with_name(name)
        with suppress(OSError):
            if stat.S_IMODE(file.stat().st_mode) & ~PRIVATE:
                file.chmod(PRIVATE)


DAMAGED_HINT: Final = "restore a copy of it, or move it away to send all its requests again"
DISK: Final = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM,
})  # fmt: skip
"""Results of SQLite that say nothing about the file's content."""


def is_damage(error: Exception) -> bool:
    """Whether an error is that of a file that is no sound journal, not of the disk under it."""
    code = getattr(error, "sqlite_errorcode", None)
    return not isinstance(error, OSError) and (code is None or code & 0xFF not in DISK)


@contextmanager
def errors_explained(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into what their user can do.

    Args:
        path: The journal's file, for the message.
    """
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a bug of whoever called
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            what, hint = "the request journal is damaged", DAMAGED_HINT
        else:
            what = "the request journal cannot be written"
            hint = "free some space or choose another folder with --store DIR; nothing is lost"
        raise UserError(what, where=str(path), why=str(error), hint=hint) from error
