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

SQLite does not see that a disk changed a text. A request is what its key is a digest of, and a
response has a checksum: one that is not what was written counts as no answer.

The store must be on a local disk: the write-ahead log needs shared memory, which network
file systems do not have.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from xxhash import xxh3_64_digest

from pipeline.errors import UserError
from pipeline.models.journal.batches import Batches, remove_requests
from pipeline.models.journal.database import DAMAGED_HINT, connect, errors_explained, is_damage
from pipeline.models.journal.queries import (
    ANSWERED,
    ENTRIES,
    INSERT,
    INSERT_MISSING,
    LENGTHS_SAMPLE,
    MODELS,
    NEWEST,
    SELECT,
)
from pipeline.models.journal.responses import (
    UNREADABLE,
    ParsedResponse,
    RawResponse,
    parse_response,
)
from pipeline.models.journal.spending import Charge, Spending, record, spendings
from pipeline.store.files import OTHER_STORE, DamagedFile, check_kind, warn
from pipeline.store.hashing import encode

NAME = "journal.sqlite"


class JournalEntry(NamedTuple):
    """An entry to be written.

    Attributes:
        key: 32 hex digits: the digest of `request`.
        request: The request's full payload, as canonical JSON.
        response: The raw response as a JSON object, or as a JSON text that is stored
            unchanged.
        sent: What was sent to a server beside the prompt, as JSON, where that is not the plain
            spelling of the request.
    """

    key: str
    request: str
    response: RawResponse
    sent: str | None = None


class Lengths(NamedTuple):
    """Tokens of a model's requests.

    Attributes:
        prompt: Of a prompt, on average.
        answer: Of an answer, on average.
        beyond: The most by which an answer was billed beyond its `max_tokens`.
    """

    prompt: float
    answer: float
    beyond: int = 0


