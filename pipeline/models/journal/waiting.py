"""The batches of providers that stages wait for, as the command line shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.models.journal.journal import Journal, journal_in


def waiting_batches(journal: Journal, recipe: str) -> dict[str, list[dict[str, Any]]]:
    """The batches that a recipe's stages wait for, by stage, the oldest first.

    Args:
        journal: The journal.
        recipe: The recipe's name.

    Returns:
        Mappings with `batch` (the provider's name of it), `requests`, `answered`, `failed`,
        `status`, `submitted` (ISO 8601, UTC) and `text`: the same for people.
    """
    result: dict[str, list[dict[str, Any]]] = {}
    for batch in journal.batches.open():
        if batch.account.recipe != recipe:
            continue
        entry = {
            "batch": batch.id,
            "requests": batch.requests,
            "answered": batch.answered,
            "failed": batch.failed,
            "status": batch.status,
            "submitted": batch.begun.isoformat(timespec="seconds"),
            "text": f"waits for batch {batch.name}: {batch.progress()}",
        }
        result.setdefault(batch.account.stage, []).append(entry)
    return result


def waiting_in(store: Path, recipe: str) -> dict[str, list[dict[str, Any]]]:
    """The same of a store's journal; nothing where there is none.

    Args:
        store: The folder of the store.
        recipe: The recipe's name.
    """
    journal = journal_in(store)
    if journal is None:
        return {}
    try:
        return waiting_batches(journal, recipe)
    finally:
        journal.close()


def waiting_lines(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What stages wait for, one line each.

    Args:
        stages: Mappings with `name` and `waiting`.
    """
    return [f"{s['name']} {one['text']}" for s in stages for one in s.get("waiting", ())]
