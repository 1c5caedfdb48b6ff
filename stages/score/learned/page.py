"""The report of a head that was trained here, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stages._common.charts import table

HEADS: Final = {"head": "the head", "length": "length alone"}


def page(report: Mapping[str, Any]) -> str:
    """What was trained on what, and how good it is.

    Args:
        report: What `held_out.train_and_test` gives.
    """
    counts = report["rows"]
    parts = [
        f"# A {report['method']} of {report['label']}",
        f"Of {counts['labelled']:,} labelled rows {counts['training']:,} trained it and "
        f"{counts['held_out']:,} were held out; {counts['without_label']:,} had no readable label, "
        f"{counts['without_features']:,} lacked a feature.",
    ]
    if not counts["held_out"]:
        return "\n\n".join(
            [*parts, "No row was held out, so that nothing is known of its accuracy."]
        )
    parts += [_metrics(report), _verdict(report)]
    if report["reliability"]:
        rows = [
            [f"{b['predicted']:.3f}", f"{b['observed']:.3f}", f"{b['rows']:,}"]
            for b in report["reliability"]
        ]
        parts += ["## Reliability", table(["mean prediction", "mean label", "rows"], rows)]
    return "\n\n".join(parts)


def _metrics(report: Mapping[str, Any]) -> str:
    """The table of the metrics on the rows held out."""
    names = [name for name in report["held_out"]["head"] if name != "interval"]
    rows = []
    for who, metrics in report["held_out"].items():
        cells = [_shown(metrics[name]) for name in names]
        rows.append([HEADS[who], cells[0], _range(metrics["interval"]), *cells[1:]])
    if control := report["shuffled"]:
        span = _range([control["lowest"], control["highest"]])
        blank = ["-"] * (len(names) - 1)
        rows.append(["shuffled labels", _shown(control["mean"]), span, *blank])
    return table(["held out", names[0], "95% interval", *names[1:]], rows)


def _verdict(report: Mapping[str, Any]) -> str:
    """In words, whether the head is beyond chance, and beyond length alone."""
    said = {True: "is", False: "is not", None: "cannot be shown to be"}
    gain = report["gain_over_length"]
    return (
        f"By {report['metric']} the head {said[report['beyond_chance']]} beyond chance "
        f"({report['chance']:g}), and {said[report['beyond_length']]} better than length alone"
        f"{f' (the difference lies in {_range(gain)})' if gain else ''}."
    )


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _range(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
