"""Budgets and what counts against them: what a run may still use, and what runs have paid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from pipeline.errors import UserError
from pipeline.execution.estimate import Estimate, total
from pipeline.models.budget import (
    NOTHING,
    BudgetLimit,
    BudgetTracker,
    Usage,
)
from pipeline.models.journal.journal import journal_in
from pipeline.models.journal.spending import Spending, today
from pipeline.models.periods import period_end, period_start
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from pipeline.wording import amount


def trackers(recipe: Recipe, store: Store) -> dict[str, BudgetTracker]:
    """The trackers of all limits of a recipe: of the recipe under the empty name, and of stages.

    Args:
        recipe: The recipe.
        store: Where its runs are.

    Raises:
        UserError: See `tracker`.
    """
    return {name: tracker(recipe, store, name) for name in ("", *recipe.budgets)}


def tracker(recipe: Recipe, store: Store, stage: str = "") -> BudgetTracker:
    """The tracker of a limit, with what counts against it already.

    Args:
        recipe: The recipe.
        store: Where its runs are: those of the limit's period count.
        stage: The stage that has the limit; empty for that of the recipe.

    Raises:
        UserError: The period has payments in another currency.
    """
    limit = recipe.budgets.get(stage, BudgetLimit()) if stage else recipe.budget
    whose = stage or ("the recipe" if limit.per else "the run")
    result = BudgetTracker(f"the budget of {whose}", limit, currency=recipe.currency)
    if limit.per:
        day = today()
        result.renewed, result.since = period_end(limit.per, day), period_start(limit.per, day)
        paid = _paid(recipe, store, stage, result.since)
        if limit.money is not None:
            _refuse_other_currencies(recipe, paid)
        result.earlier = sum((spending.usage for spending in paid), NOTHING)
    return result


def _paid(recipe: Recipe, store: Store, stage: str, since: date) -> list[Spending]:
    """What the runs of a recipe, or of one of its stages, have paid since a day."""
    journal = journal_in(store.root)
    if journal is None:
        return []
    try:
        return [
            spending
            for spending in journal.spendings(since)
            if spending.account.recipe == recipe.name and stage in ("", spending.account.stage)
        ]
    finally:
        journal.close()


def _refuse_other_currencies(recipe: Recipe, paid: list[Spending]) -> None:
    """Refuse a sum of two currencies.

    Raises:
        UserError: Something was paid in another currency than that of the recipe's prices.
    """
    amounts: dict[str, Usage] = {}
    for spending in paid:
        currency = spending.account.currency
        if currency not in ("", recipe.currency) and spending.usage.money:
            amounts[currency] = amounts.get(currency, NOTHING) + spending.usage
    for currency, usage in amounts.items():
        raise UserError(
            f"a budget that spans runs must be in the currency of what was paid, got "
            f"{recipe.currency}",
            where=recipe.name,
            why=f"earlier runs of the period paid {amount(usage.money)} {currency}",
            hint="give the prices in that currency until the period ends, or leave out `per`",
        )


def budget_warnings(
    limits: Mapping[str, BudgetTracker], estimates: Mapping[str, Estimate]
) -> Iterator[str]:
    """What is expected to go beyond a budget, one line each.

    Args:
        limits: What `trackers` returns.
        estimates: By stage.
    """
    for name, one in limits.items():
        parts = [e for stage, e in estimates.items() if name in ("", stage)]
        together = total(parts)
        for unit in ("requests", "tokens", "money"):
            allowed, earlier = getattr(one.limit, unit), getattr(one.earlier, unit)
            expected: Any = getattr(together.expected, unit) or 0
            if allowed is not None and earlier + expected > allowed:
                bound = "at most " if together.longest and unit != "requests" else ""
                shown = one.currency if unit == "money" else unit
                period = f" per {one.limit.per}" if one.limit.per else ""
                used = f", {amount(earlier, 6)} of them used already" if earlier else ""
                amounts = (
                    f"{amount(allowed, 6)} {shown}{period}{used}; {bound}{amount(expected, 6)}"
                )
                yield f"{one.name} is {amounts} are expected"
