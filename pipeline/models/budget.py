"""What a run may use of language models: requests, tokens and money, whole and stage by stage.

A recipe says it: `budget: {requests: 1000, tokens: 2000000, money: 5}`, at the top for
one run and in a stage for that stage's part of it, with `prices: {writer: {prompt: 0.5,
completion: 1.5}}` in money per million tokens. It is execution only and in no
fingerprint. Only what is really sent counts: what the journal knows is free, and a
second run has the whole budget again. Weights that run here cost nothing; a model that
is attached by `base_url` needs a price before a budget can be in money.

A request is admitted when its prompt and its longest possible answer fit; when it has
ended, what it did not use is given back. So a budget is never exceeded, as far as the
length of prompts is known on this side. Reached means: nothing more is sent, what is
under way is awaited and kept, and the run ends with exit code 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pipeline.errors import Exit, UserError

if TYPE_CHECKING:
    from pipeline.models.base import Price


CENT: Final = 1e-9
"""What sums of money may be off by."""


@dataclass(frozen=True)
class Usage:
    """What was, or may be, used. A model without a price costs nothing."""

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    @classmethod
    def of(cls, requests: int, prompt: int, completion: int, price: Price | None) -> Usage:
        """The use of so many requests with so many tokens in all."""
        money = (prompt * price.prompt + completion * price.completion) / 1e6 if price else 0.0
        return cls(requests, prompt + completion, money)


@dataclass(frozen=True)
class BudgetLimit:
    """What a recipe allows: None is no limit."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None


@dataclass
class BudgetTracker:
    """One allowance and what is used and reserved of it. name: whose it is, for messages."""

    name: str
    allowance: BudgetLimit
    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def short_of(self, use: Usage) -> str | None:
        """What does not suffice for this use, in words; None when all does."""
        allowed = self.allowance
        if allowed.requests is not None and self.requests + use.requests > allowed.requests:
            return f"{allowed.requests:,} requests"
        if allowed.tokens is not None and self.tokens + use.tokens > allowed.tokens:
            return f"{allowed.tokens:,} tokens"
        if allowed.money is not None and self.money + use.money > allowed.money + CENT:
            return f"{allowed.money:,g} in money"
        return None

    def add(self, use: Usage, sign: int = 1) -> None:
        self.requests += sign * use.requests
        self.tokens += sign * use.tokens
        self.money += sign * use.money


@dataclass
class Budget:
    """The accounts that a stage's requests are charged to: the run's and its own."""

    accounts: Sequence[BudgetTracker] = ()
    _short: str | None = field(default=None, repr=False)

    def reserve(self, use: Usage) -> bool:
        """Charge this use in advance, if every account can bear it."""
        for account in self.accounts:
            if short := account.short_of(use):
                self._short = f"{account.name} is reached: {short}"
                return False
        for account in self.accounts:
            account.add(use)
        return True

    def settle(self, reserved: Usage, used: Usage) -> None:
        """Replace what was reserved by what was used."""
        for account in self.accounts:
            account.add(reserved, -1)
            account.add(used)

    def reached(self, left: int) -> UserError:
        """The error that ends the run, with so many requests left to be sent."""
        return UserError(
            self._short or "the budget is reached",
            why=f"{left:,} requests are left",
            hint="run again to go on with a new budget, or raise it; all answers are kept",
            code=Exit.BUDGET,
        )
