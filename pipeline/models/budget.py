"""The budget of a run: how many requests, tokens and money language models may use.

A recipe sets it: `budget: {requests: 1000, tokens: 2000000, money: 5}`, at the top for
the run as a whole and in a stage for that stage, with `prices: {writer: {prompt: 0.5,
completion: 1.5}}` in money per million tokens. It is execution only and enters no
fingerprint. Only requests that are really sent count: an answer from the journal is
free, and the next run starts with the full budget again. Weights that run in this
process cost nothing; a model that is attached by `base_url` needs a price before a
budget can be in money.

A request is admitted when its prompt and its longest possible answer fit into the
budget; when it has ended, what it did not use is given back. So a budget is never
exceeded, as far as the length of prompts is known on this side. Once it is exhausted
nothing more is sent, requests in flight are awaited and kept, and the run ends with
exit code 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from pipeline.errors import Exit, UserError

NOT_ASKED: Final = "not_asked"
"""How the error of a row begins that a partial run did not ask about: the budget was reached."""

MONEY_TOLERANCE: Final = 1e-9
"""How far a sum of money may exceed its limit by rounding."""


@dataclass(frozen=True)
class Price:
    """The price of a model, in whatever currency the budget is in.

    Args:
        prompt: Money per million tokens of prompts.
        completion: Money per million tokens of answers.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    prompt: float
    completion: float


@dataclass(frozen=True)
class Usage:
    """What requests used, or may use.

    Args:
        requests: Number of requests sent.
        tokens: Tokens of prompts and answers together.
        money: Their price; 0 for a model without one.

    Example:
        >>> Usage.of(2, 1_000_000, 500_000, Price(prompt=0.5, completion=1.5))
        Usage(requests=2, tokens=1500000, money=1.25)
    """

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests, self.tokens + other.tokens, self.money + other.money
        )

    @classmethod
    def of(cls, requests: int, prompt: int, completion: int, price: Price | None) -> Usage:
        """The usage of some requests together.

        Args:
            requests: Number of requests.
            prompt: Tokens of all their prompts.
            completion: Tokens of all their answers.
            price: The model's price, None for one that costs nothing.
        """
        money = (prompt * price.prompt + completion * price.completion) / 1e6 if price else 0.0
        return cls(requests, prompt + completion, money)


@dataclass(frozen=True)
class BudgetLimit:
    """What a recipe allows; None is no limit.

    Args:
        requests: Most requests that may be sent.
        tokens: Most tokens of prompts and answers together.
        money: Most money, in the currency of the prices.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None


@dataclass
class BudgetTracker:
    """A limit with the usage that counts against it, reservations included.

    Args:
        name: What the limit is called in messages: "the budget of the run".
        limit: What is allowed.
        requests: Requests sent or reserved so far.
        tokens: Tokens used or reserved so far.
        money: Money used or reserved so far.
        spent: What requests that have ended used, without any reservation.
    """

    name: str
    limit: BudgetLimit
    requests: int = 0
    tokens: int = 0
    money: float = 0.0
    spent: Usage = field(default_factory=Usage)

    def exceeded_by(self, usage: Usage) -> str | None:
        """The limit that this usage would exceed, such as "1,000 requests"; None if it fits."""
        limit = self.limit
        if limit.requests is not None and self.requests + usage.requests > limit.requests:
            return f"{limit.requests:,} requests"
        if limit.tokens is not None and self.tokens + usage.tokens > limit.tokens:
            return f"{limit.tokens:,} tokens"
        if limit.money is not None and self.money + usage.money > limit.money + MONEY_TOLERANCE:
            return f"{limit.money:,g} in money"
        return None

    def add(self, usage: Usage, sign: int = 1) -> None:
        """Count a usage; sign -1 takes it back."""
        self.requests += sign * usage.requests
        self.tokens += sign * usage.tokens
        self.money += sign * usage.money


@dataclass
class Budget:
    """All limits that apply to the requests of a stage: the run's and the stage's own.

    Args:
        trackers: One tracker for each limit. Without any, everything is admitted.
        partial: Whether a run goes on with what came once a limit is reached.

    Attributes:
        not_sent: Requests that a partial run did not send.

    Example:
        >>> run = BudgetTracker("the budget of the run", BudgetLimit(tokens=100))
        >>> budget = Budget([run])
        >>> budget.reserve(Usage(1, 80)), budget.reserve(Usage(1, 80))
        (True, False)
        >>> budget.reconcile(reserved=Usage(1, 80), actual=Usage(1, 30))
        >>> run.tokens
        30
    """

    trackers: Sequence[BudgetTracker] = ()
    partial: bool = False
    not_sent: int = field(default=0, init=False)
    _exhausted: str | None = field(default=None, repr=False)

    def reserve(self, usage: Usage) -> bool:
        """Count a usage in advance, if it fits into every limit; whether it did.

        Once a partial run did not send a request, it sends none: a smaller one that fits would
        be asked after an answer that is missing.
        """
        if self.not_sent:
            return False
        for tracker in self.trackers:
            if exceeded := tracker.exceeded_by(usage):
                self._exhausted = f"{tracker.name} is reached: {exceeded}"
                return False
        for tracker in self.trackers:
            tracker.add(usage)
        return True

    def reconcile(self, reserved: Usage, actual: Usage) -> None:
        """Replace a reservation by what was really used."""
        for tracker in self.trackers:
            tracker.add(reserved, -1)
            tracker.add(actual)
            tracker.spent += actual

    def leave_out(self, number: int) -> str:
        """Go on without some requests, which are not sent; the error of their rows."""
        self.not_sent += number
        return f"{NOT_ASKED}: {self._exhausted or 'the budget is reached'}"

    def exhausted(self, remaining: int) -> UserError:
        """The error that ends the run, with the number of requests that were not sent."""
        return UserError(
            self._exhausted or "the budget is reached",
            why=f"{remaining:,} requests are left",
            hint="run again to continue with a new budget, or raise it; all answers are kept "
            "(--partial goes on with what came)",
            code=Exit.BUDGET,
        )
