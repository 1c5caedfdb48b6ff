"""The benchmarks of an ablation for a reader: scores with standard errors, and what is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, Final

from stages._common.charts import table

WIDTH: Final = 92
"""Characters in a line of the page, apart from tables."""

UNTRAINED: Final = "nothing (as it was)"


_WORDS: Final = {"lower": "better", "higher": "worse"}
"""By the verdict on the share of wrong answers."""


def benchmark_section(result: Mapping[str, Any], order: Sequence[str]) -> list[str]:
    """The part of the page about benchmarks.

    Args:
        result: The result of the ablation, with `benchmarks`.
        order: The arms as the page lists them.
    """
    asked = result["benchmarks"]
    names = list(asked["tasks"])
    dirty = [name for name in names if asked["tasks"][name]["contaminated"]]
    header = ["trained on", *(n for name in names for n in _columns(name, dirty))]
    rows = [["(chance)", *(n for name in names for n in _chance(asked, name, dirty))]]
    for arm, scores in [(UNTRAINED, asked["base"]), *((arm, asked["arms"][arm]) for arm in order)]:
        cells = [c for name in names for c in _cells(scores[name], name in dirty)]
        rows.append([arm, *cells])
    return ["## Benchmarks", table(header, rows), _real(asked, result["design"]), _about(asked)]


def _columns(name: str, dirty: Sequence[str]) -> list[str]:
    return [name, "spread", *([f"{name}, clean"] if name in dirty else [])]


def _chance(asked: Mapping[str, Any], name: str, dirty: Sequence[str]) -> list[str]:
    return [f"{asked['tasks'][name]['chance']:.4f}", "", *([""] if name in dirty else [])]


def _cells(score: Mapping[str, Any], is_dirty: bool) -> list[str]:
    spread = "" if score["spread"] is None else f"{score['spread']:.4f}"
    return [_with_error(score), spread, *([_with_error(score["clean"])] if is_dirty else [])]


def _with_error(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "-"
    error = "" if score["stderr"] is None else f" ± {score['stderr']:.4f}"
    return f"{score['value']:.4f}{error}"


def _real(asked: Mapping[str, Any], design: Mapping[str, Any]) -> str:
    """Which differences are real, in words."""
    comparisons = asked["comparisons"]
    real = [c for c in comparisons if c["verdict"] != "indistinguishable"]
    listed = [
        f"`{c['selected']}` is {_WORDS[c['verdict']]} than `{c['arm']}` in {c['benchmark']} "
        f"({-c['difference']:+.4f})"
        for c in real
    ]
    text = (
        f"{len(real)} of {len(comparisons)} differences are real, by the same rule as those of "
        f"losses, and corrected together with them ({design['comparisons']} comparisons)"
    )
    return fill(f"{text}: {'; '.join(listed)}." if listed else f"{text}.", width=WIDTH)


def _about(asked: Mapping[str, Any]) -> str:
    """How to read the numbers."""
    counts = [
        f"{name} {of['documents']:,} documents, {len(of['contaminated']):,} contaminated"
        for name, of in asked["tasks"].items()
    ]
    text = (
        f"Accuracy ({asked['metric']}) with its standard error over documents, of their means over "
        "trainings; spread: standard deviation over trainings. "
        f"{'; '.join(counts)}: a document is contaminated that shares 13 words in a row with a row "
        "of the pool or of a choice, and `clean` leaves these out."
    )
    left = [f"{name}: {why}" for name, why in asked["left_out"].items()]
    if left:
        text += f" Not run: {'; '.join(left)}."
    return fill(text, width=WIDTH)
