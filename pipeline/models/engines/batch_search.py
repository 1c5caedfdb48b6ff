"""Whether a batch is on the server whose creation was not answered."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Final

from pipeline.models.engines.batch_results import Download, ResultReader
from pipeline.models.http.batches import BatchState
from pipeline.models.http.batches.calls import BatchCalls, NoAnswerError, UnknownBatchError
from pipeline.models.journal.batches import BatchRecord

CLOCKS: Final = timedelta(days=1)
"""By how much a provider's clock may differ from ours; only the search is longer for it."""


def search(
    calls: BatchCalls,
    record: BatchRecord,
    known: Collection[str | None],
    download: Download,
) -> tuple[BatchState | None, bool]:
    """Look for a batch on the server.

    Where the provider keeps no tag of ours, a batch shows whose it is by its results alone: one
    that may be ours is awaited.

    Args:
        calls: The calls to the server.
        record: What was to be submitted.
        known: The names of batches that are others.
        download: Downloads results to a file.

    Returns:
        The batch, None where it is not there; and whether that is certain.

    Raises:
        NoAnswerError: The server does not answer.
    """
    undecided = False
    for state in _candidates(calls, record, known):
        if calls.interface.KEEPS_TAGS:
            is_ours = state.tag == record.tag or state.file == record.file
        else:
            undecided = undecided or not state.ended
            is_ours = state.ended and _has_our_names(calls, record, state, download)
        if is_ours:
            return state, True
    return None, not undecided


def _candidates(
    calls: BatchCalls, record: BatchRecord, known: Collection[str | None]
) -> Iterator[BatchState]:
    """The batches on the server that may be the one; without a count they are not run yet."""
    for state in calls.newest():
        if state.created is not None and state.created < record.begun - CLOCKS:
            return
        if state.id not in known and state.requests in (0, record.requests):
            yield state


def _has_our_names(
    calls: BatchCalls, record: BatchRecord, state: BatchState, download: Download
) -> bool:
    """Whether the results of a batch are those of our requests.

    Raises:
        NoAnswerError: What came are no results.
    """
    reader = ResultReader(calls.interface, record.tag)
    for path in state.results:
        try:
            with download(path) as file:
                if any(True for _ in reader.results(file)):
                    return True
        except UnknownBatchError:
            return False  # another's, whose results are gone
    if state.answered + state.failed > reader.foreign == 0:
        raise NoAnswerError(f"the results of batch {state.id} are none")
    return False
