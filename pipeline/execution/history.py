"""The state of stages and the history of rows, read from the artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from pipeline.errors import UserError
from pipeline.execution.json_rows import present_fields
from pipeline.execution.named_rows import named_rows
from pipeline.execution.snapshot import Snapshot, SnapshotStage
from pipeline.hints import display
from pipeline.models.journal.costs import costs
from pipeline.models.journal.journal import journal_in
from pipeline.models.journal.waiting import waiting_in
from pipeline.store.artifact import Artifact


def status(snapshot: Snapshot) -> dict[str, Any]:
    """The state of every stage, with counts, time and memory of its newest artifact.

    `costs` is what all runs of the recipe on the store paid, by stage and model; see
    `pipeline.models.journal.costs`. `waiting` of a stage are the batches of a provider that it
    waits for; see `pipeline.models.journal.waiting`.
    """
    waiting = waiting_in(snapshot.store.root, snapshot.title) if snapshot.recipe else {}
    return {
        "recipe": snapshot.title,
        "stages": [
            {**_status(stage, stage.artifact), "waiting": waiting.get(stage.name, [])}
            for stage in snapshot.stages.values()
        ],
        "costs": _costs(snapshot),
    }


def _costs(snapshot: Snapshot) -> list[dict[str, Any]]:
    journal = journal_in(snapshot.store.root) if snapshot.recipe else None
    if journal is None:
        return []
    try:
        return costs(journal, snapshot.title)
    finally:
        journal.close()


def _status(stage: SnapshotStage, artifact: Artifact | None) -> dict[str, Any]:
    counts = artifact.manifest["counts"] if artifact else None
    return {
        "name": stage.name,
        "uses": stage.uses,
        "state": stage.state,
        "fingerprint": stage.fingerprint,
        "drifted": stage.drifted,
        "rows_in": counts["in"] if counts else None,
        "created": counts["created"] if counts else None,
        "kept": counts["kept"] if counts else None,
        "dropped": counts["dropped"] if counts else {},
        "failed": counts["failed"] if counts else None,
        "computed": artifact.manifest["computed"] if artifact else None,
        "seconds": artifact.manifest["seconds"] if artifact else None,
        "peak_memory_bytes": artifact.manifest["peak_memory_bytes"] if artifact else None,
        "used": artifact.manifest["used"] if artifact else {},
        "files": str(artifact.files) if artifact and artifact.files.is_dir() else None,
    }


def explain(snapshot: Snapshot, prefix: str) -> dict[str, Any]:
    """The history of one record: what each stage added to it or decided about it.

    Args:
        snapshot: The stages of a recipe or a release.
        prefix: The id of the record, or the beginning of it.

    Returns:
        The `id`, and under `history` one mapping for each stage that it passed: `stage`,
        `uses`, `verdict` and the columns that the stage stored; where its evidence names other
        rows, `named` has their texts by id.

    Raises:
        UserError: No record has such an id, or several have.
    """
    artifacts = snapshot.artifacts
    matches = {
        (name, part): _matching_ids(artifact, part, prefix)
        for name, artifact in artifacts.items()
        for part in ("kept", "dropped", "failed")
    }
    ids = set().union(*matches.values())
    if not ids:
        raise UserError(
            f"no row of {snapshot.title} has an id that begins with {prefix!r}",
            where=f"store {display(snapshot.store.root)}",
            hint=f"{snapshot.command('cat', 'STAGE')} lists ids",
        )
    if len(ids) > 1:
        first_ids = ", ".join(sorted(ids)[:5])
        raise UserError(f"{prefix!r} matches {len(ids)} rows: {first_ids}", hint="give more digits")
    (identity,) = ids
    history = [
        _event(snapshot, name, part, row)
        for (name, part), matching in matches.items()
        if matching
        for row in artifacts[name].read(part).filter(pl.col("id") == identity).to_dicts()
    ]
    return {"id": identity, "history": history}


def _matching_ids(artifact: Artifact, part: str, prefix: str) -> set[str]:
    if "id" not in artifact.columns(part):
        return set()
    ids = artifact.read(part, ["id"])["id"]
    return set(ids.filter(ids.str.starts_with(prefix)))


def _event(snapshot: Snapshot, name: str, part: str, row: dict[str, Any]) -> dict[str, Any]:
    shown = present_fields(row)
    stored = {key: value for key, value in shown.items() if key != "id" and value is not None}
    event = {"stage": name, "uses": snapshot.stages[name].uses, "verdict": part, **stored}
    named = named_rows(row, snapshot.artifacts.values())
    return {**event, "named": named} if named else event


def summaries(artifacts: Sequence[Artifact]) -> list[str]:
    """The texts that report stages wrote for people to read (`summary.md` in their files)."""
    paths = [artifact.files / "summary.md" for artifact in artifacts]
    return [path.read_text("utf-8") for path in paths if path.exists()]
