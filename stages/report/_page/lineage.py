"""Which rows a data set consists of, and the stages that they passed.

The final rows are those that a release would publish; where the stages that export them have
not run, those of the last stage that has. Their lineage is followed back over rows, not over
edges: a held-out set or seeds are edges too, but none of their rows is handed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import polars as pl

from pipeline.errors import UserError
from pipeline.execution.snapshot import Snapshot, SnapshotStage
from pipeline.releases.contents import published_stages

ROW_KINDS: Final = ("records", "pairs", "documents")
"""What the page counts as a row; items of benchmarks are only named by evidence."""

FINAL_KINDS: Final = ("records", "pairs")


def final_stages(snapshot: Snapshot) -> list[SnapshotStage]:
    """The stages whose kept rows are the data set.

    Raises:
        UserError: No stage has rows of conversations or pairs.
    """
    with_rows = [
        s for s in snapshot.stages.values() if s.kind in FINAL_KINDS and s.view is not None
    ]
    if not with_rows:
        raise UserError(
            f"{snapshot.title} has no rows to report on",
            why="no stage has run that gives records or pairs",
            hint=snapshot.command("run" if snapshot.recipe else "verify"),
        )
    published = [stage for stage in with_rows if stage.name in published_stages(snapshot)]
    return published or with_rows[-1:]


def final_ids(snapshot: Snapshot) -> pl.DataFrame:
    """The ids of the data set: one column, each once, sorted."""
    ids = [ids_of(stage, "kept") for stage in final_stages(snapshot)]
    return pl.concat(ids).unique().sort("id")


def lineage(snapshot: Snapshot) -> list[SnapshotStage]:
    """The stages that rows of the data set passed, each after those before it."""
    passed: set[str] = set()
    waiting = [stage.name for stage in final_stages(snapshot)]
    while waiting:
        name = waiting.pop()
        if name not in passed:
            passed.add(name)
            waiting += _row_inputs(snapshot, snapshot.stages[name])
    return [stage for stage in snapshot.stages.values() if stage.name in passed]


def origins_of_rows(snapshot: Snapshot) -> list[SnapshotStage]:
    """The stages of the lineage in which rows begin: loaders and generators."""
    return [s for s in lineage(snapshot) if not list(_row_inputs(snapshot, s))]


def _row_inputs(snapshot: Snapshot, stage: SnapshotStage) -> Iterator[str]:
    """The stages whose rows a stage hands on."""
    if stage.makes == "columns":
        yield stage.first or ""
        return
    own = pl.concat([ids_of(stage, "kept"), ids_of(stage, "dropped")])
    for name in dict.fromkeys(n for names in stage.needs.values() for n in names):
        other = snapshot.stages[name]
        same_kind = other.kind == stage.kind and other.view is not None
        if same_kind and not ids_of(other, "kept").join(own, on="id", how="semi").is_empty():
            yield name


def ids_of(stage: SnapshotStage, part: str) -> pl.DataFrame:
    """The ids of a stage's kept, dropped or failed rows: one column, without nulls.

    Args:
        stage: A stage.
        part: Which rows; none where the stage has no artifact.
    """
    if stage.artifact is None or "id" not in stage.artifact.columns(part):
        return pl.DataFrame(schema={"id": pl.String})
    return stage.artifact.read(part, ["id"]).drop_nulls()
