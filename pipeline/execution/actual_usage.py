"""What a run really used of language models, beside what was estimated before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.execution.estimate import Amounts, Estimate
from pipeline.models.budget import DEFAULT_CURRENCY, Usage
from pipeline.wording import amount, counted


@dataclass(frozen=True)
class ActualUsage:
    """What a stage really used. requests: those that were sent; cached: answered before."""

    requests: int
    cached: int
    tokens: int
    money: float

    @classmethod
    def of(cls, counters: Mapping[str, int], spent: Usage) -> ActualUsage:
        """From a stage's counters and what was counted against its budget."""
        return cls(spent.requests, counters.get("cached", 0), spent.tokens, spent.money)


def comparison(
    estimates: Mapping[str, Estimate],
    used: Mapping[str, ActualUsage],
    stopped: str | None = None,
    currency: str = DEFAULT_CURRENCY,
) -> list[str]:
    """Lines that compare estimates with what was used; none for stages that sent no request.

    Args:
        estimates: By stage, before it ran.
        used: By stage.
        stopped: The stage that did not come to its end: what it used is a part.
        currency: That of the money.
    """
    lines = []
    for name, actual in used.items():
        if not actual.requests + actual.cached:
            continue
        estimate = estimates[name]
        expected = Amounts() if name == stopped else estimate.expected
        parts = [_compared("requests", expected.requests, actual.requests)]
        if actual.cached:
            parts.append(f"{actual.cached:,} more answered by the journal")
        if actual.requests:
            parts.append(_compared("tokens", expected.tokens, actual.tokens, estimate.longest))
        if actual.money:
            parts.append(_compared(currency, expected.money, actual.money, estimate.longest))
        if name == stopped:
            remaining = (estimate.expected.requests or 0) - actual.requests
            is_left = f"{counted(remaining, 'request')} {'is' if remaining == 1 else 'are'} left"
            parts.append(f"about {is_left}" if remaining > 0 else "stopped")
        lines.append(f"{name}: {', '.join(parts)}")
    return lines


def _compared(unit: str, estimate: float | None, actual: float, longest: bool = False) -> str:
    number = f"{actual:,}" if isinstance(actual, int) else amount(actual)
    name = unit.removesuffix("s") if actual == 1 and unit in ("requests", "tokens") else unit
    if not estimate or not actual:
        return f"{number} {name}"
    kind = "estimate for the longest answers" if longest else "estimate"
    return f"{number} {name} ({kind} {estimate / actual - 1:+.0%})"
