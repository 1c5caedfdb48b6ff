"""The state of stages and the history of rows, read from the artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.errors import UserError
from pipeline.execution.json_rows import json_lines, present_fields
from pipeline.execution.named_rows import named_rows
from pipeline.execution.plan import PlannedStep, StepOutputs, plan
from pipeline.recipe.graph import Step, kind_of
from pipeline.recipe.recipe import Recipe, display
from pipeline.stage import BASE_COLUMNS, DataKind
from pipeline.store.artifact import Artifact
from pipeline.store.parquet import write_frame
from pipeline.store.store import Store
from schemas.manifest import FAILED
from schemas.records import polars_schema


def resolve(recipe: Recipe, store: Store) -> tuple[list[PlannedStep], StepOutputs]:
    """Plan a recipe, and open the newest artifact of every step, up to date or not.

    A step whose artifact does not belong to the rows that its input has now gets no view.
    """
    steps, outputs = plan(recipe, store), StepOutputs()
    for planned in steps:
        step = planned.step
        artifact = planned.artifact or store.latest(recipe.name, step.name)
        if artifact and all(name in outputs.artifacts for name in step.upstream):
            if not step.stage.annotates or _matches_input(step, artifact, outputs):
                outputs.add(step, artifact)
            else:
                outputs.artifacts[step.name] = artifact
    return steps, outputs


def _matches_input(step: Step, artifact: Artifact, outputs: StepOutputs) -> bool:
    """Whether an annotating step's artifact was computed from the rows of its input's view.

    Older code may have written it, for a stage with other edges or one that made rows.
    """
    view = outputs.views.get(step.first)
    if view is None:
        return False
    inputs: dict[str, list[Any]] = artifact.manifest["parts"].get("inputs", {})
    first_edge = next(iter(inputs.values()), [])
    ids = first_edge[0].get("ids") if first_edge else None
    added = set(artifact.manifest["columns"]) - {"id"}
    return ids == view.layers[-1].artifact.manifest["columns"]["id"] and not added & set(
        view.columns
    )


def status(recipe: Recipe, store: Store) -> dict[str, Any]:
    """The state of every step, with counts, time and memory of its newest artifact."""
    steps, outputs = resolve(recipe, store)
    stages = [_status(planned, outputs.artifacts.get(planned.step.name)) for planned in steps]
    return {"recipe": recipe.name, "stages": stages}


def _status(planned: PlannedStep, artifact: Artifact | None) -> dict[str, Any]:
    counts = artifact.manifest["counts"] if artifact else None
    return {
        "name": planned.step.name,
        "uses": planned.step.stage.name,
        "state": planned.state,
        "fingerprint": planned.fingerprint,
        "drifted": planned.drifted,
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


def rows(recipe: Recipe, store: Store, name: str, part: str) -> pl.DataFrame:
    """Rows of a stage with all columns that are visible there.

    Args:
        recipe: The recipe.
        store: Where artifacts are.
        name: The stage's name in the recipe.
        part: "kept", "dropped" or "failed".

    Raises:
        UserError: The stage has not run, or has no rows that match those of its input.
    """
    artifact, outputs = _outputs_with(recipe, store, name)
    step = recipe.steps[name]
    if part == "failed":
        failed = artifact.read("failed")
        return failed if failed.width else pl.DataFrame(schema=polars_schema(FAILED))
    if kind_of(step) is DataKind.FILES:
        raise UserError(
            f"{name} ({step.stage.name}) gives files, not rows",
            hint=f"they are in {artifact.files}",
        )
    if name not in outputs.views:
        raise UserError(
            f"{name} was made from other rows than {step.first} has now",
            hint=recipe.command("run", name, store=store.root),
        )
    if part == "kept":
        view = outputs.views[name]
        return view.read(view.columns)
    return _dropped(step, artifact, outputs)


def _dropped(step: Step, artifact: Artifact, outputs: StepOutputs) -> pl.DataFrame:
    """The dropped rows with the columns of the input, those that the step added, and why."""
    base = BASE_COLUMNS[kind_of(step)] if step.stage.creates else {"id": pl.String()}
    schema = {**base, **step.own, "drop_reason": pl.String(), "evidence": pl.String()}
    stored = artifact.read("dropped")
    stored = stored if stored.width else pl.DataFrame(schema=schema)
    if step.stage.creates:
        return stored
    view = outputs.views[step.first]
    rows = view.read([c for c in view.columns if c != "id"])
    rows = rows.filter(pl.col("id").is_in(stored["id"].implode()))
    return rows.join(stored, on="id", how="inner", maintain_order="right")


def _outputs_with(recipe: Recipe, store: Store, name: str) -> tuple[Artifact, StepOutputs]:
    """The newest artifact of one step, and those of all steps."""
    recipe.step(name)
    _, outputs = resolve(recipe, store)
    if name not in outputs.artifacts:
        hint = recipe.command("run", name, store=store.root)
        raise UserError(f"{name} has not run yet in the store {display(store.root)}", hint=hint)
    return outputs.artifacts[name], outputs


def explain(recipe: Recipe, store: Store, prefix: str) -> dict[str, Any]:
    """The history of one record: what each stage added to it or decided about it.

    Args:
        recipe: The recipe.
        store: Where artifacts are.
        prefix: The id of the record, or the beginning of it.

    Returns:
        The `id`, and under `history` one mapping for each stage that it passed: `stage`,
        `uses`, `verdict` and the columns that the stage stored; where its evidence names other
        rows, `named` has their texts by id.

    Raises:
        UserError: No record has such an id, or several have.
    """
    _, outputs = resolve(recipe, store)
    matches = {
        (name, part): _matching_ids(artifact, part, prefix)
        for name, artifact in outputs.artifacts.items()
        for part in ("kept", "dropped", "failed")
    }
    ids = set().union(*matches.values())
    if not ids:
        raise UserError(
            f"no row of {recipe.name} has an id that begins with {prefix!r}",
            where=f"store {display(store.root)}",
            hint=f"{recipe.command('cat', 'STAGE', store=store.root)} lists ids",
        )
    if len(ids) > 1:
        first_ids = ", ".join(sorted(ids)[:5])
        raise UserError(f"{prefix!r} matches {len(ids)} rows: {first_ids}", hint="give more digits")
    (identity,) = ids
    history = [
        _event(recipe, name, part, row, outputs)
        for (name, part), matching in matches.items()
        if matching
        for row in outputs.artifacts[name].read(part).filter(pl.col("id") == identity).to_dicts()
    ]
    return {"id": identity, "history": history}


def _matching_ids(artifact: Artifact, part: str, prefix: str) -> set[str]:
    if "id" not in artifact.columns(part):
        return set()
    ids = artifact.read(part, ["id"])["id"]
    return set(ids.filter(ids.str.starts_with(prefix)))


def _event(
    recipe: Recipe, name: str, part: str, row: dict[str, Any], outputs: StepOutputs
) -> dict[str, Any]:
    shown = present_fields(row)
    stored = {key: value for key, value in shown.items() if key != "id" and value is not None}
    event = {"stage": name, "uses": recipe.steps[name].stage.name, "verdict": part, **stored}
    named = named_rows(row, outputs)
    return {**event, "named": named} if named else event


def save(frame: pl.DataFrame, path: str) -> None:
    """Write rows as Parquet or JSON Lines.

    Raises:
        UserError: The path ends in neither `.parquet` nor `.jsonl`, or cannot be written.
    """
    try:
        if path.endswith(".parquet"):
            write_frame(Path(path), frame)
        elif path.endswith(".jsonl"):
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(json_lines(frame))
        else:
            raise UserError(f"the output must end in .parquet or .jsonl, got {path!r}")
    except OSError as error:
        raise UserError(f"{path} cannot be written", why=error.strerror) from None


def summaries(artifacts: Sequence[Artifact]) -> list[str]:
    """The texts that report stages wrote for people to read (`summary.md` in their files)."""
    paths = [artifact.files / "summary.md" for artifact in artifacts]
    return [path.read_text("utf-8") for path in paths if path.exists()]
