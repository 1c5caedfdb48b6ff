"""What a release says about the artifacts that it names, read from a snapshot of its recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from pipeline.execution.plan import SCHEMA_VERSION
from pipeline.execution.snapshot import Snapshot, SnapshotStage
from pipeline.recipe.recipe import Recipe
from pipeline.releases.plugins import plugin
from pipeline.store.artifact import Artifact
from pipeline.store.hashing import digest
from pipeline.store.parquet import row_count
from schemas.manifest import Counts
from schemas.release import FORMAT, Release, ReleaseFile, ReleaseModel, ReleaseRecipe, ReleaseStage

EXPORT: Final = "export."
"""The family of stages whose files a release publishes."""

UNKNOWN: Final = "unknown"
"""The license of rows that state none."""

_FILES: Final = "files/"


def contents(snapshot: Snapshot, name: str) -> Release:
    """A release of a recipe's stages, without version, parent and time.

    Args:
        snapshot: The recipe's stages; all have an artifact.
        name: The release's name.

    Raises:
        UserError: An artifact is damaged.
    """
    recipe = snapshot.recipe
    assert recipe is not None
    stages = stages_of(snapshot)
    published = published_stages(snapshot)
    return Release(
        format=FORMAT,
        name=name,
        version="",
        parent=None,
        created="",
        recipe=_recipe(recipe),
        schema=SCHEMA_VERSION,
        stages=stages,
        published=published,
        files=list(_files(snapshot)),
        counts=funnel(stages, published),
        licenses=licenses(snapshot, published),
        models=list(_models(stages)),
        journal=journal_digest(snapshot),
        certificate=plugin("certificate")(snapshot),
        libraries=_libraries(list(snapshot.artifacts.values())),
    )


def _recipe(recipe: Recipe) -> ReleaseRecipe:
    return ReleaseRecipe(
        name=recipe.name,
        text=recipe.text,
        sha256=hashlib.sha256(recipe.text.encode()).hexdigest(),
        digest=recipe.digest,
        profile=recipe.profile,
        overrides=list(recipe.overrides),
    )


def stages_of(snapshot: Snapshot) -> list[ReleaseStage]:
    """What a release says, or would say, of its stages: of those that have run."""
    if snapshot.release:
        return snapshot.release["stages"]
    return [_stage(stage) for stage in snapshot.stages.values() if stage.artifact]


def _stage(stage: SnapshotStage) -> ReleaseStage:
    assert stage.artifact is not None
    manifest = stage.artifact.manifest
    return ReleaseStage(
        name=stage.name,
        uses=stage.uses,
        version=manifest["version"],
        fingerprint=manifest["fingerprint"],
        digest=manifest["digest"],
        makes=stage.makes,
        kind=None if stage.kind is None else str(stage.kind),
        first=stage.first,
        needs={edge: list(names) for edge, names in stage.needs.items()},
        counts=manifest["counts"],
        columns=manifest["columns"],
        parts=manifest["parts"],
        incomplete=manifest["incomplete"],
    )


def published_stages(snapshot: Snapshot) -> list[str]:
    """The stages whose rows the files of a release hold.

    They are the `export.*` stages themselves, since an export may drop rows; of several over
    the same rows the one that keeps most. Without exports, the last stage with rows.
    """
    fullest: dict[str, SnapshotStage] = {}
    with_rows = [stage for stage in snapshot.stages.values() if stage.kind is not None]
    for stage in with_rows:
        if stage.uses.startswith(EXPORT) and stage.first:
            other = fullest.get(stage.first)
            if other is None or _kept(stage) > _kept(other):
                fullest[stage.first] = stage
    return [stage.name for stage in fullest.values() or with_rows[-1:]]


def _kept(stage: SnapshotStage) -> int:
    return stage.artifact.kept if stage.artifact else 0


def _files(snapshot: Snapshot) -> Iterator[ReleaseFile]:
    for stage in snapshot.stages.values():
        if stage.artifact is None or not stage.uses.startswith(EXPORT):
            continue
        stage.artifact.verified_files(snapshot.store.files())
        for path, entry in sorted(stage.artifact.manifest["files"].items()):
            if path.startswith(_FILES):
                is_parquet = path.endswith(".parquet")
                yield ReleaseFile(
                    stage=stage.name,
                    path=path.removeprefix(_FILES),
                    bytes=entry["bytes"],
                    sha256=entry["sha256"],
                    rows=row_count(stage.artifact.folder / path) if is_parquet else None,
                )


def funnel(stages: Sequence[ReleaseStage], published: Sequence[str]) -> Counts:
    """The rows on the way to the published stages, by what became of them.

    Args:
        stages: All stages.
        published: The stages whose rows are published.

    Returns:
        Rows that were read, created, dropped and failed in the stages that published rows
        passed, and kept in the published ones. Where rows go one way, in + created = kept +
        dropped + failed; of branches over the same rows, each counts its own.
    """
    on_way = passed_stages(stages, published)
    return {
        "in": sum(s["counts"]["in"] for s in on_way if not _sources(s)),
        "created": sum(s["counts"]["created"] for s in on_way),
        "kept": sum(s["counts"]["kept"] for s in on_way if s["name"] in published),
        "dropped": {
            f"{s['name']}: {reason}": number
            for s in on_way
            for reason, number in s["counts"]["dropped"].items()
        },
        "failed": sum(s["counts"]["failed"] for s in on_way),
    }


def passed_stages(stages: Sequence[ReleaseStage], published: Sequence[str]) -> list[ReleaseStage]:
    """The stages that published rows passed, each after those before it.

    Args:
        stages: All stages.
        published: The stages whose rows are published.
    """
    by_name = {stage["name"]: stage for stage in stages}
    passed: set[str] = set()
    waiting = list(published)
    while waiting:
        stage = by_name.get(waiting.pop())
        if stage and stage["name"] not in passed:
            passed.add(stage["name"])
            waiting += _sources(stage)
    return [stage for stage in stages if stage["name"] in passed]


def _sources(stage: ReleaseStage) -> list[str]:
    """The stages whose rows pass through this one: a generator's inputs are only read."""
    if stage["first"] is None or stage["makes"] == "files":
        return []
    if stage["makes"] == "columns":
        return [stage["first"]]
    merges = stage["counts"]["in"] > 0
    return next(iter(stage["needs"].values())) if merges else []


