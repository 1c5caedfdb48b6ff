"""What ends a run that asks in a provider's batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipeline.errors import Exit, UserError
from pipeline.models.http.client import HttpClient
from pipeline.models.journal.batches import BatchRecord

MAX_SHOWN: Final = 3
"""Batches that a message names."""


def of_another_server(record: BatchRecord, count: int, client: HttpClient) -> UserError:
    """The error for requests that are in a batch of another server.

    Args:
        record: The batch.
        count: How many requests.
        client: The server that they would go to.
    """
    return UserError(
        f"base_url must be {record.server} until batch {record.name} has ended, got "
        f"{client.base_url}",
        where=client.model.short_name,
        why=f"{count:,} of the requests are in that batch: they would be paid for twice",
        hint="name that server once more, or give the batch up: `journal batches --forget "
        f"{record.id or record.tag}`",
    )


def unknown(record: BatchRecord, client: HttpClient, what: str = "batch") -> UserError:
    """The error for a batch that its server does not know.

    Args:
        record: The batch.
        client: The server.
        what: What of it, in words.
    """
    return UserError(
        f"the server does not know {what} {record.name}",
        where=client.base_url,
        why="its key is another account's, or that was deleted there",
        hint="run with the key that submitted it, or give it up and pay again: `journal "
        f"batches --forget {record.id or record.tag}`",
    )


def not_uploaded(record: BatchRecord, client: HttpClient, why: str) -> UserError:
    """The error for requests whose upload was not answered: nothing is submitted.

    Args:
        record: The batch.
        client: The server.
        why: What came instead.
    """
    return UserError(
        f"the {record.requests:,} requests of a batch cannot be uploaded",
        where=client.base_url,
        why=why,
        hint="run again later: nothing was submitted, and nothing is lost",
        code=Exit.TRY_AGAIN,
    )


def waiting(records: Sequence[BatchRecord], client: HttpClient, last_error: str) -> UserError:
    """What ends a run that has no more time to wait (exit code 6).

    Args:
        records: The batches that it waits for; none where a queue is full.
        client: The server.
        last_error: Why the server did not answer last; empty where it did.
    """
    names = ", ".join(record.name for record in records[:MAX_SHOWN])
    more = f" and {len(records) - MAX_SHOWN} more" if len(records) > MAX_SHOWN else ""
    what = f"waiting for batch{'es' * (len(records) > 1)} {names}{more}"
    if not records:
        what = "waiting for room in the provider's queue of batches"
    progress = [record.progress() for record in records[:MAX_SHOWN]]
    unanswered = [f"the server does not answer: {last_error}"] * bool(last_error)
    return UserError(
        what,
        where=f"{client.base_url} ({client.name})",
        why="; ".join([*progress, *unanswered]) or "what is under way there fills it",
        hint="run again later: what is answered by then is collected, nothing is sent twice",
        code=Exit.WAITING,
    )
