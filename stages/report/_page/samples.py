"""A few dropped rows for each reason, with the evidence and what it names beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import polars as pl

from pipeline.execution.snapshot import Snapshot, SnapshotStage
from stages.report._page.texts import Turns, cut, marked, turns_of

PER_REASON: Final = 3
"""Rows that are shown of each reason."""

MAX_NAMED: Final = 1
"""Rows or items that are shown beside a dropped one."""

_ID: Final = re.compile("[0-9a-f]{32}")


def reasons(snapshot: Snapshot) -> list[dict[str, Any]]:
    """For every stage its reasons, the most frequent first, with numbers of rows and samples.

    Samples are the first by id, which is a digest: a fixed random draw.

    Args:
        snapshot: The stages.
    """
    drawn = {s.name: _drawn(s) for s in snapshot.stages.values() if s.artifact}
    facts = [row for frame in drawn.values() for row in frame.to_dicts()]
    ids = {row["id"] for row in facts} | {i for row in facts for i in _named(row)}
    turns = turns_of(snapshot, ids - {None})
    result = []
    for name, frame in drawn.items():
        dropped = snapshot.artifacts[name].manifest["counts"]["dropped"]
        groups = [
            {"reason": reason, "rows": count, "samples": _samples(frame, reason, turns)}
            for reason, count in sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
        ]
        if groups:
            result.append({"stage": name, "uses": snapshot.stages[name].uses, "reasons": groups})
    return result


def _samples(frame: pl.DataFrame, reason: str, turns: dict[str, Turns]) -> list[dict[str, Any]]:
    rows = frame.filter(pl.col("drop_reason") == reason).to_dicts()
    return [_sample(row, turns) for row in rows]


def failures(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The first failed rows of every stage: file and line, or id, and the error."""
    result = []
    for stage in snapshot.stages.values():
        count = stage.artifact.manifest["counts"]["failed"] if stage.artifact else 0
        if stage.artifact and count:
            rows = stage.artifact.read("failed").head(PER_REASON).to_dicts()
            samples = [{**row, "error": cut(row["error"])} for row in rows]
            result.append({"stage": stage.name, "rows": count, "samples": samples})
    return result


def _drawn(stage: SnapshotStage) -> pl.DataFrame:
    """The first rows of each reason: id, drop_reason and evidence."""
    assert stage.artifact is not None
    if not stage.artifact.columns("dropped"):
        return pl.DataFrame(schema=dict.fromkeys(("id", "drop_reason", "evidence"), pl.String))
    rows = stage.artifact.read("dropped", ["id", "drop_reason", "evidence"])
    return (
        rows.group_by("drop_reason", maintain_order=True)
        .head(PER_REASON)
        .select("id", "drop_reason", "evidence")
    )


def _sample(row: dict[str, Any], turns: dict[str, Turns]) -> dict[str, Any]:
    """A dropped row beside the first that its evidence names."""
    own: Turns = turns.get(row["id"], [])
    named = [(i, turns[i]) for i in _named(row) if i in turns][:MAX_NAMED]
    left, right = marked(own, named[0][1]) if named else (marked(own, [])[0], None)
    return {
        "id": row["id"],
        "turns": left,
        "evidence": evidence_items(row["evidence"]),
        "named": {"id": named[0][0], "turns": right} if named else None,
    }


def evidence_items(evidence: str | None) -> list[tuple[str, str]]:
    """The fields of evidence with their values as texts, long ones cut.

    Args:
        evidence: A JSON object; None or what is no object gives a single field or none.

    >>> evidence_items('{"score": 0.25, "by": "ifd"}')
    [('score', '0.25'), ('by', 'ifd')]
    """
    if not evidence:
        return []
    try:
        value = json.loads(evidence)
    except ValueError:
        value = evidence
    fields = value if isinstance(value, dict) else {"evidence": value}
    return [(cut(str(name)), cut(_shown(part))) for name, part in fields.items()]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _named(row: dict[str, Any]) -> list[str]:
    """The ids that the evidence of a row names, in its order; its own is left out."""
    try:
        ids = list(_ids(json.loads(row["evidence"] or "null")))
    except ValueError:
        return []
    return [i for i in dict.fromkeys(ids) if i != row["id"]]


def _ids(value: Any) -> Iterator[str]:
    if isinstance(value, str) and _ID.fullmatch(value):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _ids(part)
