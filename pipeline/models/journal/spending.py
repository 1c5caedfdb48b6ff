"""What was paid, by day, recipe, stage and model: two tables in the journal's file.

What an answer is billed is added to `spending` in the transaction that makes the answer
durable, so neither is there without the other. Answers that were thrown away are added as well.

A process that is killed has requests in flight, which are billed and never answered. So before
requests are sent, `in_flight` holds at least what they may be billed; it is lowered and at last
removed as they end. What is left there was in flight when a process ended: at most so much was
paid besides. It is raised and lowered by factors, so writing it costs a few commits a stage.
A provider's batch is in there until its last answer is durable.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.errors import UserError
from pipeline.models.budget import Usage
from pipeline.models.journal.usage import TokenUsage

LOCK_TIMEOUT: Final = 60.0
"""Seconds to wait for another process to commit."""
RAISED_TO: Final = 2
"""What is in flight is written down as so many times of what it is, to be written seldom."""
LOWERED_BELOW: Final = 8
"""It is lowered once it is more than so many times of what is in flight."""

SCHEMA: Final = (
    """
CREATE TABLE IF NOT EXISTS spending (
    day           TEXT NOT NULL,     -- of the answers, in UTC
    recipe        TEXT NOT NULL,
    stage         TEXT NOT NULL,     -- its name in the recipe
    model         TEXT NOT NULL,     -- the identity, as in requests
    currency      TEXT NOT NULL,     -- empty for a model without a price
    requests      INTEGER NOT NULL,
    prompt        INTEGER NOT NULL,  -- tokens; see TokenUsage
    cached        INTEGER NOT NULL,
    completion    INTEGER NOT NULL,
    reasoning     INTEGER NOT NULL,
    cache_written INTEGER NOT NULL,
    money         REAL NOT NULL,
    PRIMARY KEY (day, recipe, stage, model, currency)
)
""",
    """
CREATE TABLE IF NOT EXISTS in_flight (
    id       TEXT NOT NULL PRIMARY KEY,
    day      TEXT NOT NULL,
    recipe   TEXT NOT NULL,
    stage    TEXT NOT NULL,
    model    TEXT NOT NULL,
    currency TEXT NOT NULL,
    requests INTEGER NOT NULL,
    tokens   INTEGER NOT NULL,
    money    REAL NOT NULL
)
""",
)
HAS_TABLES: Final = "SELECT count(*) = 2 FROM sqlite_master WHERE name IN ('spending', 'in_flight')"
ADD: Final = """
INSERT INTO spending VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    prompt = prompt + excluded.prompt,
    cached = cached + excluded.cached,
    completion = completion + excluded.completion,
    reasoning = reasoning + excluded.reasoning,
    cache_written = cache_written + excluded.cache_written,
    money = money + excluded.money
