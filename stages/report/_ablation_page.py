"""The result of an ablation for a reader: Markdown and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Final

import numpy as np

from stages._common.charts import dot_plot, table
from stages._training.trainer import write_json
from stages.report._benchmark_page import UNTRAINED, WIDTH, benchmark_section
from stages.report._experiment import POOL, RANDOM

FEW: Final = 4
"""Comparisons that are said in words; more are a table."""

BASELINES: Final = (RANDOM, POOL)
TOLERANCE: Final = 0.01
"""By how much the tokens of sets may differ and still count as equal."""


def write_page(files: Path, result: Mapping[str, Any]) -> None:
    """Write `ablation.json`, `ablation.md` and `ablation.svg`.

    Args:
        files: The folder.
        result: Every number of the ablation.
    """
    groups = {
        arm["arm"]: [_mean(run) for run in result["runs"] if run["arm"] == arm["arm"]]
        for arm in _ranked(result["arms"])
    }
    several = len(result["counts"]["eval_rows"]) > 1
    what = "mean over the held-out sets, " if several else ""
    chart = dot_plot(
        "Evaluation loss after training, one dot per training",
        f"{what}nats per answer token; lower is better",
        groups,
        {"untrained": _mean(result["base"])},
    )
    (files / "ablation.svg").write_text(chart, "utf-8")
    (files / "ablation.md").write_text(page(result), "utf-8")
    write_json(files / "ablation.json", result)


def _mean(losses: Mapping[str, Any]) -> float:
    """The mean over the sets of evaluation rows, so that each counts the same."""
    return float(np.mean([*losses["by_set"].values()]))


def _ranked(arms: Sequence[Any]) -> list[Any]:
    """The arms by their mean loss, the best first."""
    return sorted(arms, key=lambda arm: (_mean(arm), arm["arm"]))


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    comparisons = result["comparisons"]
    parts = ["# Did choosing help?"]
    few = len(comparisons) <= FEW
    if few:
        parts += [sentence(c, result["counts"]) for c in comparisons]
    parts.append(_losses(result))
    parts += _by_source(result)
    if not few:
        parts += _each_with_each(result)
    if "benchmarks" in result:
        parts += benchmark_section(result, [arm["arm"] for arm in _ranked(result["arms"])])
    if len(result["counts"]["selected"]) > 1:
        parts += _choices(result)
    parts.append(_notes(result))
    return "\n\n".join(parts) + "\n"


def sentence(comparison: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    """The comparison in words, whichever sign it has.

    Args:
        comparison: As `compare_all` gives it.
        counts: Of the rows on each edge.
    """
    gap, arm, name = comparison["difference"], comparison["arm"], comparison["eval_rows"]
    number = counts["eval_rows"][name]["rows"]
    several = len(counts["selected"]) > 1
    selected = f"`{comparison['selected']}`" if several else "the selected rows"
    rows = f"rows of `{name}`" if len(counts["eval_rows"]) > 1 else "evaluation rows"
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
        f"**{heads[comparison['verdict']]}.** Trained on {selected}, the model's loss on "
        f"{number:,} {rows} is {size} than in the arm `{arm}`. "
        f"95% intervals of the difference: {ranges}.",
        width=WIDTH,
    )


def _losses(result: Mapping[str, Any]) -> str:
    """Each arm's losses, the untrained model first, then the best."""
    sets = list(result["counts"]["eval_rows"])
    names = ["evaluation loss"] if len(sets) == 1 else [*sets, "mean"]

    def shown(arm: Any) -> list[str]:
        if len(sets) == 1:
            return [f"{arm['loss']:.4f}"]
        return [*(f"{arm['by_set'][name]:.4f}" for name in sets), f"{_mean(arm):.4f}"]

    header = ["trained on", *names, "spread", "trainings", "tokens", "answers", "steps"]
    rows = [[UNTRAINED, *shown(result["base"]), *[""] * 5]]
    for arm in _ranked(result["arms"]):
        answers = f"{arm['answer_tokens']:,.0f}"
        numbers = [str(arm["trainings"]), f"{arm['tokens']:,}", answers, str(arm["steps"])]
        rows.append([arm["arm"], *shown(arm), f"{arm['spread']:.4f}", *numbers])
    return table(header, rows)


def _by_source(result: Mapping[str, Any]) -> list[str]:
    """The losses by source where there is one set of evaluation rows, of several sources."""
    sources = list(result["base"]["by_source"])
    if len(sources) < 2 or len(result["counts"]["eval_rows"]) > 1:
        return []
    arms = [result["base"] | {"arm": UNTRAINED}, *result["arms"]]
    rows = [[source, *(f"{arm['by_source'][source]:.4f}" for arm in arms)] for source in sources]
    text = table(["source", *(arm["arm"] for arm in arms)], rows)
    return ["Evaluation loss by source:", text]


