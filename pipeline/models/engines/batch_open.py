"""A batch that is under way, as the scheduler keeps it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pipeline.models.api import Limits
from pipeline.models.journal.batches import BatchRecord
from pipeline.models.journal.journal import Journal

UNKNOWN: Final = "not known since "
"""How the status of a batch begins that the server does not know, or not any more."""
RESULTS: Final = "results "
"""What stands before that where the server knows the batch, and not its results."""


@dataclass
class OpenBatch:
    """A batch that is under way.

    Args:
        record: What the journal has of it.
        keys: Its requests that are asked now.
        missed: When its submission was not answered; of an earlier run, when this one began.
        is_adopted: Whether an earlier run began it.
    """

    record: BatchRecord
    keys: set[str]
    missed: datetime | None = None
    is_adopted: bool = False

    def is_lost(self, grace: timedelta, limits: Limits) -> bool:
        """Whether it would be listed by now, had its submission arrived.

        The time counts from when the submission was not answered. Of an earlier run that is not
        known: it counts from when this run began, or from when that one must have stopped trying.

        Args:
            grace: How long a batch may take to be listed.
            limits: How long a call may take: an upload, then a submission.
        """
        now = datetime.now(UTC)
        if self.missed is not None and now > self.missed + grace:
            return True
        longest = 2 * timedelta(seconds=limits.timeout + limits.patience)
        return self.is_adopted and now > self.record.begun + longest + grace

    @property
    def unknown_since(self) -> datetime | None:
        """When the server said first that it does not know the batch; None where it does."""
        _, prefix, when = self.record.status.rpartition(UNKNOWN)
        return datetime.fromisoformat(when) if prefix else None

    @property
    def lacks_results(self) -> bool:
        """Whether the server said last that it does not know the results."""
        return self.record.status.startswith(RESULTS + UNKNOWN)

    def note_unknown(self, journal: Journal, grace: timedelta, what: str = "") -> bool:
        """Keep that the server does not know it; whether it has said so for too long.

        Args:
            journal: The journal.
            grace: How long that may be a passing fault of the server.
            what: `RESULTS` where it knows the batch, and not its results.
        """
        now = datetime.now(UTC)
        since = self.unknown_since or now
        self.note(journal, status=f"{what}{UNKNOWN}{since.isoformat()}")
        return now > since + grace

    def note(self, journal: Journal, **changes: Any) -> None:
        """Keep how far the batch is.

        Args:
            journal: The journal.
            changes: Fields of the record.
        """
        now = replace(self.record, **changes)
        if now != self.record:
            self.record = now
            journal.batches.note_progress(now)

    def confirm(self, journal: Journal, id: str) -> None:
        """Keep what the provider calls the batch.

        Args:
            journal: The journal.
            id: Its name there.
        """
        journal.batches.note_id(self.record.tag, id)
        self.record = replace(self.record, id=id)
