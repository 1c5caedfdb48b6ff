"""Waiting for a server that cannot answer now: bounded, and no longer than it is worth.

What failed is tried again from its beginning, where the state of the place is read: nothing
is sent twice because an answer was lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from pipeline.errors import Exit, UserError

T = TypeVar("T")
DEFAULT_SECONDS: Final = 120.0
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 15.0


class TryLater(Exception):
    """A server that cannot answer now: it is busy, cannot be reached, or another one was faster.

    Args:
        why: What happened, in one sentence.
        retry_after: The seconds that it asks callers to wait.
    """

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.why, self.retry_after = why, retry_after


@dataclass
class Patience:
    """How long a call may wait for a server, over all its steps.

    Args:
        seconds: What failed requests and the waits after them may take together.
        address: Whose server it is, for the error.
        why: What is left of what was done, for the error.
        hint: What to do then.
    """

    seconds: float = DEFAULT_SECONDS
    address: str | None = None
    why: str = "nothing is lost: what was sent stays there, and no version is half published"
    hint: str = "the same command later (it sends only what is missing), or --wait SECONDS"

    def retry(self, step: Callable[[], T]) -> T:
        """The result of a step, which is tried until it succeeds or patience ends.

        Args:
            step: Something that may be done again: it reads the state of the place first.

        Raises:
            UserError: It did not succeed in time (exit code 9).
        """
        delay = _FIRST_DELAY
        while True:
            start = time.monotonic()
            try:
                return step()
            except TryLater as busy:
                self.seconds -= time.monotonic() - start
                pause = max(delay, busy.retry_after or 0.0)
                if pause > self.seconds:
                    raise self.ended(busy) from None
                time.sleep(pause)
                self.seconds -= pause
                delay = min(2 * delay, _LONGEST_DELAY)

    def ended(self, busy: TryLater) -> UserError:
        """The error of a server that did not answer in time."""
        after = f" (it asks to wait {busy.retry_after:.0f} s)" if busy.retry_after else ""
        return UserError(
            f"the server did not answer in time: {busy.why}{after}",
            where=self.address,
            why=self.why,
            hint=self.hint,
            code=Exit.TRY_AGAIN,
        )
