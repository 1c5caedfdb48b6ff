"""The batches of providers that are under way: two tables in the journal's file.

A batch is durable here *before* it is submitted, with all of its requests and a tag of our own
that goes along with it. So whenever a process ends, the next one knows what may have been
submitted: it asks the provider for a batch with that tag instead of submitting, and paying for,
the same requests again. While a request is in here it is sent nowhere else.

A request leaves in the transaction that makes its answer durable, with what it is billed; the
batch leaves with its last one. What it may be billed is in `in_flight` until then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.models.budget import Usage
from pipeline.models.journal import spending
from pipeline.models.journal.database import errors_explained
from pipeline.models.journal.spending import Account

SCHEMA: Final = (
    """
CREATE TABLE IF NOT EXISTS batches (
    tag      TEXT NOT NULL PRIMARY KEY,  -- our own, which goes along with the batch
    id       TEXT,                       -- the provider's; null until it answers the submission
    file     TEXT,                       -- of its requests, where a provider takes a file
    server   TEXT NOT NULL,              -- the address
    begun    TEXT NOT NULL,              -- before it was submitted, in UTC
    recipe   TEXT NOT NULL,
    stage    TEXT NOT NULL,
    model    TEXT NOT NULL,              -- the identity, as in requests
    currency TEXT NOT NULL,
    requests INTEGER NOT NULL,
    answered INTEGER NOT NULL DEFAULT 0,
    failed   INTEGER NOT NULL DEFAULT 0,
    status   TEXT NOT NULL DEFAULT ''    -- as the provider said last
)
""",
    """
