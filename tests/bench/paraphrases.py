"""The curve of paraphrase decontamination, for the bundled encoder or any other.

    make bench SECTIONS=paraphrases
    python -m tests.bench.paraphrases [MODEL] [-o FOLDER]

For each kind of task and each threshold: the recall, in per cent of rephrased items, and the
false convictions among 1,000 innocent rows, on development and on held-out files
(`paraphrase_sets`). Prints a table for each kind and draws `paraphrases.svg`. The thresholds
of `decontaminate.semantic` are chosen from it, for every encoder anew: on the development
files, the lowest at which no set has more than 10 false convictions among 1,000.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from pipeline.context import Context
from pipeline.models import Embedder
from stages._common.charts import STYLE
from stages._common.charts import table as markdown
from stages.decontaminate.semantic import THRESHOLDS, semantic
from stages.load.benchmarks import benchmarks
from tests.bench import ROOT
from tests.bench.data import Data
from tests.bench.paraphrase_sets import EXAMS, Rows, chinese, sources
from tests.bench.table import Line

GRID: Final = (0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
MAX_FALSE: Final = 20
"""False convictions among 1,000 innocent rows of a held-out set that are allowed."""


class Curve(NamedTuple):
    """The fraction of a set's rows that are dropped at each threshold of `GRID`."""

    rows: Rows
    count: int
    dropped: Sequence[float]

    def at(self, threshold: float) -> float:
        """The fraction at a threshold of the grid."""
        return self.dropped[GRID.index(threshold)]


def main() -> None:
    """Print the tables for the model of the command line and draw the chart."""
    parser = argparse.ArgumentParser(description="the curve of paraphrase decontamination")
    parser.add_argument("model", nargs="?", default=str(ROOT / "data/models/potion-base-4m"))
    parser.add_argument("-o", "--output", type=Path, default=Path())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context.scratch(Path(folder))
        measured = curves(ctx, Embedder(model=arguments.model), sources())
    print(page(measured))
    (arguments.output / "paraphrases.svg").write_text(chart(measured), "utf-8")


def measure(data: Data) -> list[Line]:
    """The tables, and a line for each held-out set at the default threshold."""
    ctx = Context.scratch(data.folder / "paraphrases")
    embedder = Embedder(model=str(ROOT / "data/models/potion-base-4m"))
    measured = curves(ctx, embedder, sources())
    print(page(measured))
    (data.folder / "paraphrases.svg").write_text(chart(measured), "utf-8")
    unchecked = semantic(ctx, chinese(), benchmarks(ctx, names=("mmlu",)), embedder=embedder)[
        "exam_unchecked"
    ]
    lines = [_line(curve) for curve in measured if curve.rows.split == "held-out"]
    not_compared = f"{unchecked.count()} of {len(unchecked)} rows are said not to be compared"
    return [*lines, Line("paraphrases, Chinese translations", outcome=not_compared)]


def _line(curve: Curve) -> Line:
    share = 1000 * curve.at(THRESHOLDS[curve.rows.kind])
    work = f"paraphrases, {curve.rows.kind}: {curve.rows.name}"
    if curve.rows.contaminated:
        return Line(work, outcome=f"recall {share / 10:.0f}% of {curve.count:,}")
    outcome = f"{share:.1f} of 1,000 innocent rows convicted"
    return Line(work, demanded=f"<= {MAX_FALSE}", met=share <= MAX_FALSE, outcome=outcome)


def curves(ctx: Context, embedder: Embedder, sets: Sequence[Rows]) -> list[Curve]:
    """The fractions dropped of each set, by its kind's benchmark and overlap of numbers."""
    result = []
    for kind, exam in EXAMS.items():
        items = benchmarks(ctx, names=(exam,))
        for each in (rows for rows in sets if rows.kind == kind):
            rows = each.rows()
            verdict = semantic(
                ctx,
                rows,
                items,
                embedder=embedder,
                threshold=min(GRID),
                task_types={exam: kind},
            )
            causes = [json.loads(cause) for cause in verdict["evidence"].drop_nulls()]
            scores = np.array([cause["score"] for cause in causes])
            dropped = [float((scores >= threshold).sum() / len(rows)) for threshold in GRID]
            result.append(Curve(each, len(rows), dropped))
    return result


def page(measured: Sequence[Curve]) -> str:
    """A Markdown table for each kind of task; the threshold in use is marked."""
    tables = []
    for kind in dict.fromkeys(curve.rows.kind for curve in measured):
        marks = [f"{t:.2f}" + " <" * (THRESHOLDS[kind] == t) for t in GRID]
        tables.append(f"{kind}: recall in %, or false convictions among 1,000 innocent rows (*)")
        body = [
            [
                f"{curve.rows.name} ({curve.count:,}){'' if curve.rows.contaminated else ' *'}",
                curve.rows.split,
                *(f"{(100 if curve.rows.contaminated else 1000) * s:.1f}" for s in curve.dropped),
            ]
            for curve in measured
            if curve.rows.kind == kind
        ]
        tables.append(markdown(["set", "used for", *marks], body))
    return "\n\n".join(tables)


def chart(measured: Sequence[Curve]) -> str:
    """The curves as an SVG: the fraction dropped, upwards, over the threshold."""
    left, top, width, height = 60, 30, 400, 300

    def point(threshold: float, fraction: float) -> str:
        across = left + width * (threshold - GRID[0]) / (GRID[-1] - GRID[0])
        return f"{across:.1f},{top + height * (1 - fraction):.1f}"

    parts = []
    for tenth in range(0, 11, 2):
        y = top + height * (1 - tenth / 10)
        parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{left + width}" y2="{y}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{10 * tenth}%</text>')
    for threshold in GRID:
        x = point(threshold, 0).split(",")[0]
        parts.append(
            f'<text x="{x}" y="{top + height + 20}" text-anchor="middle">{threshold:g}</text>'
        )
    for i, curve in enumerate(measured):
        points = " ".join(map(point, GRID, curve.dropped))
        color = f"hsl({i * 360 // len(measured)} 70% 45%)"
        dash = "" if curve.rows.contaminated else ' stroke-dasharray="4"'
        stroke = f'fill="none" stroke="{color}" stroke-width="2"{dash}'
        parts.append(f'<polyline points="{points}" {stroke}/>')
        y = top + 18 * i + 10
        parts.append(
            f'<rect x="{left + width + 20}" y="{y - 9}" width="10" height="10" fill="{color}"/>'
        )
        name = f"{curve.rows.kind}: {curve.rows.name}, {curve.rows.split}"
        parts.append(f'<text x="{left + width + 36}" y="{y}">{escape(name)}</text>')
    bottom = max(top + height + 40, top + 18 * len(measured) + 20)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {bottom}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


if __name__ == "__main__":
    main()
