"""Budgets: how many requests, tokens and money language models may use.

A recipe sets them: `budget: {requests: 1000, tokens: 2000000, money: 5}`, at the top for
the recipe as a whole and in a stage for that stage, with `prices: {writer: {prompt: 0.5,
completion: 1.5, currency: EUR}}` in money per million tokens. They are execution only and enter
no fingerprint. Only what is really sent counts: an answer from the journal is free. Weights that
run in this process cost nothing; a model that is attached by `base_url` needs a price before a
budget can be in money.

A budget is that of a run, and the next run starts with the full one again; or, with `per: day`,
`week` or `month`, that of all runs of the recipe on a store within the calendar's day, week
(from Monday) or month, in UTC. What those used is read from the journal, where it is durable
before an answer is; of a run that was killed, what may have been in flight counts as well.

What is counted is what the server says it bills: cached prompts, reasoning, answers that were
thrown away. Unknown to anyone here is what a server bills for an answer that never came.

**What is promised.** A request is sent only if its prompt and its longest answer fit into what is
left; when it has ended, what it did not use is given back. A server may bill more than that:
reasoning beyond `max_tokens`, a prompt that is longer than it was estimated here. Then the most
by which any request to the model went beyond is kept free for each request in flight from there
on. The journal's newest answers of the model say how much that is, from earlier runs too; until
there is one, at most `PROBES` requests are in flight, or one round of a provider's batches,
which is submitted as a whole. So
whenever a request is sent, all that was billed and all that is in flight fits into the budget,
as far as answers so far show, and the budget is exceeded by no more than what the requests in
flight are then billed beyond that: by nothing where servers keep to `max_tokens` and prompts are
no longer than estimated. Once a budget is exhausted nothing more is sent, requests in flight are
awaited and kept, and the run ends with exit code 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator

from pipeline.errors import Exit, UserError
from pipeline.models.journal.usage import TokenUsage
from pipeline.models.periods import Period
from pipeline.wording import amount, counted

NOT_ASKED: Final = "not_asked"
"""How the error of a row begins that a partial run did not ask about: the budget was reached."""

MONEY_TOLERANCE: Final = 1e-9
"""How far a sum of money may exceed its limit by rounding."""

PROBES: Final = 4
"""Requests to a server in flight under a budget while nothing is known of what it bills: one
that hangs does not hold all others back."""

DEFAULT_CURRENCY: Final = "USD"
CURRENCY_LETTERS: Final = 3


def _valid_currency(code: str) -> str:
    if not (len(code) == CURRENCY_LETTERS and code.isascii() and code.isalpha() and code.isupper()):
        raise ValueError(f"must be three capital letters such as EUR, got {code!r}")
    return code


Currency = Annotated[str, AfterValidator(_valid_currency)]
"""ISO 4217."""


@dataclass(frozen=True)
class BatchPrice:
    """The prices of a provider's batches, where they are not a part of the others.

    Args:
        prompt: Money per million tokens of prompts.
        completion: Money per million tokens of answers.
        cached: Money per million tokens of prompts read from the provider's cache; the price of
            the others where it is left out.
        cache_write: Money per million tokens written to that cache, likewise.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    prompt: float
    completion: float
    cached: float | None = None
    cache_write: float | None = None


