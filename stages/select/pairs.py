"""Preference pairs that teach something: a clear margin, sides of like length, no contradiction.

A small margin is a noisy label; a side that is much longer teaches length (Singhal et al. 2023,
arXiv:2310.03716); and of two pairs that say the contrary of each other, neither can be
trusted.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Final, Literal

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.stage import Pairs, stage
from pipeline.types import Count, NonNegativeFloat, NonNegativeInt
from schemas.records import canonical_turns, digest, record_id
from schemas.turns import turn_texts
from stages._common.verdicts import evidence_of
from stages._selection.held import held_rows
from stages._selection.random_draws import uniform
from stages._selection.scores import ranking, ranks, ranks_within

ADDS: Final = {"pair_margin": pl.Float64, "pair_length_difference": pl.Int32}

EVIDENCE: Final = {
    "contradiction": ("contradicts",),
    "duplicate_pair": ("duplicate_of",),
    "missing_score": ("chosen_score", "rejected_score"),
    "below_margin": ("pair_margin", "minimum"),
    "length_difference": ("chosen_words", "rejected_words"),
    "length_ratio": ("chosen_words", "rejected_words"),
    "prompt_quota": ("rank_in_prompt",),
    "not_selected": ("rank",),
}
"""What each reason has as its evidence; the first that holds counts."""


def _reads(options: SimpleNamespace) -> list[str]:
    return ["prompt", "chosen", "rejected", "chosen_score", "rejected_score", "tools"]


@stage(version=1, scope="set", reads=_reads, adds=ADDS, later=("held",))
def pairs(
    ctx: Context,
    rows: Pairs,
    held: Pairs | None = None,
    *,
    min_margin: NonNegativeFloat | None = None,
    max_length_difference: NonNegativeInt | None = None,
    max_length_ratio: Annotated[float, Field(ge=1)] | None = None,
    max_per_prompt: Count | None = None,
    budget: NonNegativeInt | None = None,
    order: Literal["margin", "random"] = "margin",
    seed: int = 0,
) -> pl.DataFrame:
    """Keep the pairs that meet all limits, and of these the best.

    Adds `pair_margin` (the chosen score less the rejected one, null where one is missing) and
    `pair_length_difference` (words of the chosen side less those of the rejected one).

    Dropped: `contradiction`, pairs of the same two sides of which each is chosen once, all of
    them; `duplicate_pair`, of equal sides the first by id stays; `missing_score` and
    `below_margin`; `length_difference` and `length_ratio`; `prompt_quota`; `not_selected`.
    Pairs with one side (KTO) have no margin and no length difference: limits of length do not
    apply to them.

    Args:
        rows: The pairs to choose from.
        held: Pairs that were chosen before: those that meet the limits come first, of their
            prompt and in the budget.
        min_margin: The smallest margin of the scores; null for any, and for pairs without.
        max_length_difference: Words by which the sides differ, at most.
        max_length_ratio: How many times as many words the longer side has, at most.
        max_per_prompt: Pairs of one prompt, at most, the first in the order.
        budget: Pairs to keep, at most, the first in the order; null for all.
        order: The largest `margin` first, pairs without one last, or `random`.
        seed: Of the random order.

    Example:
        ```yaml
        clear:
          uses: select.pairs
          needs: preferences
          with: {min_margin: 1, max_length_ratio: 3, max_per_prompt: 2}
        ```

        >>> from pathlib import Path
        >>> from schemas.pairs import PAIR_COLUMNS
        >>> sides = {name: [{"role": "assistant", "content": name}] for name in
        ...          ("prompt", "chosen", "rejected")}
        >>> scores = {"chosen_score": 2.0, "rejected_score": 1.5}
        >>> frame = pl.DataFrame([{"id": "a", **sides, **scores}], schema=PAIR_COLUMNS)
        >>> pairs(Context(Path(), Path(), Path()), frame, min_margin=1)["evidence"].item()
        '{"pair_margin":0.5,"minimum":1.0}'
    """
    facts = _facts(rows).with_columns(minimum=pl.lit(min_margin, pl.Float64))
    reason = _reason(min_margin, max_length_difference, max_length_ratio)
    facts = facts.with_columns(reason.alias("reason"))
    keys = uniform(rows["id"], f"select.pairs:{seed}")
    if order == "margin":
        keys = -facts["pair_margin"].cast(pl.Float64).to_numpy()
    keys = np.where(held_rows(rows, held), -np.inf, keys)
    facts = _within_prompts(facts, keys, max_per_prompt)
    facts = _within_budget(facts, keys, budget)
    evidence = pl.coalesce(
        pl.when(pl.col("reason") == name).then(evidence_of(*columns))
        for name, columns in EVIDENCE.items()
    )
    return facts.select(*ADDS, pl.col("reason").alias("drop_reason"), evidence.alias("evidence"))


def _facts(rows: pl.DataFrame) -> pl.DataFrame:
    """What decides on each pair."""
    words = {
        f"{side}_words": pl.when(pl.col(side).list.len() > 0).then(_words(side))
        for side in ("chosen", "rejected")
    }
    facts = rows.select("id", "chosen_score", "rejected_score", **words)
    difference = pl.col("chosen_words") - pl.col("rejected_words")
    longer = pl.max_horizontal("chosen_words", "rejected_words")
    shorter = pl.min_horizontal("chosen_words", "rejected_words")
    facts = facts.with_columns(
        (pl.col("chosen_score") - pl.col("rejected_score")).alias("pair_margin"),
        difference.cast(pl.Int32).alias("pair_length_difference"),
        pl.when(difference.is_not_null()).then(longer / shorter).alias("ratio"),
    )
    return facts.with_columns(_same_sides(rows))


def _words(side: str) -> pl.Expr:
    """The words between white space of all that a side says and calls."""

    def joined(messages: pl.Series) -> pl.Series:
        content = pl.element().struct.field("content")
        return turn_texts(messages, "calls").list.eval(content).list.join(" ")

    texts = pl.col(side).map_batches(joined, return_dtype=pl.String, is_elementwise=True)
    return texts.str.count_matches(r"\S+").cast(pl.Int64)


def _same_sides(rows: pl.DataFrame) -> list[pl.Series]:
    """For each pair its prompt, and the first pair of its sides, in this order and in the other."""
    prompts, chosen, rejected = [], [], []
    # A loop, because no column operation computes a digest of canonical JSON.
    columns = rows.select("prompt", "chosen", "rejected", "tools").iter_rows()
    for prompt, better, worse, tools in columns:
        prompts.append(record_id(prompt or [], tools))
        chosen.append(digest([prompts[-1], canonical_turns(better or [])]))
        rejected.append(digest([prompts[-1], canonical_turns(worse or [])]))
    first: dict[tuple[str, str], str] = {}
    sides = list(zip(chosen, rejected, strict=True))
    for id_, key in zip(rows["id"], sides, strict=True):
        first.setdefault(key, id_)
    same = [first[key] for key in sides]
    return [
        pl.Series("prompt_id", prompts, pl.String),
        pl.Series("duplicate_of", same, pl.String),
        pl.Series("contradicts", [first.get((b, a)) for a, b in sides], pl.String),
    ]


def _reason(
    min_margin: float | None, max_length_difference: int | None, max_length_ratio: float | None
) -> pl.Expr:
    """The first limit that a pair does not meet; null for those that meet all."""
    nothing = pl.lit(None, pl.String)
    limits = [
        ("contradiction", pl.col("contradicts").is_not_null()),
        ("duplicate_pair", pl.col("duplicate_of") != pl.col("id")),
    ]
    if min_margin is not None:
        limits.append(("missing_score", pl.col("pair_margin").is_null()))
        limits.append(("below_margin", pl.col("pair_margin") < min_margin))
    if max_length_difference is not None:
        difference = pl.col("pair_length_difference").abs()
        limits.append(("length_difference", difference > max_length_difference))
    if max_length_ratio is not None:
        limits.append(("length_ratio", pl.col("ratio") > max_length_ratio))
    return pl.coalesce(
        *(pl.when(is_outside).then(pl.lit(name)) for name, is_outside in limits), nothing
    )


def _within_prompts(facts: pl.DataFrame, keys: np.ndarray, most: int | None) -> pl.DataFrame:
    """The facts with `rank_in_prompt`, and the reason of pairs that are too many."""
    open_ = facts["reason"].is_null().to_numpy()
    positions = np.flatnonzero(open_)
    codes = np.unique(facts["prompt_id"].to_numpy(), return_inverse=True)[1][positions]
    rank = np.zeros(len(facts), np.int64)
    if len(positions):
        rank[positions] = ranks_within(codes, keys[positions])
    too_many = pl.col("rank_in_prompt") > (len(facts) if most is None else most)
    reason = pl.when(too_many).then(pl.lit("prompt_quota")).otherwise("reason")
    return facts.with_columns(rank_in_prompt=rank).with_columns(reason.alias("reason"))


def _within_budget(facts: pl.DataFrame, keys: np.ndarray, budget: int | None) -> pl.DataFrame:
    """The facts with `rank`, and the reason of pairs beyond the budget."""
    positions = np.flatnonzero(facts["reason"].is_null().to_numpy())
    order = positions[ranking(keys[positions], descending=False)]
    rank = ranks(order, len(facts))
    beyond = pl.col("rank") > (len(facts) if budget is None else budget)
    reason = pl.when(beyond).then(pl.lit("not_selected")).otherwise("reason")
    return facts.with_columns(rank=rank).with_columns(reason.alias("reason"))
