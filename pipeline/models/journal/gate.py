"""Which requests may be sent now, within a budget that several threads use.

What is promised about budgets is in `pipeline.models.budget`; here it is kept.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Final

from pipeline.models.budget import NOTHING, PROBES, Budget, Price, Usage
from pipeline.models.journal.spending import Account, Charge, InFlight
from pipeline.models.journal.usage import TokenUsage

if TYPE_CHECKING:
    from pipeline.models.journal.journal import Journal
    from pipeline.models.journal.requests import PreparedRequest


@dataclass(frozen=True)
class Billing:
    """Who bills the requests to a model, and how.

    Args:
        model: The model's identity, in canonical JSON.
        price: The model's price, None for one that costs nothing.
        metered: Whether a server counts the tokens, which may be more than were reserved.
    """

    model: str = ""
    price: Price | None = None
    metered: bool = False

    def account(self, budget: Budget) -> Account:
        """To what the requests of a stage are charged."""
        currency = self.price.currency if self.price else ""
        return Account(budget.recipe, budget.stage, self.model, currency)

    def charge(self, budget: Budget, billed: Sequence[TokenUsage]) -> Charge | None:
        """What some answers are billed together; None for no answers.

        Args:
            budget: The stage's.
            billed: The tokens of each.
        """
        if not billed:
            return None
        tokens = sum(billed, TokenUsage())
        money = self.price.money(tokens) if self.price else 0.0
        return Charge(self.account(budget), len(billed), tokens, money)


UNBILLED: Final = Billing()
_LOCK: Final = threading.Lock()
"""One for all gates: those of several models may share a budget."""


@dataclass
class Gate:
    """Decides which requests may be sent now: unanswered ones, within the budget.

    Several threads may use it. `admit` reserves, before each attempt, the prompt and the longest
    answer, with what the model's server was seen to bill beyond that; `reconcile` gives back
    what was not used.

    Args:
        missing: Keys of the requests without an answer.
        budget: The limits that apply.
        billing: Who bills the requests.
        in_flight: Where it is durable what may be billed; None where nobody bills anything.
        batch: The tag of the provider's batch whose results are being made durable; None for
            requests that were sent by themselves.
    """

    missing: frozenset[str]
    budget: Budget
    billing: Billing = UNBILLED
    in_flight: InFlight | None = None
    batch: str | None = None
    _reserved: dict[str, Usage] = field(default_factory=dict)
    _open: Usage = field(default_factory=Usage)

    @classmethod
    def of(
        cls, missing: frozenset[str], budget: Budget, billing: Billing, journal: Journal
    ) -> Gate:
        """A gate that knows what the journal knows, and makes durable there what is in flight.

        Args:
            missing: Keys of the requests without an answer.
            budget: The limits that apply.
            billing: Who bills the requests; what is in flight matters if somebody does.
            journal: The journal.
        """
        billed = missing and billing.metered and (billing.price or budget.spans_runs)
        in_flight = InFlight(journal.path, billing.account(budget)) if billed else None
        gate = cls(missing, budget, billing, in_flight)
        if missing and gate._learns and billing.model not in budget.beyond:
            lengths = journal.lengths(json.loads(billing.model))
            if lengths is not None:
                longer = TokenUsage(completion=lengths.beyond)
                budget.beyond[billing.model] = Usage.of(0, longer, billing.price)
        return gate

    def admit(self, request: PreparedRequest, in_batch: bool = False) -> bool:
        """Whether it may be sent now. If not: once others are reconciled, or never.

        Args:
            request: The request.
            in_batch: Whether it is sent in a provider's batch: that is submitted as a whole, and
                is itself durable.
        """
        usage = self.most(request)
        with _LOCK:
            beyond = self.budget.beyond.get(self.billing.model)
            probes = len(self._reserved) < PROBES or in_batch
            if beyond is None and self._learns and not probes:
                return False
            usage += beyond or NOTHING
            if not self.budget.reserve(usage):
                return False
            self._reserved[request.key] = usage
            self._open += usage
            if self.in_flight is not None and not in_batch:
                self.in_flight.cover(self._open)
        return True

    def most(self, request: PreparedRequest) -> Usage:
        """What a request is billed with its longest answer."""
        longest = TokenUsage(prompt=request.prompt_tokens, completion=request.decoding.max_tokens)
        return Usage.of(1, longest, self.billing.price)

    def reserved(self, requests: Sequence[PreparedRequest]) -> Usage:
        """What is reserved for requests that were admitted."""
        with _LOCK:
            return sum((self._reserved.get(r.key, NOTHING) for r in requests), NOTHING)

    def resume(self, requests: Sequence[PreparedRequest]) -> Usage:
        """Reserve for requests that an earlier run has sent, whether they fit or not.

        Args:
            requests: The requests; some of a batch that is under way.

        Returns:
            What is reserved for them.
        """
        total = NOTHING
        with _LOCK:
            for request in requests:
                usage = self.most(request)
                self._reserved[request.key] = usage
                total += usage
            self._open += total
            self.budget.raise_by(total)
        return total

    def resume_batch(self, tag: str, usage: Usage, since: date, most: Usage) -> None:
        """Have the budget know a batch of an earlier run; see `Budget.resume`.

        Args:
            tag: Our own name of the batch.
            usage: What those requests of it may be billed that are awaited now.
            since: When it was submitted.
            most: What the whole batch may be billed.
        """
        with _LOCK:
            self.budget.resume(tag, usage, since, most)

    @property
    def _learns(self) -> bool:
        return self.billing.metered and self.budget.limits_lengths

    @property
    def idle(self) -> bool:
        """Whether no admitted request is open: a request refused now is refused for good."""
        return not self._reserved

    def reconcile(self, request: PreparedRequest, billed: TokenUsage | None = None) -> None:
        """Replace the reservation of an attempt that has ended, if there is one.

        Args:
            request: The request.
            billed: What it was billed; None for nothing.
        """
        actual = NOTHING if billed is None else Usage.of(1, billed, self.billing.price)
        with _LOCK:
            reserved = self._reserved.pop(request.key, None)
            self.budget.reconcile(reserved or NOTHING, actual)
            self._open = self._open - (reserved or NOTHING) if self._reserved else NOTHING
            if reserved and actual.requests and self._learns:
                self._learn(actual.beyond(reserved))

    def _learn(self, more: Usage) -> None:
        """Reserve what an answer was billed beyond its reservation for all requests in flight."""
        known = self.budget.beyond.get(self.billing.model)
        self.budget.beyond[self.billing.model] = (known or NOTHING) + more
        if more != NOTHING:
            for key in self._reserved:
                self._reserved[key] += more
                self._open += more
                self.budget.raise_by(more)

    def close(self) -> None:
        """Write what is left in flight: nothing, if every request that was sent has ended."""
        if self.in_flight is not None:
            with _LOCK:
                self.in_flight.end(self._open)