CREATE TABLE IF NOT EXISTS batch_requests (
    key     BLOB NOT NULL,
    batch   TEXT NOT NULL,     -- the tag
    request TEXT NOT NULL,     -- canonical JSON of the whole payload
    sent    TEXT,              -- as in `responses`
    tries   INTEGER NOT NULL,  -- how often it was in a batch before
    PRIMARY KEY (key, batch)
)
""",
    "CREATE INDEX IF NOT EXISTS requests_of_batch ON batch_requests (batch)",
)
HAS_TABLES: Final = (
    "SELECT count(*) = 2 FROM sqlite_master WHERE name IN ('batches', 'batch_requests')"
)
IS_EMPTY: Final = "SELECT NOT EXISTS (SELECT 1 FROM batch_requests WHERE batch = ?)"
COLUMNS: Final = (
    "tag, id, file, server, begun, recipe, stage, model, currency, requests, answered, failed, "
    "status"
)
HOLDING: Final = """
WITH RECURSIVE requested(start) AS (
    SELECT 1 UNION ALL SELECT start + 16 FROM requested WHERE start + 16 < length(?1)
)
SELECT batch, key FROM batch_requests
WHERE key IN (SELECT substr(?1, start, 16) FROM requested)
"""
"""The batches of many keys, which are concatenated in one parameter."""


@dataclass(frozen=True)
class BatchRecord:
    """A batch that is under way.

    Args:
        tag: Our own name of it: 32 hex digits.
        server: The address of the server.
        begun: When it was about to be submitted.
        account: To what its requests are charged.
        requests: How many it was submitted with.
        id: The provider's name of it; None until it has answered the submission.
        file: The provider's name of the file with its requests; None where there is none.
        answered: How many of them were answered, as far as the provider has said.
        failed: How many of them failed, likewise.
        status: Its state, as the provider said last.
    """

    tag: str
    server: str
    begun: datetime
    account: Account
    requests: int
    id: str | None = None
    file: str | None = None
    answered: int = 0
    failed: int = 0
    status: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.id or f"{self.tag[:8]} (not yet confirmed)"

    def progress(self) -> str:
        """How far it is, in a few words.

        Example:
            >>> begun = datetime(2026, 11, 30, 9, 5)
            >>> account = Account("r", "s", "{}", "")
            >>> BatchRecord("0" * 32, "https://a", begun, account, 1000, answered=300).progress()
            '300 of 1,000 answered, submitted 2026-11-30 09:05 UTC'
        """
        failed = f", {self.failed:,} failed" if self.failed else ""
        when = f"{self.begun:%Y-%m-%d %H:%M} UTC"
        return f"{self.answered:,} of {self.requests:,} answered{failed}, submitted {when}"


class BatchRequest(NamedTuple):
    """A request in a batch.

    Attributes:
        key: Its key: 32 hex digits.
        request: Its full payload, as canonical JSON.
        sent: What goes to the server beside the prompt, as JSON, where that is not the plain
            spelling.
        tries: How often it was in a batch before.
    """

    key: str
    request: str
    sent: str | None
    tries: int


class Batches:
    """The batches in a journal; see the module's docstring.

    Args:
        connection: The journal's.
        path: The journal's file, for messages.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    @property
    def _exist(self) -> bool:
        return bool(self._connection.execute(HAS_TABLES).fetchone()[0])

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with errors_explained(self._path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in () if self._exist else SCHEMA:
                self._connection.execute(statement)
            yield self._connection

    def begin(self, batch: BatchRecord, requests: Iterable[BatchRequest], most: Usage) -> None:
        """Make a batch durable that is about to be submitted.

        Args:
            batch: The batch.
            requests: Its requests.
            most: The most that it may be billed.
        """
        rows = [(bytes.fromhex(r.key), batch.tag, r.request, r.sent, r.tries) for r in requests]
        with self._writing() as connection:
            values = (batch.tag, batch.server, batch.begun.isoformat(), *batch.account)
            connection.execute(
                "INSERT INTO batches (tag, server, begun, recipe, stage, model, currency, requests)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, batch.requests),
            )
            connection.executemany("INSERT INTO batch_requests VALUES (?, ?, ?, ?, ?)", rows)
            spending.set_in_flight(connection, batch.tag, batch.account, most)

    def note_file(self, tag: str, file: str) -> None:
        """Make durable what the provider calls the file with a batch's requests."""
        with self._writing() as connection:
            connection.execute("UPDATE batches SET file = ? WHERE tag = ?", (file, tag))

    def note_id(self, tag: str, id: str) -> None:
        """Make durable what the provider calls a batch."""
        with self._writing() as connection:
            connection.execute("UPDATE batches SET id = ? WHERE tag = ?", (id, tag))

    def note_progress(self, batch: BatchRecord) -> None:
        """Keep how far a batch is, for whoever asks meanwhile.

        Args:
            batch: The batch as it is now.
        """
        values = (batch.answered, batch.failed, batch.status, batch.tag)
        with self._writing() as connection:
            connection.execute(
                "UPDATE batches SET answered = ?, failed = ?, status = ? WHERE tag = ?", values
            )

    def end(self, tag: str, is_billed: bool = False) -> None:
        """Remove a batch with whatever requests it still has: they may be sent again.

        Args:
            tag: Our own name of it.
            is_billed: Whether the provider may still bill them, so that they stay in `in_flight`.
        """
        with self._writing() as connection:
            _remove(connection, tag, is_billed)

    def most(self, tag: str) -> tuple[date, Usage] | None:
        """The day of a batch, and the most that it may be billed; None where nobody bills it."""
        with errors_explained(self._path):
            return spending.in_flight(self._connection, tag)

    def open(self) -> list[BatchRecord]:
        """The batches that are under way, the oldest first."""
        with errors_explained(self._path):
            if not self._exist:
                return []
            query = f"SELECT {COLUMNS} FROM batches ORDER BY begun, tag"
            return [_record(*row) for row in self._connection.execute(query)]

    def holding(self, keys: Sequence[str]) -> dict[str, set[str]]:
        """The keys that batches hold of these, by the batches' tags.

        Args:
            keys: Keys of requests.
        """
        result: dict[str, set[str]] = {}
        with errors_explained(self._path):
            if not keys or not self._exist:
                return result
            parameter = [bytes.fromhex("".join(keys))]
            for tag, key in self._connection.execute(HOLDING, parameter):
                result.setdefault(tag, set()).add(key.hex())
        return result

    def requests(self, tag: str, keys: Sequence[str] | None = None) -> list[BatchRequest]:
        """The requests that a batch still has, in the order in which they were submitted.

        Args:
            tag: Our own name of it.
            keys: Only these; all, with empty payloads, without it.
        """
        payload = "''" if keys is None else "request"
        query = f"SELECT key, {payload}, sent, tries FROM batch_requests WHERE batch = ?"
        in_order = f"{query} ORDER BY rowid"
        with errors_explained(self._path):
            if keys is None:
                rows = list(self._connection.execute(in_order, [tag]))
            else:
                rows = []
                for key in keys:
                    parameters = [tag, bytes.fromhex(key)]
                    rows += self._connection.execute(f"{query} AND key = ?", parameters)
        return [BatchRequest(key.hex(), *rest) for key, *rest in rows]


def _record(tag: str, id: str | None, file: str | None, server: str, begun: str, *rest: str
) -> BatchRecord:  # fmt: skip
    *account, requests, answered, failed, status = rest
    counts = int(requests), int(answered), int(failed)
    when = datetime.fromisoformat(begun)
    return BatchRecord(
        tag, server, when, Account(*account), counts[0], id, file, *counts[1:], status=status
    )


def remove_requests(connection: sqlite3.Connection, tag: str, keys: Sequence[str]) -> None:
    """Remove requests that are done with their batch, and with the last one the batch.

    In the transaction that is begun.

    Args:
        connection: The journal's.
        tag: The batch.
        keys: Their keys.
    """
    rows = [(bytes.fromhex(key), tag) for key in keys]
    connection.executemany("DELETE FROM batch_requests WHERE key = ? AND batch = ?", rows)
    if connection.execute(IS_EMPTY, [tag]).fetchone()[0]:
        _remove(connection, tag)


def _remove(connection: sqlite3.Connection, tag: str, is_billed: bool = False) -> None:
    connection.execute("DELETE FROM batches WHERE tag = ?", [tag])
    connection.execute("DELETE FROM batch_requests WHERE batch = ?", [tag])
    if not is_billed:
        spending.set_in_flight(connection, tag, Account("", "", "", ""), Usage())