"""


class Account(NamedTuple):
    """To what requests are charged.

    Attributes:
        recipe: The recipe; empty where a stage is called as a plain function.
        stage: The stage's name in it.
        model: The model's identity, in canonical JSON.
        currency: Of the model's price; empty for a model without one.
    """

    recipe: str
    stage: str
    model: str
    currency: str


@dataclass(frozen=True)
class Charge:
    """What requests to one model were billed.

    Args:
        account: To what they are charged.
        requests: How many answers came.
        tokens: What they are billed.
        money: Its price.
    """

    account: Account
    requests: int
    tokens: TokenUsage
    money: float

    def counters(self) -> dict[str, int]:
        """The counters of a stage to which it is added."""
        tokens = self.tokens
        counts = {"prompt_tokens": tokens.prompt, "completion_tokens": tokens.completion}
        some = {"cached_prompt_tokens": tokens.cached, "reasoning_tokens": tokens.reasoning}
        counts |= {name: count for name, count in some.items() if count}
        return {"requests": self.requests, **counts}


@dataclass(frozen=True)
class Spending:
    """What was paid on one day on one account.

    Args:
        day: The day, in UTC.
        account: Recipe, stage and model.
        usage: Requests, tokens and money.
        tokens: The tokens by kind; nothing of requests without an answer.
        answered: Whether answers came; else it is the most that may have been billed for what
            was in flight when a process ended.
    """

    day: date
    account: Account
    usage: Usage
    tokens: TokenUsage
    answered: bool


def today() -> date:
    """The day, in UTC."""
    return datetime.now(UTC).date()


def record(connection: sqlite3.Connection, charge: Charge) -> None:
    """Add a charge, in the transaction that is begun.

    Args:
        connection: The journal's.
        charge: What was billed.
    """
    create(connection)
    t = charge.tokens
    tokens = (t.prompt, t.cached, t.completion, t.reasoning, t.cache_written)
    row = (str(today()), *charge.account, charge.requests, *tokens, charge.money)
    connection.execute(ADD, row)


def create(connection: sqlite3.Connection) -> None:
    """Create the tables where they are missing, in the transaction that is begun."""
    if connection.execute(HAS_TABLES).fetchone() == (0,):
        for statement in SCHEMA:
            connection.execute(statement)


def spendings(connection: sqlite3.Connection, since: date | None = None) -> Iterator[Spending]:
    """What was paid, by day, recipe, stage and model.

    Args:
        connection: The journal's.
        since: The first day; None for all.
    """
    if connection.execute(HAS_TABLES).fetchone() == (0,):
        return
    first = str(since or "")
    query = "SELECT * FROM spending WHERE day >= ? ORDER BY day, recipe, stage, model, currency"
    for day, *account, requests, p, cached, c, reasoning, written, money in connection.execute(
        query, [first]
    ):
        tokens = TokenUsage(p, cached, c, reasoning, written)
        usage = Usage(requests, p + c, money)
        yield Spending(date.fromisoformat(day), Account(*account), usage, tokens, answered=True)
    query = "SELECT * FROM in_flight WHERE day >= ? ORDER BY day, id"
    for _, day, *account, requests, tokens, money in connection.execute(query, [first]):
        usage = Usage(requests, tokens, money)
        at = date.fromisoformat(day)
        yield Spending(at, Account(*account), usage, TokenUsage(), answered=False)


def set_in_flight(connection: sqlite3.Connection, id: str, account: Account, usage: Usage) -> None:
    """Write what may be billed for requests that are under way, in the transaction that is begun.

    Args:
        connection: The journal's.
        id: What they are listed under.
        account: To what they are charged.
        usage: The most that they may be billed; nothing takes them off the list.
    """
    create(connection)
    if usage == Usage():
        connection.execute("DELETE FROM in_flight WHERE id = ?", [id])
        return
    row = (id, str(today()), *account, *_amounts(usage))
    connection.execute("INSERT OR REPLACE INTO in_flight VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def in_flight(connection: sqlite3.Connection, id: str) -> tuple[date, Usage] | None:
    """Since when requests are under way, and what they may be billed; None for none.

    Args:
        connection: The journal's.
        id: What they are listed under; see `set_in_flight`.
    """
    if connection.execute(HAS_TABLES).fetchone() == (0,):
        return None
    query = "SELECT day, requests, tokens, money FROM in_flight WHERE id = ?"
    row = connection.execute(query, [id]).fetchone()
    return None if row is None else (date.fromisoformat(row[0]), Usage(*row[1:]))


class InFlight:
    """What may be billed for the requests of one stage to one model that are in flight, durable.

    It has a connection of its own, which any one thread at a time may use.

    Args:
        path: The journal's file.
        account: To what the requests are charged.
    """

    def __init__(self, path: Path, account: Account) -> None:
        self._path, self._account = path, account
        self._id = uuid.uuid4().hex
        self._connection: sqlite3.Connection | None = None
        self._written = Usage()

    def cover(self, usage: Usage) -> None:
        """Make durable that so much may be in flight, before it is.

        Args:
            usage: All that is in flight, with what is about to be sent.

        Raises:
            UserError: The journal cannot be written.
        """
        written = self._written
        pairs = list(zip(_amounts(usage), _amounts(written), strict=True))
        short = any(now > before for now, before in pairs)
        if short or all(LOWERED_BELOW * now < before for now, before in pairs if before):
            self._write(_times(usage, RAISED_TO))

    def end(self, usage: Usage) -> None:
        """Write what is left in flight once nothing more is sent: nothing, if all has ended.

        Args:
            usage: What was sent and has not ended.
        """
        if self._connection is not None:
            self._write(usage)
            self._connection.close()
            self._connection = None

    def _write(self, usage: Usage) -> None:
        try:
            connection = self._connection = self._connection or sqlite3.connect(
                self._path, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                set_in_flight(connection, self._id, self._account, usage)
        except sqlite3.DatabaseError as error:
            raise UserError(
                "the request journal cannot be written",
                where=str(self._path),
                why=str(error),
                hint="free some space or choose another folder with --store DIR; nothing is lost",
            ) from error
        self._written = usage


def _amounts(usage: Usage) -> tuple[int, int, float]:
    return usage.requests, usage.tokens, usage.money


def _times(usage: Usage, factor: int) -> Usage:
    return Usage(usage.requests * factor, usage.tokens * factor, usage.money * factor)