@dataclass(frozen=True)
class Price:
    """The price of a model.

    Args:
        prompt: Money per million tokens of prompts.
        completion: Money per million tokens of answers, reasoning among them.
        cached: Money per million tokens of prompts read from the provider's cache; the price of
            the others where it is left out.
        cache_write: Money per million tokens written to that cache, likewise.
        batch: The factor of all prices in a provider's batches, or the prices there.
        currency: Three letters, such as EUR. All prices of a recipe have the same.

    Example:
        >>> Price(prompt=2.0, completion=8.0, cached=0.5).money(TokenUsage(1_000_000, 400_000))
        1.4
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    prompt: float
    completion: float
    cached: float | None = None
    cache_write: float | None = None
    batch: float | BatchPrice = 0.5
    currency: Currency = DEFAULT_CURRENCY

    def money(self, tokens: TokenUsage) -> float:
        """What these tokens cost.

        Args:
            tokens: The tokens of one answer or of several.
        """
        plain = tokens.prompt - tokens.cached - tokens.cache_written
        cached = self.prompt if self.cached is None else self.cached
        written = self.prompt if self.cache_write is None else self.cache_write
        prompts = plain * self.prompt + tokens.cached * cached + tokens.cache_written * written
        return (prompts + tokens.completion * self.completion) / 1e6

    def in_batches(self) -> Price:
        """The price of requests that a provider answers in batches.

        Example:
            >>> Price(prompt=2.0, completion=8.0).in_batches().completion
            4.0
        """
        if isinstance(self.batch, BatchPrice):
            prices: dict[str, float | None] = dict(vars(self.batch))
        else:
            names = ("prompt", "completion", "cached", "cache_write")
            now = {name: getattr(self, name) for name in names}
            prices = {n: None if p is None else p * self.batch for n, p in now.items()}
        return replace(self, **prices)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Usage:
    """What requests used, or may use.

    Args:
        requests: Number of requests sent.
        tokens: Tokens of prompts and answers together.
        money: Their price; 0 for a model without one.

    Example:
        >>> price = Price(prompt=0.5, completion=1.5)
        >>> Usage.of(2, TokenUsage(prompt=1_000_000, completion=500_000), price)
        Usage(requests=2, tokens=1500000, money=1.25)
    """

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests, self.tokens + other.tokens, self.money + other.money
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.requests - other.requests, self.tokens - other.tokens, self.money - other.money
        )

    @classmethod
    def of(cls, requests: int, tokens: TokenUsage, price: Price | None) -> Usage:
        """The usage of some requests together.

        Args:
            requests: Number of requests.
            tokens: Tokens of all of them.
            price: The model's price, None for one that costs nothing.
        """
        return cls(requests, tokens.prompt + tokens.completion, price.money(tokens) if price else 0)

    def at_most(self, other: Usage) -> Usage:
        """The smaller one of each amount."""
        return Usage(
            min(self.requests, other.requests),
            min(self.tokens, other.tokens),
            min(self.money, other.money),
        )

    def beyond(self, other: Usage) -> Usage:
        """The tokens and the money by which this is more than another usage; no requests."""
        return Usage(0, max(0, self.tokens - other.tokens), max(0.0, self.money - other.money))


NOTHING: Final = Usage()


@dataclass(frozen=True)
class BudgetLimit:
    """What a recipe allows; None is no limit.

    Args:
        requests: Most requests that may be sent.
        tokens: Most tokens of prompts and answers together.
        money: Most money, in the currency of the prices.
        per: Of which time: of a calendar `day`, `week` or `month` in UTC, over all runs of the
            recipe on a store; None for each run by itself.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
    per: Period | None = None


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
        earlier: What earlier runs of the limit's period used; it counts as well.
        currency: That of the money.
        renewed: The first day of the next period, None for a limit of one run.
        since: The first day of the period, likewise.
    """

    name: str
    limit: BudgetLimit
    requests: int = 0
    tokens: int = 0
    money: float = 0.0
    spent: Usage = field(default_factory=Usage)
    earlier: Usage = field(default_factory=Usage)
    currency: str = DEFAULT_CURRENCY
    renewed: date | None = None
    since: date | None = None

    def exceeded_by(self, usage: Usage) -> str | None:
        """The limit that this usage would exceed, such as "1,000 requests"; None if it fits."""
        limit, earlier = self.limit, self.earlier
        requests = earlier.requests + self.requests + usage.requests
        tokens = earlier.tokens + self.tokens + usage.tokens
        money = earlier.money + self.money + usage.money
        if limit.requests is not None and requests > limit.requests:
            return self._of_period(counted(limit.requests, "request"))
        if limit.tokens is not None and tokens > limit.tokens:
            return self._of_period(counted(limit.tokens, "token"))
        if limit.money is not None and money > limit.money + MONEY_TOLERANCE:
            return self._of_period(f"{amount(limit.money, 6)} {self.currency}")
        return None

    def _of_period(self, amount: str) -> str:
        return f"{amount} per {self.limit.per}" if self.limit.per else amount

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
        recipe: The recipe to which what is sent is charged, for the journal.
        stage: The name of its stage.
        beyond: The most by which one request to a model was billed beyond its reservation, by
            model; a run's stages share it.
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
    recipe: str = ""
    stage: str = ""
    beyond: dict[str, Usage] = field(default_factory=dict, repr=False)
    partial: bool = False
    not_sent: int = field(default=0, init=False)
    _exhausted: BudgetTracker | None = field(default=None, repr=False)
    _message: str = field(default="", repr=False)
    _resumed: dict[str, Usage] = field(default_factory=dict, repr=False)

    @property
    def limits_lengths(self) -> bool:
        """Whether what a request is billed matters: some limit is in tokens or in money."""
        limits = [tracker.limit for tracker in self.trackers]
        return any(limit.tokens is not None or limit.money is not None for limit in limits)

    @property
    def spans_runs(self) -> bool:
        """Whether some limit is that of a period."""
        return any(tracker.limit.per for tracker in self.trackers)

    def reserve(self, usage: Usage) -> bool:
        """Count a usage in advance, if it fits into every limit; whether it did.

        Once a partial run did not send a request, it sends none: a smaller one that fits would
        be asked after an answer that is missing.
        """
        if self.not_sent:
            return False
        for tracker in self.trackers:
            if exceeded := tracker.exceeded_by(usage):
                self._exhausted = tracker
                self._message = f"{tracker.name} is reached: {exceeded}"
                return False
        self.raise_by(usage)
        return True

    def raise_by(self, usage: Usage) -> None:
        """Reserve more, whether it fits or not: it is in flight."""
        for tracker in self.trackers:
            tracker.add(usage)

    def resume(self, batch: str, usage: Usage, since: date, most: Usage) -> None:
        """Do not count what is reserved anew among what earlier runs have used.

        Args:
            batch: The batch of an earlier run whose requests are awaited; each call of a stage
                may await others of them.
            usage: What those may be billed.
            since: When it was submitted.
            most: What the whole batch may be billed: more of it was never counted.
        """
        before = self._resumed.get(batch, NOTHING)
        after = (before + usage).at_most(most)
        self._resumed[batch] = after
        for tracker in self.trackers:
            if tracker.since is not None and since >= tracker.since:
                tracker.earlier -= after - before

    def reconcile(self, reserved: Usage, actual: Usage) -> None:
        """Replace a reservation by what was really used."""
        for tracker in self.trackers:
            tracker.add(reserved, -1)
            tracker.add(actual)
            tracker.spent += actual

    def leave_out(self, number: int) -> str:
        """Go on without some requests, which are not sent; the error of their rows."""
        self.not_sent += number
        return f"{NOT_ASKED}: {self._message or 'the budget is reached'}"

    def exhausted(self, remaining: int) -> UserError:
        """The error that ends the run, with the number of requests that were not sent."""
        tracker = self._exhausted
        why = f"{counted(remaining, 'request')} {'is' if remaining == 1 else 'are'} left"
        hint = "run again to continue with a new budget, or raise it; all answers are kept"
        if tracker and tracker.renewed:
            if tracker.earlier != NOTHING:
                why += f"; earlier runs of this {tracker.limit.per} used {_of_earlier(tracker)}"
            day = f"{tracker.renewed} (UTC)"
            hint = f"run again from {day} on, or raise the budget; all answers are kept"
        return UserError(
            self._message or "the budget is reached",
            why=why,
            hint=f"{hint} (--partial goes on with what came)",
            code=Exit.BUDGET,
        )


def _of_earlier(tracker: BudgetTracker) -> str:
    """What earlier runs used of a limit, in its units."""
    earlier, limit = tracker.earlier, tracker.limit
    parts = [counted(earlier.requests, "request")] if limit.requests is not None else []
    parts += [counted(earlier.tokens, "token")] if limit.tokens is not None else []
    if limit.money is not None:
        parts.append(f"{amount(earlier.money)} {tracker.currency}")
    return ", ".join(parts)
