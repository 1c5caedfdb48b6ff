"""The report page: one HTML file that shows a whole run, and asks nothing of the outside.

It opens from a file, years later, without a server or a network: style, script, the map's
library and the rows are inside. What is large is compressed; the script unpacks it.

Rows are data, and may hold anything. Three things see to it that no markup of a row is ever
live: the template escapes all that it is handed, the script writes nothing but text, and the
page's content security policy allows the one script whose digest it names and no request.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pipeline.execution.snapshot import Snapshot
from pipeline.store.artifact import Artifact
from pipeline.terminal import visible
from stages.report._page.ablations import ablations
from stages.report._page.columns import by_origin, lengths, stage_columns
from stages.report._page.cost import costs
from stages.report._page.differences import differences
from stages.report._page.lineage import final_ids, final_stages, origins_of_rows
from stages.report._page.samples import failures, reasons
from stages.report._page.search import Rows, rows_of
from stages.report._page.space import GRID, embedding_map

PARTS: Final = Path(__file__).parent / "_page"
PLACEHOLDER: Final = "0" * 32
"""Stands for an id in the command that the page shows with each row."""


def page(snapshot: Snapshot, against: Snapshot | None = None, title: str | None = None) -> str:
    """The page of a recipe or a release as HTML.

    Args:
        snapshot: What it is about; stages that have not run are shown as such.
        against: An earlier release, to show what changed since; None to leave that out.
        title: The heading; by default the snapshot's title.

    Returns:
        The whole file. The same snapshot gives the same bytes.

    Raises:
        UserError: No stage has run that gives rows.
    """
    finals = final_stages(snapshot)
    rows = rows_of(snapshot)
    points = embedding_map(snapshot, rows.frame["id"])
    payload = {
        **rows.payload(),
        "map": points,
        "grid": GRID,
        "explain": snapshot.command("explain", PLACEHOLDER),
        "placeholder": PLACEHOLDER,
    }
    script = (PARTS / "page.js").read_text("utf-8")
    html = _template().render(
        title=title or snapshot.title,
        style=(PARTS / "page.css").read_text("utf-8"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        payload=packed(json.dumps(payload, ensure_ascii=False, separators=(",", ":"))),
        library=_plotly() if points else None,
        map=points,
        finals=[stage.name for stage in finals],
        **_sections(snapshot, rows),
        differences=differences(against, snapshot) if against else None,
    )
    return visible(html)  # a row may turn the order of reading round


def _sections(snapshot: Snapshot, rows: Rows) -> dict[str, Any]:
    """What the template shows without the script."""
    verdicts = dict(rows.frame["verdict"].value_counts().iter_rows())
    unread = sum(_failed_without_id(artifact) for artifact in snapshot.artifacts.values())
    verdicts["failed"] = verdicts.get("failed", 0) + unread
    return {
        "release": snapshot.release,
        "summary": {
            "final": len(final_ids(snapshot)),
            "began": [stage.name for stage in origins_of_rows(snapshot)],
            "total": len(rows.frame) + unread,
            **{name: verdicts.get(name, 0) for name in ("kept", "dropped", "failed", "other")},
        },
        "funnel": _funnel(snapshot),
        "reasons": reasons(snapshot),
        "failures": failures(snapshot),
        "sources": by_origin(snapshot, "source"),
        "licenses": by_origin(snapshot, "license"),
        "lengths": lengths(snapshot),
        "columns": stage_columns(snapshot),
        "costs": costs(snapshot),
        "ablations": ablations(snapshot),
        "method": _method(snapshot),
        "recipe": snapshot.release["recipe"]["text"] if snapshot.release else None,
    }


def _failed_without_id(artifact: Artifact) -> int:
    """How many source positions could not be read: no row came of them."""
    if not artifact.manifest["counts"]["failed"]:
        return 0
    return artifact.read("failed", ["id"])["id"].null_count()


def _funnel(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The counts of every stage, as `status` has them; None for stages that have not run."""
    entries = []
    for stage in snapshot.stages.values():
        counts = stage.artifact.manifest["counts"] if stage.artifact else None
        dropped = counts["dropped"] if counts else {}
        entries.append(
            {
                "name": stage.name,
                "uses": stage.uses,
                "state": stage.state,
                "ran": counts is not None,
                "rows_in": counts["in"] if counts else 0,
                "created": counts["created"] if counts else 0,
                "kept": counts["kept"] if counts else 0,
                "failed": counts["failed"] if counts else 0,
                "dropped": sum(dropped.values()),
                "reasons": sorted(dropped.items(), key=lambda item: (-item[1], item[0])),
            }
        )
    return entries


def _method(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Versions, options and models of every stage that has run."""
    entries = []
    for stage in snapshot.stages.values():
        if stage.artifact:
            manifest = stage.artifact.manifest
            options = {**manifest["parts"].get("options", {}), **manifest["parts"]["models"]}
            shown = {n: json.dumps(v, ensure_ascii=False) for n, v in options.items()}
            entries.append(
                {
                    "name": stage.name,
                    "uses": stage.uses,
                    "version": manifest["version"],
                    "inputs": {edge: ", ".join(names) for edge, names in stage.needs.items()},
                    "options": shown,
                    "finished": manifest["finished"],
                }
            )
    return entries


def packed(text: str) -> str:
    """A text compressed for a page: gzip in base64, which holds no character of markup.

    >>> gzip.decompress(base64.b64decode(packed("<b>"))).decode()
    '<b>'
    """
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 6, mtime=0)).decode("ascii")


@lru_cache(1)
def _plotly() -> str:
    """The library that draws the map, compressed: it is a quarter of its size so."""
    from plotly.offline import get_plotlyjs

    return packed(get_plotlyjs())


@lru_cache(1)
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PARTS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["percent"] = _percent
    environment.filters["duration"] = _duration
    return environment.get_template("page.html.jinja")


def _number(value: float | None, whole: bool = False) -> str:
    """A number for people: thousands separated, three digits of a fraction.

    >>> _number(1234567), _number(0.123456), _number(1234.5, True), _number(None)
    ('1,234,567', '0.123', '1,234', '')
    """
    if value is None:
        return ""
    if whole or isinstance(value, int):
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.3g}"


def _percent(part: float, total: float) -> str:
    """A part of a whole in percent; empty without a whole.

    >>> _percent(1, 8), _percent(0, 0)
    ('12.5%', '')
    """
    return f"{part / total:.1%}" if total else ""


def _duration(seconds: float) -> str:
    """A time for people.

    >>> _duration(3.21), _duration(125), _duration(7260)
    ('3.2 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
