"""What was paid for which stage and model, over all runs, as the command line shows it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.models.budget import NOTHING, Usage
from pipeline.models.journal.export import model_name
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.spending import Account
from pipeline.models.journal.usage import TokenUsage
from pipeline.wording import amount

TOKENS: Final = {
    "prompt_tokens": "prompt", "cached_tokens": "cached", "completion_tokens": "completion",
    "reasoning_tokens": "reasoning",
}  # fmt: skip
"""Names in JSON, with those of `TokenUsage`."""

HEADER: Final = ("stage", "model", "requests", "prompt", "cached", "answers", "reasoning", "cost")
RIGHT: Final = (2, 3, 4, 5, 6, 7)
"""The columns of the table that are set flush right."""


def costs(journal: Journal, recipe: str | None = None) -> list[dict[str, Any]]:
    """What was paid since the journal was begun, by recipe, stage and model.

    Args:
        journal: The journal.
        recipe: The recipe; None for all.

    Returns:
        Mappings with `recipe`, `stage`, `model` (its name), `requests`, `prompt_tokens` with
        `cached_tokens` among them, `completion_tokens` with `reasoning_tokens` among them,
        `money` and `currency` (null without a price), and `in_flight`: the requests, tokens and
        money that at most were paid besides, for what was in flight when a run was killed.
    """
    used: dict[Account, Usage] = defaultdict(Usage)
    lost: dict[Account, Usage] = defaultdict(Usage)
    tokens: dict[Account, TokenUsage] = defaultdict(TokenUsage)
    for spending in journal.spendings():
        account = spending.account
        if recipe in (None, account.recipe):
            part = used if spending.answered else lost
            part[account] += spending.usage
            tokens[account] += spending.tokens
    names = journal.names()
    return [
        {
            "recipe": account.recipe,
            "stage": account.stage,
            "model": model_name(json.loads(account.model or "{}"), names),
            "requests": used[account].requests,
            **{name: getattr(tokens[account], field) for name, field in TOKENS.items()},
            "money": used[account].money if account.currency else None,
            "currency": account.currency or None,
            "in_flight": vars(lost[account]) if lost[account] != NOTHING else None,
        }
        for account in sorted(tokens)
    ]


def cost_rows(entries: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """The rows of a table of what `costs` returns, with HEADER; a total where there are several."""
    for entry in entries:
        yield [entry["stage"] or "-", entry["model"], *_cells(entry), _money(entry)]
    if len(entries) > 1:
        sums = {name: sum(entry[name] for entry in entries) for name in ("requests", *TOKENS)}
        yield ["total", "", *_cells(sums), ", ".join(_totals(entries))]


def in_flight_note(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """What at most was paid for requests in flight when runs were killed, where there were any."""
    lost = [{**entry, **entry["in_flight"]} for entry in entries if entry["in_flight"]]
    if not lost:
        return None
    tokens = sum(entry["tokens"] for entry in lost)
    money = f", {', '.join(totals)}" if (totals := _totals(lost)) else ""
    return f"at most {tokens:,} tokens{money} more: in a batch, or in flight when a run was killed"


def _cells(entry: Mapping[str, Any]) -> list[str]:
    return [f"{entry[name]:,}" for name in ("requests", *TOKENS)]


def _totals(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    money: dict[str, float] = defaultdict(float)
    for entry in entries:
        if entry["currency"]:
            money[entry["currency"]] += entry["money"]
    return [f"{amount(paid)} {currency}" for currency, paid in sorted(money.items())]


def _money(entry: Mapping[str, Any]) -> str:
    return "" if entry["money"] is None else f"{amount(entry['money'])} {entry['currency']}"
