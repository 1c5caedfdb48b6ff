"""The preference pair: two answers to one prompt, of which one is better.

What follows the prompt may be several turns on either side, and one side may be missing, as
in the data of KTO (Ethayarajh et al. 2024, arXiv:2402.01306), where each answer is judged by
itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from schemas.records import MESSAGES, ORIGINS, canonical_turns, digest, polars_schema

PAIR: Final = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("tools", pa.string()),
        ("origins", ORIGINS),
        ("parents", pa.list_(pa.string())),
        ("extra", pa.string()),
    ]
)
"""`prompt` are the turns that both sides follow; `chosen` and `rejected` are the turns
of the better and of the worse side, of which one may be null. Scores are what the source
says of each side; null without. The other columns are those of a record."""

PAIR_COLUMNS: Final = polars_schema(PAIR)


def pair_id(
    prompt: Sequence[Mapping[str, Any]],
    chosen: Sequence[Mapping[str, Any]] | None,
    rejected: Sequence[Mapping[str, Any]] | None,
    tools: str | None = None,
    kept: str | None = None,
) -> str:
    """The identity of a pair: its prompt, both sides and the tools. Scores do not count.

    Args:
        prompt: The turns that both sides follow.
        chosen: The turns of the better side; None without.
        rejected: The turns of the worse side; None without.
        tools: The definitions of the tools, as JSON text.
        kept: What of `extra` counts too, because the recipe that loaded it says so.

    >>> question = [{"role": "user", "content": "Why?"}]
    >>> good, bad = ([{"role": "assistant", "content": text}] for text in ("So.", "No."))
    >>> pair_id(question, good, bad) == pair_id(question, bad, good)
    False
    """
    parts = {"prompt": prompt, "chosen": chosen or None, "rejected": rejected or None}
    turns = {name: canonical_turns(part) for name, part in parts.items() if part is not None}
    more = {name: text for name, text in (("tools", tools), ("kept", kept)) if text}
    return digest(turns | more)


def shared_prompt(*sides: Sequence[Mapping[str, Any]]) -> int:
    """How many turns whole conversations share as their prompt: TRL's implicit prompt.

    The prompt ends where the assistant speaks on all sides, before or where they differ; 0
    where they do not begin alike.

    Args:
        sides: The turns of each conversation, one at least.

    >>> question = {"role": "user", "content": "Why?"}
    >>> good, bad = ({"role": "assistant", "content": text} for text in ("So.", "No."))
    >>> shared_prompt([question, good, question, good], [question, good, question, bad])
    3
    """
    whole = [canonical_turns(side) for side in sides]
    shared = min(map(len, whole)) - 1
    while shared > 0 and not all(
        side[:shared] == whole[0][:shared] and side[shared]["role"] == "assistant" for side in whole
    ):
        shared -= 1
    return max(shared, 0)
