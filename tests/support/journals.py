"""What tests ask of a journal that nothing else does."""

from __future__ import annotations

from pipeline.models.journal.journal import Journal


def max_answers(journal: Journal) -> int:
    """The largest number of answers to one request: 1 if none was sent twice; 0 if none at all."""
    return max((entry.answers for entry in journal.entries()), default=0)
