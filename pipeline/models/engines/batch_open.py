"""A batch that is under way, as the scheduler keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.models.api import Limits
from pipeline.models.journal.batches import BatchRecord


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
