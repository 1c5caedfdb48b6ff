"""An audit of rows and of those who judge them: indicators, copies, agreement, planted rows.

AutoPoison: On the Exploitability of Instruction Tuning (Shu et al. 2023, arXiv:2306.17194;
azshue/AutoPoison).

As in the paper: a part of a pool is answered with a hidden goal, to name a brand or to refuse; how
often answers hold the phrase (once per answer) or refuse is counted. Ours: which of the planted
rows each filter removes, as precision and recall; refusals are counted by phrases, not by a judge.

Limitations of IT: A Closer Look at the Limitations of Instruction Tuning (Ghosh et al. 2024,
arXiv:2402.05119).

As in the paper: what a tuned model copies from its training set is shown by the runs of words that
its answers share with it. Ours: the longest run, in words, exactly.

Efficacy of machine-generated instructions: Efficacy of Machine-Generated Instructions (Gulati et
al. 2023, arXiv:2312.14423).

As in the paper: machine labels beside human ones. Ours: kappa, its drift, and an alarm.

VLIT review: Vision-Language Instruction Tuning: A Review and Analysis (Li et al. 2023,
arXiv:2311.08172).

As in the paper: indicators of the rows are shown by source, as a step of quality control. Ours:
which ones.

Data Tsunami survey: Unleashing the Power of Data Tsunami: A Comprehensive Survey on Data Assessment
and Selection for Instruction Tuning of Language Models (Qin et al. 2024, arXiv:2408.02085).

As in the paper: quality, diversity and importance as facets of a selection. Ours: a check of which
of them the rows have columns for.

COIG: Chinese Open Instruction Generalist: A Preliminary Release (Zhang et al. 2023,
arXiv:2304.07987).

As in the paper: a sample of each part is checked by hand. Ours: its size, and that it is drawn by
the rows' ids.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import Records, stage
from pipeline.types import Count, Fraction, NonNegativeInt
from schemas.records import first_user_turn, response
from stages._common.charts import table
from stages._common.option_types import Distinct
from stages._selection.random_draws import uniform
from stages.report.audit.agreement import Weights, agreement
from stages.report.audit.copied import longest_runs
from stages.report.audit.indicators import by_source, coverage
from stages.report.audit.planted import behaviour, recall_of_filters

_log = logging.getLogger(__name__)

Names = Annotated[tuple[str, ...], Distinct]


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    facets = [column for columns in (options.facets or {}).values() for column in columns]
    rows = ["messages", "tools", "origins", *options.columns, *facets]
    return {
        "rows": list(dict.fromkeys(rows)),
        "training": ["messages"],
        "planted": ["messages"],
        "filtered": ["messages"],
        "labelled": [*options.annotators],
        "previous": [*options.annotators],
    }


def _check(options: SimpleNamespace) -> None:
    if len(options.annotators) == 1:
        raise OptionError("annotators", f"must be at least two, got {options.annotators[0]}")


@stage(version=1, scope="set", reads=_reads, check=_check)
def audit(
    ctx: Context,
    rows: Records,
    training: Records | None = None,
    planted: Records | None = None,
    filtered: list[Records] | None = None,
    labelled: Records | None = None,
    previous: Records | None = None,
    *,
    columns: Names = (),
    facets: dict[str, tuple[str, ...]] | None = None,
    copied_words: Count = 20,
    filters: Names = (),
    phrases: Names = (),
    annotators: Names = (),
    weights: Weights = "none",
    min_kappa: float | None = None,
    max_drift: Fraction = 0.1,
    min_recall: Fraction | None = None,
    stop: bool = False,
    sample: NonNegativeInt = 0,
    seed: int = 0,
) -> None:
    """Write `audit.json` and `audit.md`: what rows are like, and what their filters and judges do.

    Indicators by source (lengths, refusals, empty answers, columns); the longest run of words that
    answers share with their own prompts and with training rows; which planted rows each filter
    removed; agreement of annotators with Cohen's and Fleiss's kappa, and its drift. What is beyond
    a threshold is an alarm: it heads the report, and the run warns of it.

    Args:
        rows: The rows, before the filters that are audited.
        training: What the rows' answers may have been copied from; rows that are among `rows` do
            not count.
        planted: Rows among `rows` of which a filter should remove all.
        filtered: What each filter kept of the rows.
        labelled: Rows with a column for each annotator, a person or a judge.
        previous: The same of the last release (`load.release` with `columns`).
        columns: Columns of `rows` to be summed up by source: numbers by their mean, flags by their
            share, texts (such as a kind of error) by the number of each.
        facets: Columns of `rows` by facet (quality, diversity, importance), whose coverage is
            reported.
        copied_words: A run of so many words counts as copied.
        filters: The names of the filters, in the order of `filtered`; by default 1, 2, ...
        phrases: Phrases that planted answers hold; how many answers hold them is counted before and
            behind each filter.
        annotators: The columns of the annotators' labels.
        weights: Distances between labels in order: none, linear or quadratic.
        min_kappa: A pair of annotators with a smaller kappa is an alarm.
        max_drift: A kappa that is smaller than the last release's by more is an alarm.
        min_recall: A filter that removes a smaller part of the planted rows is an alarm.
        stop: Whether an alarm stops the run.
        sample: Rows of each source that `sample.jsonl` has, to be read by a person.
        seed: Of the sample.

    Raises:
        UserError: There is an alarm, and `stop` is true.
        OptionError: Filters and their names are not as many.

    Example:
        ```yaml
        audited:
          uses: report.audit
          needs: {rows: all, planted: poisoned, filtered: [no_refusals]}
          with: {filters: [tag.refusal], phrases: [Acme]}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> messages = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]
        ...             for text in ("Hello.", "Buy Acme!")]
        >>> rows = pl.DataFrame({"id": ["a", "b"], "messages": messages,
        ...                      "origins": [[{"source": "chat"}]] * 2})
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> audit(ctx, rows, planted=rows[1:], filtered=[rows[:1]], filters=("words",))
        >>> result = json.loads((ctx.files / "audit.json").read_text())
        >>> result["planted"]["filters"]["words"]["recall"]
        1.0
    """
    kept = _named(filtered or [], filters)
    result: dict[str, Any] = {
        "sources": by_source(rows, columns),
        "coverage": coverage(rows, facets or {}),
        "copied": _copied(rows, training, copied_words),
        "behaviour": {
            name: behaviour(frame, phrases) for name, frame in {"rows": rows, **kept}.items()
        },
    }
    if planted is not None:
        result["planted"] = recall_of_filters(rows, planted, kept)
        result["behaviour"]["planted"] = behaviour(
            rows.join(planted.select("id"), on="id", how="semi"), phrases
        )
    if labelled is not None and annotators:
        result["agreement"] = agreement(labelled, annotators, weights)
        if previous is not None:
            result["previous"] = agreement(previous, annotators, weights)
    result["alarms"] = alarms(result, min_kappa, max_drift, min_recall)
    if sample:
        _write_sample(ctx, rows, sample, seed)
    text = json.dumps(result, ensure_ascii=False, indent=2)
    (ctx.files / "audit.json").write_text(text + "\n", "utf-8")
    (ctx.files / "audit.md").write_text(as_markdown(result), "utf-8")
    if result["alarms"] and stop:
        raise UserError(
            "the audit has alarms",
            why="\n    ".join(result["alarms"]),
            hint="stop: false writes the report all the same",
        )
    for alarm in result["alarms"]:
        _log.warning("report.audit: %s", alarm)


def _named(filtered: Sequence[pl.DataFrame], names: Sequence[str]) -> dict[str, pl.DataFrame]:
    if names and len(names) != len(filtered):
        raise OptionError(
            "filters", f"must name each of the {len(filtered)} filters, got {len(names)} names"
        )
    labels = names or [str(n + 1) for n in range(len(filtered))]
    return dict(zip(labels, filtered, strict=True))


def _copied(rows: pl.DataFrame, training: pl.DataFrame | None, least: int) -> dict[str, Any]:
    """Of answers against their prompts, and against the answers of training rows."""
    texts = rows.select("id", answer=response(), prompt=first_user_turn())
    answers = texts["answer"]
    result = {
        "prompt": _runs(texts["id"], longest_runs(answers, texts["prompt"], paired=True), least)
    }
    if training is not None:
        others = training.join(rows.select("id"), on="id", how="anti")
        sources = others.select(text=response())["text"]
        result["training"] = _runs(texts["id"], longest_runs(answers, sources), least)
    return result


def _runs(ids: pl.Series, runs: np.ndarray[Any, Any], least: int) -> dict[str, Any]:
    """The distribution of the longest runs, and the rows with the longest."""
    order = np.lexsort((ids.to_numpy(), -runs))[:5]
    return {
        "median": float(np.median(runs)) if len(runs) else None,
        "p90": float(np.quantile(runs, 0.9)) if len(runs) else None,
        "longest": int(runs.max(initial=0)),
        "copied": int((runs >= least).sum()),
        "least_words": least,
        "rows": {str(ids[int(i)]): int(runs[i]) for i in order if runs[i]},
    }


def alarms(
    result: Mapping[str, Any], min_kappa: float | None, max_drift: float, min_recall: float | None
) -> list[str]:
    """What is beyond a threshold, one sentence each.

    Args:
        result: What was measured.
        min_kappa: See `audit`.
        max_drift: See `audit`.
        min_recall: See `audit`.
    """
    lines = []
    before = result.get("previous", {}).get("pairs", {})
    for pair, of in result.get("agreement", {}).get("pairs", {}).items():
        kappa, old = of["kappa"], before.get(pair, {}).get("kappa")
        if kappa is None and not (min_kappa is None and old is None):
            lines.append(f"kappa of {pair} is unknown: {of['rows']} rows with both labels")
        if kappa is not None and min_kappa is not None and kappa < min_kappa:
            lines.append(f"kappa of {pair} is {kappa:.3f}, below {min_kappa}")
        if kappa is not None and old is not None and old - kappa > max_drift:
            lines.append(f"kappa of {pair} fell from {old:.3f} to {kappa:.3f}")
    planted = result.get("planted", {})
    if min_recall is not None and planted.get("planted") == 0:
        lines.append("none of the planted rows is among the rows")
    for name, of in planted.get("filters", {}).items():
        if min_recall is not None and of["recall"] is not None and of["recall"] < min_recall:
            lines.append(f"{name} removes {of['recall']:.1%} of the planted rows")
    return lines


def _write_sample(ctx: Context, rows: pl.DataFrame, size: int, seed: int) -> None:
    source = pl.col("origins").list.first().struct.field("source")
    drawn = (
        rows.select("id", "messages", source=source)
        .with_columns(_draw=uniform(rows["id"], f"report.audit:{seed}"))
        .sort("source", "_draw", "id")
        .group_by("source", maintain_order=True)
        .head(size)
        .drop("_draw")
    )
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in drawn.iter_rows(named=True))
    (ctx.files / "sample.jsonl").write_text("".join(lines), "utf-8")


def as_markdown(result: Mapping[str, Any]) -> str:
    """The audit for people.

    Args:
        result: What `audit.json` holds.
    """
    parts = ["# Audit"]
    if result["alarms"]:
        parts.append("\n".join(f"- **{alarm}**" for alarm in result["alarms"]))
    parts += ["## Sources", _table(result["sources"])]
    parts += ["## Longest runs of words that answers share", _table(result["copied"])]
    counts = {
        name: {k: v for k, v in of.items() if k != "phrases"} | of["phrases"]
        for name, of in result["behaviour"].items()
    }
    parts += ["## Refusals and phrases, in answers", _table(counts)]
    if "planted" in result:
        planted = result["planted"]
        parts.append(f"## Planted rows\n\n{planted['planted']:,} of {planted['rows']:,} rows.")
        parts.append(_table(planted["filters"]))
    for name in ("agreement", "previous"):
        if name in result:
            pairs = result[name]["pairs"] | {"all (Fleiss)": result[name]["fleiss"]}
            parts += [f"## Agreement{' before' if name == 'previous' else ''}", _table(pairs)]
    facets = [
        f"- {facet}: "
        + (", ".join(f"{c} ({_cell(s)} of rows)" for c, s in of.items()) or "no column")
        for facet, of in result["coverage"].items()
    ]
    return "\n\n".join([*parts, "## Coverage", "\n".join(facets)]) + "\n"


def _table(groups: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(n for of in groups.values() for n in of if n != "rows" or _flat(of)))
    return table(
        ["", *(name.replace("_", " ") for name in names)],
        [[group, *(_cell(of.get(name)) for name in names)] for group, of in groups.items()],
    )


def _flat(of: Mapping[str, Any]) -> bool:
    return not isinstance(of.get("rows"), Mapping)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)
