"""What the rounds did: which operators were used, what failed, and how instructions grew.

Without elimination instructions become longer each round, whatever the operator: the growth is
to be seen before the result is taken for better.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from stages._llm.drafts import Draft
from stages._text.words import count_words

FILE: Final = "evolution.json"


def write_growth(folder: Path, drafts: Sequence[Draft], rounds: int) -> None:
    """Write `evolution.json`.

    Args:
        folder: Where it is written.
        drafts: Those of all rounds.
        rounds: The number of rounds.
    """
    facts = {"rounds": [_of_round(drafts, number) for number in range(1, rounds + 1)]}
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", "utf-8")


def _of_round(drafts: Sequence[Draft], number: int) -> dict[str, Any]:
    """How a round ended; the words of instructions before and after it, of those that are kept."""
    of_round = [draft for draft in drafts if draft.fields.get("round") == number]
    kept = [draft for draft in of_round if draft.active]
    words = [_mean_words(kept, name) for name in ("evolved_from", "instruction")]
    return {
        "round": number,
        "operators": dict(Counter(draft["operator"] for draft in of_round).most_common()),
        "evolved": len(kept),
        "dropped": dict(Counter(d.rejection[0] for d in of_round if d.rejection).most_common()),
        "failed": sum(draft.error is not None for draft in of_round),
        "mean_words_before": words[0],
        "mean_words": words[1],
        "growth": round(words[1] / words[0], 3) if words[0] and words[1] is not None else None,
    }


def _mean_words(drafts: Sequence[Draft], name: str) -> float | None:
    texts = pl.DataFrame({"text": pl.Series([d[name] for d in drafts], dtype=pl.String)})
    mean = texts.select(count_words(pl.col("text")).mean()).item()
    return None if mean is None else round(mean, 2)
