"""Whether the selected rows train better than others: intervals, the verdict, and its words.

Two things are uncertain, and each has its interval (95%):

- over evaluation rows: would other rows of this kind give the same result? A paired
  bootstrap (Efron 1979): rows are drawn with replacement, the same ones for both arms, and
  the ratio (summed difference of losses) / (summed tokens) is computed anew.
- over trainings: would other draws and orders give the same result? Welch's t interval
  for the difference of the two arms' mean losses, one loss per training.

A difference is claimed when both exclude zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages._common.charts import table

RESAMPLES: Final = 2000
WIDTH: Final = 92
"""Characters in a line of the page."""

Interval = tuple[float, float]


def over_rows(difference: NDArray[np.float64], tokens: NDArray[np.int64], seed: int) -> Interval:
    """The interval over evaluation rows.

    Args:
        difference: By row the summed nats of one arm less those of the other.
        tokens: By row the tokens that are summed over.
        seed: Of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(len(tokens), size=len(tokens)) for _ in range(RESAMPLES))
    ratios = [difference[rows].sum() / tokens[rows].sum() for rows in drawn]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def over_trainings(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The interval of mean(first) - mean(second); each has at least two losses."""
    from scipy.stats import t

    sizes = np.array([len(first), len(second)])
    parts = np.array([np.var(first, ddof=1), np.var(second, ddof=1)]) / sizes
    centre = float(np.mean(first) - np.mean(second))
    if parts.sum() == 0:
        return centre, centre
    degrees = parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum()
    half = float(t.ppf(0.975, degrees) * np.sqrt(parts.sum()))
    return centre - half, centre + half


def compare(arm: str, selected: list[Any], other: list[Any], tokens: NDArray[np.int64]) -> Any:
    """The selected rows against another arm.

    Args:
        arm: The other arm.
        selected: The trainings on the selected rows, with `loss` and `rows_loss` (per row).
        other: The trainings of the other arm.
        tokens: The answer tokens of each evaluation row.
    """
    selected_losses, other_losses = ([run["loss"] for run in runs] for runs in (selected, other))
    per_row = [np.mean([run["rows_loss"] for run in runs], axis=0) for runs in (selected, other)]
    rows = over_rows(per_row[0] - per_row[1], tokens, seed=0)
    trainings = over_trainings(selected_losses, other_losses)
    return {
        "arm": arm,
        "difference": float(np.mean(selected_losses) - np.mean(other_losses)),
        "over_rows": rows,
        "over_trainings": trainings,
        "verdict": verdict(rows, trainings),
    }


def verdict(*intervals: Interval) -> str:
    """`lower` or `higher` where all intervals lie on one side of zero, else `indistinguishable`.

    >>> verdict((-0.2, -0.1), (-0.3, 0.1))
    'indistinguishable'
    """
    if all(high < 0 for _, high in intervals):
        return "lower"
    if all(low > 0 for low, _ in intervals):
        return "higher"
    return "indistinguishable"


def sentence(comparison: Any, num_eval_rows: int) -> str:
    """The comparison in words, whichever sign it has."""
    gap, arm = comparison["difference"], comparison["arm"]
    size = f"{abs(gap):.4f} nats per token {'lower' if gap < 0 else 'higher'}"
    ranges = " and ".join(
        f"{comparison[key][0]:+.4f} to {comparison[key][1]:+.4f} {what}"
        for key, what in (
            ("over_rows", "over evaluation rows"),
            ("over_trainings", "over trainings"),
        )
    )
    heads = {
        "lower": f"Better than `{arm}`",
        "higher": f"Worse than `{arm}`",
        "indistinguishable": f"Indistinguishable from `{arm}`",
    }
    return fill(
        f"**{heads[comparison['verdict']]}.** Trained on the selected rows, the model's loss on "
        f"{num_eval_rows:,} evaluation rows is {size} than in the arm `{arm}`. "
        f"95% intervals of the difference: {ranges}.",
        width=WIDTH,
    )


def page(result: Any) -> str:
    """The result as Markdown."""
    parts = ["# Did choosing help?"]
    parts += [sentence(c, result["counts"]["eval_rows"]["rows"]) for c in result["comparisons"]]
    header = ["trained on", "evaluation loss", "spread", "trainings", "tokens", "answers", "steps"]
    base = ["nothing (as it was)", f"{result['base']['loss']:.4f}", "", "", "", "", ""]
    parts.append(table(header, [base, *(_arm_row(arm) for arm in result["arms"])]))
    sources = list(result["base"]["by_source"])
    if len(sources) > 1:
        arms = [result["base"] | {"arm": "nothing (as it was)"}, *result["arms"]]
        rows = [
            [source, *(f"{arm['by_source'][source]:.4f}" for arm in arms)] for source in sources
        ]
        parts.append("Evaluation loss by source:")
        parts.append(table(["source", *(arm["arm"] for arm in arms)], rows))
    parts.append(_notes(result["counts"]))
    return "\n\n".join(parts) + "\n"


def _notes(counts: Any) -> str:
    """How to read the numbers."""
    text = (
        "Loss: negative log-likelihood, nats per token of the assistant's turns; lower is better. "
        "Spread: standard deviation over trainings. Tokens and steps are those of one training, "
        "equal in all arms; answers: how many of the tokens carry loss. A random arm is drawn "
        "anew for each training, with as many tokens as the selected rows have. A difference "
        "counts when both of its intervals exclude zero."
    )
    cut, left_out = (counts["eval_rows"][name] for name in ("rows_cut", "rows_without_answer"))
    if cut or left_out:
        text += (
            f" Evaluation rows cut at max_length: {cut:,}; left out, for want of an answer within "
            f"max_length: {left_out:,}."
        )
    refused = {edge: count["rows_refused"] for edge, count in counts.items()}
    if any(refused.values()):
        edges = ", ".join(f"{number:,} of `{edge}`" for edge, number in refused.items())
        text += f" Left out, since the chat template cannot show them (refused.jsonl): {edges}."
    return fill(text, width=WIDTH)


def _arm_row(arm: Any) -> list[str]:
    answers = f"{arm['answer_tokens']:,.0f}"
    numbers = [str(arm["trainings"]), f"{arm['tokens']:,}", answers, str(arm["steps"])]
    return [arm["arm"], f"{arm['loss']:.4f}", f"{arm['spread']:.4f}", *numbers]