class StoredEntry(NamedTuple):
    """An entry as it is stored; in a damaged one bytes that are no text are replaced.

    Attributes:
        key: 32 hex digits: the digest of `request`.
        request: The request's full payload, as canonical JSON.
        response: The raw response, as a JSON text.
        answers: How often the request was answered; the first answer is the stored one.
        sound: Whether the response is what was written; None where nothing can say that.
        sent: What was sent to a server beside the prompt; see `JournalEntry`.
    """

    key: str
    request: str
    response: str
    answers: int
    sound: bool | None
    sent: str | None


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
        self._damaged: set[bytes] = set()
        check_kind(folder, "the journal", folder=True)
        check_kind(self.path, "the journal's file", folder=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = connect(self.path)
        except (sqlite3.DatabaseError, OSError) as error:
            raise UserError(
                "the request journal cannot be opened",
                where=str(self.path),
                why=str(error),
                hint=DAMAGED_HINT if is_damage(error) else OTHER_STORE,
            ) from error

    def get_many(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The responses by key, of those requests that are answered.

        A damaged one is not among them, with a warning: its request counts as unanswered, and
        `put_many` puts another answer in its place.

        Raises:
            UserError: The journal is damaged as a whole, or cannot be read.
        """
        responses: dict[str, dict[str, Any]] = {}
        with errors_explained(self.path):
            for key, content, checksum in self._connection.execute(
                SELECT, [bytes.fromhex("".join(keys))]
            ):
                response = _loaded(key, content, checksum)
                if response is not None:
                    responses[key.hex()] = response
                    continue
                self._damaged.add(key)
                damage = DamagedFile(self.path, f"the answer {key.hex()} is not as written")
                warn(damage, "its request counts as unanswered")
        return responses

    @property
    def batches(self) -> Batches:
        """The batches of providers that are under way."""
        return Batches(self._connection, self.path)

    def put_many(
        self,
        entries: Iterable[JournalEntry],
        charge: Charge | None = None,
        ended: tuple[str, Sequence[str]] | None = None,
    ) -> None:
        """Make entries durable, all or none. A key that has an answer keeps it.

        Args:
            entries: The entries.
            charge: What they and answers that were thrown away are billed.
            ended: The tag of a provider's batch, with the keys of requests that are done with it.

        Raises:
            UserError: The journal is damaged or cannot be written.
        """
        rows = _rows(entries)
        with errors_explained(self.path), self._connection:
            # IMMEDIATE takes the write lock at once: a transaction that reads first could
            # not wait for another writer and would fail instead.
            self._connection.execute("BEGIN IMMEDIATE")
            self._remove_damaged([key for key, *_ in rows if key in self._damaged])
            self._connection.executemany(INSERT, rows)
            if charge is not None:
                record(self._connection, charge)
            if ended is not None:
                remove_requests(self._connection, *ended)

    def spendings(self, since: date | None = None) -> list[Spending]:
        """What was paid since a day; all without one. See `pipeline.models.journal.spending`."""
        with errors_explained(self.path):
            return list(spendings(self._connection, since))

    def add_missing(self, entries: Iterable[JournalEntry]) -> int:
        """Add entries of another journal whose keys have no sound answer; how many were new."""
        rows = _rows(entries)
        with errors_explained(self.path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._remove_damaged([key for key, *_ in rows])
            return self._connection.executemany(INSERT_MISSING, rows).rowcount

    def _remove_damaged(self, keys: Sequence[bytes]) -> None:
        """Remove those of some entries whose response is damaged, in the transaction begun."""
        stored = self._connection.execute(SELECT, [b"".join(keys)]) if keys else ()
        damaged = [(key,) for key, *rest in stored if _loaded(key, *rest) is None]
        self._connection.executemany("DELETE FROM responses WHERE key = ?", damaged)
        self._damaged.difference_update(keys)

    def entries(self) -> Iterator[StoredEntry]:
        """All entries, in the order of the keys."""
        with errors_explained(self.path):
            rows = self._connection.execute(ENTRIES)
            for key, request, response, answers, checksum, sent in rows:
                sound = None if checksum is None else checksum == _checksum(key, response)
                texts = (request.decode(errors="replace"), response.decode(errors="replace"))
                yield StoredEntry(key.hex(), *texts, answers, sound, sent)

    def integrity(self) -> list[str]:
        """What SQLite's own check finds wrong with the file; empty for a sound one."""
        with errors_explained(self.path):
            messages = [text for (text,) in self._connection.execute("PRAGMA integrity_check")]
        return [] if messages == ["ok"] else messages

    def count(self) -> int:
        """Number of answered requests."""
        with errors_explained(self.path):
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

    def has_answered(self, payload: str) -> bool:
        """Whether a model answered a newer request that was sampled as this one is.

        Args:
            payload: The request's payload.
        """
        request = json.loads(payload)
        parts = [encode(request[name]).decode() for name in ("model", "decoding")]
        with errors_explained(self.path):
            return bool(self._connection.execute(ANSWERED, parts).fetchone()[0])

    def lengths(self, model: Mapping[str, Any]) -> Lengths | None:
        """What is known of a model's requests from its newest ones; None without any.

        Args:
            model: The model's identity.
        """
        with errors_explained(self.path):
            rows = self._connection.execute(NEWEST, [encode(model).decode(), LENGTHS_SAMPLE])
            loaded = [(key, _loaded(key, *stored), limit) for key, *stored, limit in rows]
        answers = [
            (parse_stored(self.path, key.hex(), value), int(limit or 0))
            for key, value, limit in loaded
            if value
        ]
        if not answers:
            return None
        prompts = sum(answer.prompt_tokens for answer, _ in answers)
        completions = sum(answer.completion_tokens for answer, _ in answers)
        beyond = max(answer.completion_tokens - limit for answer, limit in answers)
        return Lengths(prompts / len(answers), completions / len(answers), max(0, beyond))

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
        why="its content is not what was written",
        hint="restore a copy of it: `journal import` puts a sound entry in the place of a "
        "damaged one, and a run that needs it sends its request again",
    )


def _rows(entries: Iterable[JournalEntry]) -> list[tuple[bytes, str, str, bytes, str | None]]:
    rows = [(bytes.fromhex(e.key), e.request, _json_text(e.response), e.sent) for e in entries]
    return [
        (k, request, response, _checksum(k, response.encode()), sent)
        for k, request, response, sent in rows
    ]


def _checksum(key: bytes, response: bytes) -> bytes:
    return xxh3_64_digest(key + response)


def _loaded(key: bytes, response: bytes, checksum: bytes | None) -> dict[str, Any] | None:
    """A stored response, None for one that is not what was written."""
    if checksum is not None and checksum != _checksum(key, response):
        return None
    try:
        value = json.loads(response.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json_text(response: RawResponse) -> str:
    return response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)
