"""The curve of paraphrase decontamination, for the bundled encoder or any other.

    python -m tests.bench.paraphrases [MODEL] [-o FOLDER]

For each threshold: how many rephrased items of GSM8K and HumanEval are found (recall,
each against its own benchmark), and how many of GSM8K's training problems, which are of
the same kind and not the test, are dropped as one (false positives); by the cosine alone
and with the overlap of numbers. Prints a table and draws `paraphrases.svg`. The
`threshold` of `decontaminate.semantic` is chosen from it, for every encoder anew.

The rephrased items are the published ones of LLM decontaminator (arXiv:2311.04850). The
training problems are read from the file named by GRISTMILL_GSM8K_TRAIN, or from the
shared data sets beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from pipeline.context import Context
from pipeline.models import Embedder
from stages._common.charts import STYLE, table
from stages.decontaminate.semantic import semantic
from tests.support.rows import DATA, conversations, exam, json_lines

ROOT = DATA.parent
TRAIN = Path(
    os.environ.get(
        "GRISTMILL_GSM8K_TRAIN", ROOT.parent / "shared/data/benchmarks/gsm8k_train.jsonl.gz"
    )
)
THRESHOLDS = (0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
NUMBERS = 0.75

Curves = Mapping[str, Sequence[float]]
"""A set of texts by name, and the fraction of it that is dropped at each threshold."""


def main() -> None:
    """Print the table for the model of the command line and draw the chart."""
    parser = argparse.ArgumentParser(description="the curve of paraphrase decontamination")
    parser.add_argument("model", nargs="?", default=str(ROOT / "data/models/potion-base-4m"))
    parser.add_argument("-o", "--output", type=Path, default=Path())
    arguments = parser.parse_args()
    if not TRAIN.exists():
        sys.exit("name the file of GSM8K's training problems in GRISTMILL_GSM8K_TRAIN")
    with tempfile.TemporaryDirectory() as folder:
        measured = curves(Context.scratch(Path(folder)), Embedder(model=arguments.model))
    print(page(measured))
    (arguments.output / "paraphrases.svg").write_text(chart(measured), "utf-8")


def curves(ctx: Context, embedder: Embedder) -> Curves:
    """The fractions dropped, by the cosine alone and where the numbers have to agree."""
    gsm8k = _texts(DATA / "benchmarks/gsm8k_test.jsonl.gz", "question")
    code = _texts(DATA / "benchmarks/HumanEval.jsonl.gz", "prompt")
    sets = {
        "rephrased GSM8K": ("gsm8k", gsm8k, "tests/golden/rephrase_gsm8k.jsonl.gz"),
        "rephrased HumanEval": ("humaneval", code, "tests/golden/humaneval_python.jsonl.gz"),
    }
    measured = {}
    for numbers in (0.0, NUMBERS):
        suffix = f", numbers {numbers:.0%}" if numbers else ""
        for name, (benchmark, items, golden) in sets.items():
            if not numbers or benchmark == "gsm8k":
                texts = _texts(ROOT / golden, "text")
                measured[name + suffix] = _recall(ctx, embedder, benchmark, items, texts, numbers)
        others = _texts(TRAIN, "question")
        wrong = _recall(ctx, embedder, "gsm8k", gsm8k, others, numbers)
        measured["GSM8K train (wrong)" + suffix] = wrong
    return measured


def _texts(path: Path, field: str) -> list[str]:
    return [row[field] for row in json_lines(path) if row[field].strip()]


def _recall(
    ctx: Context,
    embedder: Embedder,
    benchmark: str,
    items: list[str],
    texts: list[str],
    numbers: float,
) -> list[float]:
    """The fraction of the texts that the stage drops at each threshold."""
    rows = conversations([(text,) for text in texts])
    items_of = exam(benchmark, [{"question": item} for item in items])
    verdict = semantic(
        ctx,
        rows,
        items_of,
        embedder=embedder,
        threshold=min(THRESHOLDS),
        min_number_overlap=numbers,
    )
    causes = [json.loads(cause) for cause in verdict["evidence"].drop_nulls()]
    similarity = np.array([cause["similarity"] for cause in causes])
    return [float((similarity >= threshold).sum() / len(rows)) for threshold in THRESHOLDS]


def page(measured: Curves) -> str:
    """The curves as a Markdown table, in per cent."""
    header = ["found at threshold, %", *(f"{threshold:.2f}" for threshold in THRESHOLDS)]
    return table(
        header, [[name, *(f"{100 * s:.1f}" for s in row)] for name, row in measured.items()]
    )


def chart(measured: Curves) -> str:
    """The curves as an SVG: the fraction dropped, upwards, over the threshold."""
    left, top, width, height = 60, 30, 400, 300

    def point(threshold: float, fraction: float) -> str:
        span = THRESHOLDS[-1] - THRESHOLDS[0]
        across = left + width * (threshold - THRESHOLDS[0]) / span
        return f"{across:.1f},{top + height * (1 - fraction):.1f}"

    parts = []
    for tenth in range(0, 11, 2):
        y = top + height * (1 - tenth / 10)
        parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{left + width}" y2="{y}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{10 * tenth}%</text>')
    for threshold in THRESHOLDS:
        x = point(threshold, 0).split(",")[0]
        parts.append(
            f'<text x="{x}" y="{top + height + 20}" text-anchor="middle">{threshold}</text>'
        )
    for i, (name, fractions) in enumerate(measured.items()):
        points = " ".join(map(point, THRESHOLDS, fractions))
        color = f"hsl({i * 360 // len(measured)} 70% 45%)"
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        y = top + 20 * i + 10
        parts.append(
            f'<rect x="{left + width + 20}" y="{y - 9}" width="10" height="10" fill="{color}"/>'
        )
        parts.append(f'<text x="{left + width + 36}" y="{y}">{escape(name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {top + height + 40}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


if __name__ == "__main__":
    main()
