"""Releases that a stage reads: which version a reference means, and what of it is read.

`latest` is the newest release of a name. Of a recipe's own releases it is the newest that the
recipe, as it reads, would not make again from the sources as they are: one that was made by
other text, profile or overrides, or from other rows, models or files. So a release never makes
the recipe that made it stale, whatever reads it there (such as the `held` edge of a selector);
once a source or the recipe has changed, the last release is read. And running again what made a
release gives that release.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline import ROOT
from pipeline.recipe.graph import Step
from pipeline.recipe.recipe import Recipe
from pipeline.store.hashing import digest
from pipeline.store.releases import LATEST, latest, read_release, versions
from pipeline.store.store import Store
from schemas.release import Release, ReleaseStage

Fingerprint = Callable[[Step], str]
"""The fingerprint of a step that reads sources alone."""


def with_version(
    recipe: Recipe, options: SimpleNamespace, store: Store, fingerprint: Fingerprint
) -> SimpleNamespace:
    """The options of a step that reads a release, with the version that is read now.

    Args:
        recipe: The recipe that it belongs to.
        options: The step's options: `name`, `version`, `store` and `optional`.
        store: The recipe's own store.
        fingerprint: Of another step of the recipe, as it would be now.

    Returns:
        The options; `version` is None where there is no such release and that is allowed,
        and `store` is the path of the other store, if there is one.

    Raises:
        UserError: There is no such release.
    """
    folder = _folder(recipe, options.store)
    there = Store(folder) if folder else store
    known = versions(there, options.name)
    if options.version != LATEST:
        version: str | None = options.version
        if options.optional and version not in known:
            version = None
    elif folder:
        version = known[-1] if known else None
    else:
        version = _latest(recipe, options.name, store, fingerprint)
    if version is None and not options.optional:
        version = read_release(there, f"{options.name}@{LATEST}")["version"]
    shown = str(folder) if folder else None
    return SimpleNamespace(**{**vars(options), "version": version, "store": shown})


def _folder(recipe: Recipe, store: str | None) -> Path | None:
    """The folder of another store: beside the recipe, or in the repository."""
    if store is None:
        return None
    bases = [recipe.path.parent, ROOT] if recipe.path else [ROOT]
    return next((base / store for base in bases if (base / store).is_dir()), bases[0] / store)


def _latest(recipe: Recipe, name: str, store: Store, fingerprint: Fingerprint) -> str | None:
    """The newest release that the recipe would not make again as it is."""
    fingerprint = _remembered(fingerprint)
    for version in reversed(versions(store, name)):
        release = read_release(store, f"{name}@{version}")
        if not _is_own(release, recipe, store, fingerprint):
            return version
    return None


def _remembered(fingerprint: Fingerprint) -> Fingerprint:
    """The same, which computes that of a step once: each release is compared with it."""
    known: dict[str, str] = {}

    def of(step: Step) -> str:
        if step.name not in known:
            known[step.name] = fingerprint(step)
        return known[step.name]

    return of


def _is_own(release: Release, recipe: Recipe, store: Store, fingerprint: Fingerprint) -> bool:
    """Whether the recipe as it reads made a release from the sources as they are."""
    made_by = release["recipe"]
    if (made_by["name"], made_by["digest"]) != (recipe.name, recipe.digest):
        return False
    released = {stage["name"]: stage["fingerprint"] for stage in release["stages"]}
    sources = [
        s for s in recipe.steps.values() if not s.upstream and not is_own_source(s, recipe, store)
    ]
    return all(released.get(step.name) == fingerprint(step) for step in sources)


def is_own_source(step: Step, recipe: Recipe, store: Store) -> bool:
    """Whether a step reads the latest of the recipe's own releases, which is no source.

    Args:
        step: The step.
        recipe: The recipe that it belongs to.
        store: Where its releases are.
    """
    options = step.options
    if not step.stage.reads_release or options.version != LATEST or options.store is not None:
        return False
    last = latest(store, options.name)
    return last is None or last["recipe"]["name"] == recipe.name


def read_parts(options: SimpleNamespace, store: Store) -> Any:
    """What a fingerprint holds of a release that is read: its rows by their digests.

    Args:
        options: What `with_version` returned.
        store: The recipe's own store.

    Raises:
        UserError: The release is damaged.
    """
    if options.version is None:
        return None
    there = Store(Path(options.store)) if options.store else store
    release = read_release(there, f"{options.name}@{options.version}")
    by_name = {stage["name"]: stage for stage in release["stages"]}
    return digest([[s["columns"] for s in _layers(by_name, n)] for n in release["published"]])


def _layers(by_name: dict[str, ReleaseStage], name: str) -> list[ReleaseStage]:
    """The stages whose columns are seen at one of them, itself first."""
    stage = by_name[name]
    if stage["makes"] != "columns" or stage["first"] is None:
        return [stage]
    return [stage, *_layers(by_name, stage["first"])]
