"""A release of a recipe as it is now, unless the last one says the same.

Versions count up by themselves: another recipe or another schema of rows gives the next major
version, other rows the next minor one. When and with which libraries the rows were computed
makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.errors import Exit, UserError
from pipeline.execution.plan import PlannedStep, plan
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.recipe import Recipe
from pipeline.releases.contents import contents, passed_stages
from pipeline.store.releases import (
    LATEST,
    check_name,
    latest,
    parse_reference,
    version_key,
    write_release,
)
from pipeline.store.store import Store
from schemas.release import Release

FIRST: Final = "1.0"


@dataclass(frozen=True)
class Created:
    """What came of it.

    Attributes:
        release: The new release, or the last one where nothing changed.
        is_new: Whether it was made now.
        why: What changed since the last release, one sentence each; what did not, where
            it is not new.
    """

    release: Release
    is_new: bool
    why: list[str]


def parse_new(text: str) -> tuple[str, str | None]:
    """The name and the version that a new release shall have; None for the next version.

    Args:
        text: `NAME`, or `NAME@MAJOR.MINOR`.

    Raises:
        UserError: It is neither.

    Example:
        >>> parse_new("chat@2.0"), parse_new("chat")
        (('chat', '2.0'), ('chat', None))
    """
    if text.endswith(f"@{LATEST}"):
        what = f"a new release must be NAME or NAME@MAJOR.MINOR, got {text!r}"
        raise UserError(what, hint="leave the version out: then it is the next one")
    reference = parse_reference(text)
    return reference.name, reference.version


def create(
    recipe: Recipe, store: Store, name: str | None = None, version: str | None = None
) -> Created:
    """Release what a recipe's stages have now; the store is locked meanwhile.

    Args:
        recipe: The recipe.
        store: Where its artifacts are.
        name: The release's name; by default the recipe's.
        version: Its version, above that of the last release; by default the next one.

    Raises:
        UserError: A stage is stale, missing or incomplete, its code changed under the same
            version, the name or version is not possible, or another run uses the store.
    """
    if recipe.limit is not None:
        what = f"a preview of {recipe.limit:,} rows cannot be released"
        raise UserError(what, hint="run the recipe without a limit first")
    name = check_name(recipe.name if name is None else name)
    with store.locked():
        snapshot = Snapshot.of_plan(recipe, store, _ready(recipe, store))
        release, last = contents(snapshot, name), latest(store, name)
        why, is_major = _changes(last, release)
        if last and not why:
            _check_same(last, version)
            return Created(last, False, [f"nothing changed since {name}@{last['version']}"])
        release["version"] = _next_version(name, last, version, is_major)
        release["parent"] = last["version"] if last else None
        release["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        store.ensure_locked()
        write_release(store, release)
    return Created(release, True, why)


def _ready(recipe: Recipe, store: Store) -> list[PlannedStep]:
    """The plan of the recipe, of which nothing would run and every file is as it was written.

    Raises:
        UserError: Something would run, or a file is damaged.
    """
    steps = plan(recipe, store)
    if drifted := sorted({p.step.stage.name for p in steps if p.drifted}):
        raise UserError(
            f"the code of {', '.join(drifted)} changed under the same version",
            where=str(store.root),
            why="what is in the store was computed by other code than a release would name",
            hint="raise version= in @stage, then run again",
            code=Exit.DRIFT,
        )
    if waiting := [p for p in steps if p.state != "cached"]:
        shown = [f"{p.step.name} is {p.state}" for p in waiting[:8]]
        more = [f"and {len(waiting) - 8} more"] if len(waiting) > 8 else []
        raise UserError(
            f"{len(waiting)} of {len(steps)} stages must run before a release",
            where=recipe.name,
            why=", ".join([*shown, *more]),
            hint=recipe.command("run", store=store.root),
        )
    files = store.files()
    for artifact in filter(None, (planned.artifact for planned in steps)):
        artifact.verify_all(files)
    return steps


def _changes(last: Release | None, now: Release) -> tuple[list[str], bool]:
    """What changed since the last release, and whether that makes a major version."""
    if last is None:
        return ["it is the first release"], True
    major = []
    if last["schema"] != now["schema"]:
        major.append(f"schema of rows: {last['schema']} -> {now['schema']}")
    if last["recipe"]["digest"] != now["recipe"]["digest"]:
        major.append("the recipe changed")
    return [*major, *_changed_rows(last, now)], bool(major)


def _changed_rows(last: Release, now: Release) -> list[str]:
    """The stages with other rows and the exports with other files.

    Only stages that published rows passed count: what else a recipe has (pools to compare
    with, an earlier release whose rows are held) has changed them, or it has not. Weights,
    reports and other files that are not exported follow from rows and recipe, and from the
    machine: by themselves they make no release.
    """
    before, after = _row_digests(last), _row_digests(now)
    names = [
        name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)
    ]
    why = [f"the rows of {', '.join(names)} changed"] if names else []
    if _hashes(last) != _hashes(now):
        why.append("the exported files changed")
    if last["certificate"] != now["certificate"]:
        why.append("what it is decontaminated against changed")
    return why


def _row_digests(release: Release) -> dict[str, Any]:
    """What stands for the rows of each stage: kept ones by their values, others by reason."""
    stages = passed_stages(release["stages"], release["published"])
    return {stage["name"]: (stage["columns"], stage["counts"]) for stage in stages}


def _hashes(release: Release) -> Sequence[tuple[str, str, str]]:
    return [(file["stage"], file["path"], file["sha256"]) for file in release["files"]]


def _next_version(name: str, last: Release | None, requested: str | None, is_major: bool) -> str:
    """The version of a new release.

    Raises:
        UserError: The one that is requested is not above the last.
    """
    if requested is not None:
        if version_key(requested) < version_key(FIRST):
            raise UserError(f"versions begin with {FIRST}, got {requested}")
        if last and version_key(requested) <= version_key(last["version"]):
            raise _too_low(name, last, requested)
        return requested
    if last is None:
        return FIRST
    major, minor = version_key(last["version"])
    return f"{major + 1}.0" if is_major else f"{major}.{minor + 1}"


def _check_same(last: Release, requested: str | None) -> None:
    """Refuse a version below the last release where nothing changed since it."""
    if requested is not None and version_key(requested) < version_key(last["version"]):
        raise _too_low(last["name"], last, requested)


def _too_low(name: str, last: Release, requested: str) -> UserError:
    return UserError(
        f"the version must be above {last['version']}, the last of {name}, got {requested}",
        hint=f"--as {name}: then it is the next one",
    )