def licenses(snapshot: Snapshot, published: Sequence[str]) -> dict[str, int]:
    """Published rows under each license, by name; one of several counts under each of them.

    Args:
        snapshot: All stages.
        published: The stages whose rows are published.
    """
    counts: dict[str, int] = {}
    for name in published:
        view = snapshot.stages[name].view
        if view is None or "origins" not in view.columns:
            continue
        rows = view.read(["origins"])
        stated = pl.element().struct.field("license").fill_null(UNKNOWN)
        names = rows["origins"].list.eval(stated).list.unique().rename("license")
        for license_name, number in _value_counts(names):
            counts[license_name] = counts.get(license_name, 0) + number
    return dict(sorted(counts.items()))


def _value_counts(names: pl.Series) -> Iterator[tuple[str, int]]:
    values = names.explode().fill_null(UNKNOWN).value_counts()
    yield from values.iter_rows()


def _models(stages: Sequence[ReleaseStage]) -> Iterator[ReleaseModel]:
    for stage in stages:
        for option, identity in stage["parts"].get("models", {}).items():
            if identity is not None:
                yield ReleaseModel(stage=stage["name"], option=option, identity=identity)


def journal_digest(snapshot: Snapshot) -> str | None:
    """A digest of the keys of all answers that rows of any stage name; None where none does."""
    keys: set[str] = set()
    for artifact in snapshot.artifacts.values():
        for part in ("kept", "dropped"):
            keys.update(_journal_keys(artifact, part))
    return digest(sorted(keys)) if keys else None


def _journal_keys(artifact: Artifact, part: str) -> Iterator[str]:
    renamed: Mapping[str, str] = artifact.manifest["parts"].get("as", {})
    original = {new: old for old, new in renamed.items()}
    named = [c for c in artifact.columns(part) if original.get(c, c).endswith("journal")]
    present = [*named, *({"evidence"} & {*artifact.columns(part)})]
    frame = artifact.read(part, present) if present else pl.DataFrame()
    present = [c for c in present if c == "evidence" or frame.schema[c] == pl.List(pl.String)]
    for column in present:
        values: Any = frame[column].drop_nulls()
        if values.dtype == pl.String:
            values = [_named(text) for text in values.filter(values.str.contains('"journal"'))]
        for keys in values:
            yield from keys


def _named(evidence: str) -> list[str]:
    keys = json.loads(evidence).get("journal")
    return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []


def _libraries(artifacts: Sequence[Artifact]) -> dict[str, str]:
    """Versions of the libraries; of a library that was upgraded in between, the newest use."""
    versions: dict[str, str] = {}
    for artifact in sorted(artifacts, key=lambda a: (a.manifest["finished"], a.fingerprint)):
        versions.update(artifact.manifest["libraries"])
    return dict(sorted(versions.items()))
