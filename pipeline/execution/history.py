"""What became of a row: read from the artifacts, kept nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.errors import UserError
from pipeline.execution.plan import PlannedStep, StepOutputs, plan
from pipeline.recipe.graph import Step, kind_of
from pipeline.recipe.recipe import Recipe
from pipeline.stage import DataKind
from pipeline.store.artifact import Artifact
from pipeline.store.parquet import write_frame
from pipeline.store.store import Store
from schemas.manifest import FAILED
from schemas.records import polars_schema


def resolve(recipe: Recipe, store: Store) -> tuple[list[PlannedStep], StepOutputs]:
    """The plan, and the newest artifact of every stage whether or not it is up to date."""
    planned, made = plan(recipe, store), StepOutputs()
    for look in planned:
        artifact = look.artifact or store.last(recipe.name, look.step.name)
        ready = all(name in made.artifacts for name in look.step.upstream)
        if artifact and ready:
            made.add(look.step, artifact)
            if look.step.stage.annotates and not _fits(look.step, artifact, made):
                del made.views[look.step.name]
    return planned, made


def _fits(step: Step, artifact: Artifact, made: StepOutputs) -> bool:
    """Whether an annotating stage's artifact was made from the rows that its input has now."""
    before = made.views.get(step.first)
    known = artifact.manifest["parts"]["inputs"][step.stage.edges[0].name][0]["ids"]
    return before is None or before.layers[-1].artifact.manifest["columns"]["id"] == known


def status(recipe: Recipe, store: Store) -> dict[str, Any]:
    """Per stage: state, fingerprint, counts, time and memory of its newest artifact."""
    planned, made = resolve(recipe, store)
    stages = [_status(look, made.artifacts.get(look.step.name)) for look in planned]
    return {"recipe": recipe.name, "stages": stages}


def _status(look: PlannedStep, artifact: Artifact | None) -> dict[str, Any]:
    counts = artifact.manifest["counts"] if artifact else None
    return {
        "name": look.step.name,
        "uses": look.step.stage.name,
        "state": look.state,
        "fingerprint": look.fingerprint,
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
    """The kept, dropped or failed rows of a stage, with all columns visible there."""
    artifact, made = _made(recipe, store, name)
    step = recipe.steps[name]
    if part == "failed":
        lost = artifact.read("failed")
        return lost if lost.width else pl.DataFrame(schema=polars_schema(FAILED))
    if kind_of(step) is DataKind.FILES:
        raise UserError(
            f"{name} ({step.stage.name}) makes files and no rows",
            hint=f"they lie in {artifact.files}",
        )
    if name not in made.views:
        raise UserError(
            f"{name} was made from other rows than {step.first} has now",
            hint=recipe.command("run", name, store=store.root),
        )
    if part == "kept":
        view = made.views[name]
        return view.read(view.columns)
    gone = artifact.read("dropped")
    if step.stage.creates or not len(gone):
        return gone
    view = made.views[step.first]
    texts = [c for c in ("messages", "extra", "text") if c in view.columns]
    joined = gone.join(view.read(texts), on="id", how="left", maintain_order="left")
    return joined.select("id", *texts, pl.exclude("id", *texts))


def _made(recipe: Recipe, store: Store, name: str) -> tuple[Artifact, StepOutputs]:
    recipe.step(name)
    _, made = resolve(recipe, store)
    if name not in made.artifacts:
        hint = recipe.command("run", name, store=store.root)
        raise UserError(f"{name} has not run yet", hint=hint)
    return made.artifacts[name], made


def explain(recipe: Recipe, store: Store, prefix: str) -> dict[str, Any]:
    """A record's way through the graph: what each stage said of it, in order.

    prefix: an id or the beginning of one. Raises UserError when it fits no row or several.
    """
    _, made = resolve(recipe, store)
    places = {
        (name, part): _fitting(artifact, part, prefix)
        for name, artifact in made.artifacts.items()
        for part in ("kept", "dropped", "failed")
    }
    found = set().union(*places.values())
    if not found:
        raise UserError(
            f"no row of {recipe.name} has an id that begins with {prefix!r}",
            hint=f"{recipe.command('cat', 'STAGE', store=store.root)} lists ids",
        )
    if len(found) > 1:
        some = ", ".join(sorted(found)[:5])
        raise UserError(f"{prefix!r} fits {len(found)} rows: {some}", hint="give more digits")
    (identity,) = found
    way = [
        _event(recipe, name, part, row)
        for (name, part), ids in places.items()
        if ids
        for row in made.artifacts[name].read(part).filter(pl.col("id") == identity).to_dicts()
    ]
    return {"id": identity, "way": way}


def _fitting(artifact: Artifact, part: str, prefix: str) -> set[str]:
    if "id" not in artifact.columns(part):
        return set()
    ids = artifact.read(part, ["id"])["id"]
    return set(ids.filter(ids.str.starts_with(prefix)))


def _event(recipe: Recipe, name: str, part: str, row: dict[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in row.items() if key != "id" and value is not None}
    return {"stage": name, "uses": recipe.steps[name].stage.name, "verdict": part, **told}


def save(frame: pl.DataFrame, path: str) -> None:
    """Write rows as Parquet or JSON Lines, as the ending says."""
    try:
        if path.endswith(".parquet"):
            write_frame(Path(path), frame)
        elif path.endswith(".jsonl"):
            frame.write_ndjson(path)
        else:
            raise UserError(f"{path!r} ends in neither .parquet nor .jsonl")
    except OSError as error:
        raise UserError(f"{path} cannot be written", why=error.strerror) from None


def summaries(made: Sequence[Artifact]) -> list[str]:
    """The texts that report stages left for people to read (`summary.md` in their files)."""
    paths = [artifact.files / "summary.md" for artifact in made]
    return [path.read_text("utf-8") for path in paths if path.exists()]
