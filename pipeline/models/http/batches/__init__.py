"""The batches of providers: many requests at once, answered within a day for half the price.

One module for each form, with the pure functions that `BatchInterface` lists; the calls to a
server are in `calls.py`. Who decides what is submitted, and what becomes of it, is
`pipeline.models.engines.batches`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol


class BatchProblem(NamedTuple):
    """Why a provider did not take a batch.

    Attributes:
        code: The provider's word for it.
        message: The same for people.
        line: The number of the request that it is about, from 1; None for the whole batch.
    """

    code: str
    message: str
    line: int | None


class BatchState(NamedTuple):
    """What a provider says of a batch.

    Attributes:
        id: Its name there.
        status: Its state, in the provider's word.
        ended: Whether there will be no further results.
        refused: Whether nothing of it was run.
        requests: How many requests it has.
        answered: How many of them were answered.
        failed: How many of them failed.
        created: When it was created; None where that is not said.
        results: Where the results are: paths relative to the base address.
        problems: Why it was refused.
        tag: Our own name of it, where the provider keeps that.
        file: The file with its requests, where there is one.
    """

    id: str
    status: str
    ended: bool
    refused: bool
    requests: int
    answered: int
    failed: int
    created: datetime | None
    results: tuple[str, ...]
    problems: tuple[BatchProblem, ...] = ()
    tag: str | None = None
    file: str | None = None


class BatchResult(NamedTuple):
    """What became of one request of a batch.

    Attributes:
        custom_id: Our name of the request.
        code: The status code with which it was answered; None where it was not run.
        content: What it was answered with, as parsed JSON; why it was not run, where it was not.
    """

    custom_id: str
    code: int | None
    content: Any


class BatchInterface(Protocol):
    """What a module of this package has.

    Attributes:
        MAX_REQUESTS: Most requests of a batch.
        MAX_BYTES: Most bytes of what is submitted.
        TAKES_FILES: Whether requests are uploaded as a file first.
        KEEPS_TAGS: Whether a batch can be recognised as ours before it has results.
        AROUND: What stands before the requests, between two of them and behind them, as they
            are uploaded or submitted.
    """

    MAX_REQUESTS: int
    MAX_BYTES: int
    TAKES_FILES: bool
    KEEPS_TAGS: bool
    AROUND: tuple[bytes, bytes, bytes]

    def line(self, custom_id: str, path: str, body: Mapping[str, Any]) -> bytes:
        """One request of a batch.

        Args:
            custom_id: Our name of it.
            path: Where it would go by itself, relative to the base address.
            body: What would be sent.
        """
        ...

    def submission(self, tag: str, file: str, path: str, window: str) -> dict[str, Any]:
        """What creates a batch out of a file.

        Args:
            tag: Our own name of it.
            file: The file.
            path: Where its requests would go by themselves.
            window: See `Batching.completion_window`.
        """
        ...

    def address(self, id: str = "") -> str:
        """The path of all batches, or of one."""
        ...

    def listing(self, after: str | None) -> str:
        """The path of the newest batches, or of those after one."""
        ...

    def state(self, raw: Any) -> BatchState:
        """What a provider says of a batch, out of its JSON.

        Raises:
            LookupError: It is none.
            TypeError: It is none.
            ValueError: It is none.
        """
        ...

    def result(self, raw: Any) -> BatchResult:
        """What became of a request, out of a line of the results.

        Raises:
            LookupError: It is no result.
            TypeError: It is no result.
            ValueError: It is no result.
        """
        ...


NO_STATE: Final = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading raises for what is no batch, or no result of one."""

MAX_COUNT: Final = 10**9
"""Requests; no batch has near as many."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def count(value: Any) -> int:
    """A number of requests; 0 for null.

    Args:
        value: What a provider sent.

    Raises:
        TypeError: It is no number.
        ValueError: It cannot be one of requests.
        OverflowError: It is infinite.
    """
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"must be a number of requests, got {type(value).__name__}")
    if not 0 <= value <= MAX_COUNT or value != int(value):
        raise ValueError(f"must be a number of requests, got {value}")
    return int(value)


def name(value: Any) -> str:
    """A name that a provider gave, such as that of a batch.

    Args:
        value: What it sent.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, or no Unicode text.

    Example:
        >>> name("batch_1")
        'batch_1'
    """
    if not isinstance(value, str):
        raise TypeError(f"must be a name, got {type(value).__name__}")
    if not value.encode():
        raise ValueError("must be a name, got nothing")
    return value


def moment(value: Any) -> datetime | None:
    """When something happened; None where that is not said, or not readable.

    A batch is one without it as well: only the search for one looks at it.

    Args:
        value: Seconds since 1970, or a time as ISO 8601 has it: in UTC without a zone.

    Example:
        >>> str(moment("2026-11-30T12:00:00")), str(moment(1795867200)), moment(10**17)
        ('2026-11-30 12:00:00+00:00', '2026-11-28 12:00:00+00:00', None)
    """
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time
        return EPOCH + timedelta(seconds=int(value))
    except (TypeError, ValueError, OverflowError):
        return None


TAG_CHARACTERS: Final = 16
KEY_CHARACTERS: Final = 32


def custom_id(key: str, tag: str) -> str:
    """The name of a request in a batch: its key, and the batch that it belongs to.

    Example:
        >>> custom_id("0" * 32, "f" * 32)
        '00000000000000000000000000000000-ffffffffffffffff'
    """
    return f"{key}-{tag[:TAG_CHARACTERS]}"


def key_in(name: Any, tag: str) -> str | None:
    """The key of a request by its name in a batch; None where it is not of this batch."""
    key = name[:KEY_CHARACTERS] if isinstance(name, str) else ""
    return key if name == custom_id(key, tag) else None