def _each_with_each(result: Mapping[str, Any]) -> list[str]:
    """For each set of evaluation rows the differences of all arms, and those that are real."""
    order = [arm["arm"] for arm in _ranked(result["arms"])]
    comparisons = result["comparisons"]
    real = [c for c in comparisons if c["verdict"] != "indistinguishable"]
    parts = ["## Each with each", _summed_up(real, comparisons, order)]
    for name in result["counts"]["eval_rows"]:
        cells = {}
        for entry in (c for c in comparisons if c["eval_rows"] == name):
            star = "" if entry["verdict"] == "indistinguishable" else "*"
            pair = (entry["selected"], entry["arm"])
            cells[pair] = f"{entry['difference']:+.3f}{star}"
            cells[pair[::-1]] = f"{-entry['difference']:+.3f}{star}"
        parts.append(f"On `{name}`, the loss of the row's arm less that of the column's:")
        parts.append(_square(order, lambda a, b, cells=cells: cells[a, b]))
    return parts


def _summed_up(real: Sequence[Any], comparisons: Sequence[Any], order: Sequence[str]) -> str:
    """Which differences are real, in words."""
    text = (
        f"{len(real)} of {len(comparisons)} differences are real (*): both 95% intervals exclude "
        "zero, and the p value is at most 0.05 after Holm's correction for all of them."
    )
    if RANDOM in order:
        for verdict, word in (("lower", "Better"), ("higher", "Worse")):
            named = [
                f"`{c['selected']}` on `{c['eval_rows']}` ({c['difference']:+.4f})"
                for c in real
                if c["arm"] == RANDOM and c["verdict"] == verdict
            ]
            text += f" {word} than `{RANDOM}`: {', '.join(named) or 'none'}."
    return fill(text, width=WIDTH)


def _square(names: Sequence[str], cell: Any) -> str:
    """A table of each name with each, whose columns have the numbers of the rows."""
    header = ["", *(str(i + 1) for i in range(len(names)))]
    rows = [
        [f"{i + 1} {a}", *("" if a == b else cell(a, b) for b in names)]
        for i, a in enumerate(names)
    ]
    return table(header, rows)


def _choices(result: Mapping[str, Any]) -> list[str]:
    """What the sets are: their sizes, and how much they have in common."""
    counts, overlap = result["counts"]["selected"], result["overlap"]
    names, matrix = overlap["arms"], overlap["jaccard"]
    rows = [[n, f"{counts[n]['rows']:,}", f"{counts[n]['tokens']:,}"] for n in names]
    middle = float(np.median([counts[name]["tokens"] for name in names]))
    off = [n for n in names if abs(counts[n]["tokens"] - middle) > TOLERANCE * middle]
    parts = ["## The choices", table(["set", "rows", "tokens"], rows)]
    if off:
        parts.append(
            fill(
                f"More than {TOLERANCE:.0%} off the median of {middle:,.0f} tokens: "
                f"{', '.join(f'`{name}`' for name in off)}. Trainings see equal tokens all the "
                "same; rows of a smaller set are repeated more often.",
                width=WIDTH,
            )
        )
    place = {name: i for i, name in enumerate(names)}
    parts.append("Rows that two sets share, of all rows of both (Jaccard):")
    parts.append(_square(names, lambda a, b: f"{matrix[place[a]][place[b]]:.2f}"))
    return parts


def _notes(result: Mapping[str, Any]) -> str:
    """How to read the numbers."""
    counts, design = result["counts"], result["design"]
    text = (
        "Loss: negative log-likelihood, nats per token of the assistant's turns; lower is better. "
        "Spread: standard deviation over trainings. Tokens and steps are those of one training, "
        "equal in all arms; answers: how many of the tokens carry loss. A random arm is drawn "
        "anew for each training, with as many tokens as the selected rows have. A difference "
        "counts when both of its intervals exclude zero"
    )
    if design["comparisons"] > 1:
        text += (
            f" and its p value, corrected for {design['comparisons']} comparisons, is at most 0.05"
        )
    text += (
        f". Said beforehand: a difference of {design['visible_spreads']:.1f} spreads is likely (4 "
        "in 5) to be seen over trainings."
    )
    edges = {"pool": {"pool": counts["pool"]}, **{e: counts[e] for e in ("selected", "eval_rows")}}

    def total(edge: str, key: str) -> int:
        return sum(each[key] for each in edges[edge].values())

    cut, left_out = (total("eval_rows", name) for name in ("rows_cut", "rows_without_answer"))
    if cut or left_out:
        text += (
            f" Evaluation rows cut at max_length: {cut:,}; left out, for want of an answer within "
            f"max_length: {left_out:,}."
        )
    refused = {edge: total(edge, "rows_refused") for edge in edges}
    if any(refused.values()):
        named = ", ".join(f"{number:,} of `{edge}`" for edge, number in refused.items())
        text += f" Left out, since the chat template cannot show them (refused.jsonl): {named}."
    return fill(text, width=WIDTH)
