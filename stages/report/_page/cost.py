"""What each stage took: time, memory, requests, tokens and, where a model has a price, money."""

from __future__ import annotations

from typing import Any, Final

from pipeline.execution.snapshot import Snapshot
from pipeline.models.budget import DEFAULT_CURRENCY, Price
from pipeline.models.journal.usage import TokenUsage

COUNTERS: Final = ("requests", "cached", "prompt_tokens", "completion_tokens", "tokens")
"""Requests sent, answers that the journal had, their tokens, and tokens of weights that ran
in the process."""


def costs(snapshot: Snapshot) -> dict[str, Any]:
    """One entry for each stage that has run, and the totals.

    Args:
        snapshot: The stages. What was paid is that of the run that committed each of them.
    """
    entries: list[dict[str, Any]] = []
    for name, artifact in snapshot.artifacts.items():
        manifest = artifact.manifest
        used = {key: manifest["used"].get(key, 0) for key in COUNTERS}
        entries.append(
            {
                "stage": name,
                "uses": manifest["stage"],
                "seconds": manifest["seconds"],
                "memory": manifest["peak_memory_bytes"],
                "money": _money(snapshot, name, manifest["used"]),
                **used,
            }
        )
    money = [entry["money"] for entry in entries if entry["money"] is not None]
    total = {key: sum(entry[key] for entry in entries) for key in (*COUNTERS, "seconds")}
    memory = max((entry["memory"] for entry in entries), default=0)
    return {
        "stages": entries,
        "total": {**total, "memory": memory, "money": sum(money) if money else None},
        "currency": snapshot.recipe.currency if snapshot.recipe else DEFAULT_CURRENCY,
    }


def _money(snapshot: Snapshot, name: str, used: dict[str, int]) -> float | None:
    """The price of a stage's requests; None where its models have none, or different ones."""
    prices: list[Price | None] = []
    step = snapshot.recipe.steps[name] if snapshot.recipe else None
    for option in step.stage.options if step else ():
        if step and option.is_model:
            value = getattr(step.options, option.name)
            option.each(value, lambda model: prices.append(getattr(model, "price", None)))
    distinct = set(prices) - {None}
    price = distinct.pop() if len(distinct) == 1 else None
    if price is None or not used.get("requests"):
        return None
    counters = ("prompt_tokens", "cached_prompt_tokens", "completion_tokens", "reasoning_tokens")
    return price.money(TokenUsage(*(used.get(counter, 0) for counter in counters)))
