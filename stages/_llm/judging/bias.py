"""Position and length bias of a judge, measured on what it judged anyway."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from stages._common.charts import table
from stages._llm.judging.exchanges import Exchange
from stages._llm.judging.labels import Judgement


@dataclass
class Bias:
    """Position and length bias of a judge.

    Attributes:
        first: For each vote on a pair, the share that the answer in first place got.
        agreed: For each pair, whether both orders give the same verdict.
        longer: For each decided pair of different lengths, the share of the longer answer.
        scores: Ratings of single answers.
        lengths: The lengths of these answers in characters.
    """

    first: list[float] = field(default_factory=list)
    agreed: list[bool] = field(default_factory=list)
    longer: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add_pair(self, one: float, two: float, lengths: tuple[int, int]) -> None:
        """Count a pair.

        Args:
            one: The share of the pair's first answer where it stands in first place.
            two: The share of the same answer where it stands in second place.
            lengths: Characters of the first and of the second answer.
        """
        self.first += [one, 1 - two]
        self.agreed.append(one == two)
        share = (one + two) / 2
        if lengths[0] != lengths[1] and share != 0.5:
            self.longer.append(share if lengths[0] > lengths[1] else 1 - share)

    def add_ratings(self, rated: Sequence[Exchange], ratings: Sequence[Judgement]) -> None:
        """Count the ratings of single answers; failed ones do not count."""
        for exchange, rating in zip(rated, ratings, strict=True):
            if not isinstance(rating, str):
                self.scores.append(rating)
                self.lengths.append(len(exchange.response))

    def facts(self) -> dict[str, Any]:
        """The measures with the number of cases that each rests on."""
        facts: dict[str, Any] = {}
        if self.first:
            facts["position"] = {
                "share_of_first_place": _mean(self.first),
                "orders_agree": _mean([float(same) for same in self.agreed]),
                "pairs": len(self.agreed),
            }
            facts["length"] = {"share_of_longer": _mean(self.longer), "pairs": len(self.longer)}
        if self.scores:
            facts["length"] = {
                "rank_correlation_with_score": rank_correlation(self.lengths, self.scores),
                "answers": len(self.scores),
            }
        return facts

    def write(self, folder: Path) -> None:
        """Write `bias.json`, and `bias.md` for people."""
        facts = self.facts()
        (folder / "bias.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
        rows = [
            [f"{kind}: {name.replace('_', ' ')}", _formatted(value)]
            for kind, measures in facts.items()
            for name, value in measures.items()
        ]
        text = (
            "# Biases of the judge\n\n"
            "An unbiased judge gives the first place half of the votes, says the same in both\n"
            "orders, and prefers the longer answer only where it is better.\n\n"
        )
        (folder / "bias.md").write_text(text + table(["measure", "value"], rows) + "\n", "utf-8")


def _formatted(value: float | int | None) -> str:
    if value is None:
        return "unknown"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where either side is all equal or too short.

    >>> round(rank_correlation([10, 20, 30], [1.0, 2.0, 4.0]), 6)
    1.0
    """
    from scipy.stats import spearmanr

    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    correlation = float(spearmanr(a, b).statistic)
    return None if isnan(correlation) else correlation
