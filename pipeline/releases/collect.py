"""Garbage collection: what no release and no recent run needs, by kind, with its size.

Kept are the artifacts of every release, the newest of every stage of every recipe, and what is
younger than some days; with each kept artifact the cached rows from which its stage would
compute new rows, and the data frames and copies that it was loaded from. The code of a bundle
is unpacked again by whoever runs the bundle. Results of an ablation's trainings go when they are
old: what is committed holds them too. Answers of language models are paid for and never
removed. A folder is first renamed and then emptied, so that a kill leaves no half of one under
its name.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from typing_extensions import TypedDict

from pipeline.errors import UserError
from pipeline.store.files import DamagedFile, read_json
from pipeline.store.releases import releases
from pipeline.store.row_cache import cache_key
from pipeline.store.store import Store

DAY: Final = 86_400
KINDS: Final = (
    "artifacts", "work folders", "cached rows", "trainings", "data frames", "copies of inputs",
    "code of bundles", "leftovers",
)  # fmt: skip
LEFTOVERS: Final = (
    "work/.*-removed", "memo/.*-removed", "memo/*/.*", "refs/*/.*.json.*", "releases/*/.*-*",
    "code/.*", ".digests.json.*", ".files.json.*", "frames/.*-removed", "bundles/.*-removed",
    "inputs/.*-removed", "work/.pulled-*", "trainings/.*-removed",
)  # fmt: skip
"""What has such a name was half written or half removed. The journal recovers its own files."""

UNLOCKED_LEFTOVERS: Final = ("frames/*/.*", "bundles/.*", "inputs/.*")
"""The same of what is written without the store's lock: it may be in use while it is young."""


class Collected(TypedDict):
    """One kind of what a store holds.

    Attributes:
        removed: How many were removed, or would be.
        removed_bytes: Their size.
        kept: How many stay.
        kept_bytes: Their size.
    """

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int


@dataclass
class _Plan:
    """What goes and what stays, by kind."""

    removed: dict[str, list[Path]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    kept: dict[str, list[Path]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: str, path: Path, needed: bool) -> None:
        (self.kept if needed else self.removed)[kind].append(path)

    def summary(self) -> dict[str, Collected]:
        return {
            kind: Collected(
                removed=len(self.removed[kind]),
                removed_bytes=sum(map(_size, self.removed[kind])),
                kept=len(self.kept[kind]),
                kept_bytes=sum(map(_size, self.kept[kind])),
            )
            for kind in KINDS
        }


def collect(store: Store, keep_days: int, *, delete: bool = False) -> dict[str, Collected]:
    """Find what nothing needs, and remove it if asked to; the store is locked meanwhile.

    Args:
        store: The store.
        keep_days: What is younger stays in any case.
        delete: Whether to remove it.

    Returns:
        For each of `KINDS` what is removed, or would be, and what stays.

    Raises:
        UserError: There is no store, or another run uses it; or a release, or the list of a
            stage's artifacts, is damaged, so that what they need is not known. Nothing is removed
            then.
    """
    if not (store.root / "lock").is_file():
        there = store.root.exists()
        raise UserError(
            "this folder is no store" if there else "there is no store in this folder",
            where=str(store.root),
            why="no run has used it" if there else None,
            hint="name the folder of the store: --store DIR",
        )
    with store.locked():
        plan = _plan(store, time.time() - keep_days * DAY)
        summary = plan.summary()
        if delete:
            for path in (path for kind in KINDS for path in plan.removed[kind]):
                store.ensure_locked()
                _remove(path)
    return summary


def _plan(store: Store, oldest: float) -> _Plan:
    """What goes and what stays.

    Args:
        store: The store.
        oldest: What is younger than that time stays.
    """
    plan, root = _Plan(), store.root
    needed, manifests = _needed(store), _manifests(root / "artifacts")
    reachable, loaded = set[str](), set[str]()
    for fingerprint, manifest in manifests.items():
        stays = fingerprint in needed or _finished(manifest, root, fingerprint) > oldest
        plan.add("artifacts", root / "artifacts" / fingerprint, stays)
        if stays and manifest:
            reachable.add(cache_key(manifest["parts"]))
            loaded.update(_texts(manifest["parts"].get("options")))
    for folder in _folders(root / "work"):
        committed = manifests.get(folder.name)
        done = bool(committed) and not (committed or {}).get("incomplete")
        plan.add("work folders", folder, not done and _newest(folder) > oldest)
    for folder in _folders(root / "memo"):
        plan.add("cached rows", folder, folder.name in reachable or _newest(folder) > oldest)
    for folder in _folders(root / "trainings"):
        plan.add("trainings", folder, _newest(folder) > oldest)
    for folder in _folders(root / "frames"):
        digests = store.files().get_many([p for p in folder.glob("[!.]*") if p.is_file()])
        plan.add("data frames", folder, not loaded.isdisjoint(digests) or _newest(folder) > oldest)
    for folder in _folders(root / "inputs"):
        plan.add("copies of inputs", folder, folder.name in loaded or _newest(folder) > oldest)
    for folder in _folders(root / "bundles"):
        plan.add("code of bundles", folder, _newest(folder) > oldest)
    for leftover in _leftovers(root):
        plan.add("leftovers", leftover, needed=False)
    return plan


def _needed(store: Store) -> set[str]:
    """The fingerprints of all releases, and the newest of every stage of every recipe.

    Raises:
        UserError: A release or the list of a stage's artifacts is damaged.
    """
    needed = {stage["fingerprint"] for r in releases(store) for stage in r["stages"]}
    # Those of previews begin with a dot: nothing needs them once they are old.
    for path in sorted((store.root / "refs").glob("[!.]*/[!.]*.json")):
        try:
            listed = read_json(path, list[str]) or []
        except DamagedFile as damage:
            hint = f"run {path.parent.name}, which writes it again, or remove the file"
            raise damage.as_error(hint) from None
        # Of some that are damaged the newest that can be opened is what a reader gets.
        there = [f for f in reversed(listed) if (store.root / "artifacts" / f).is_dir()]
        needed.update(there[:1])
        needed.update(next(([f] for f in there if store.artifact(f)), []))
    return needed


def _manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest of every artifact by fingerprint; empty where it cannot be read."""
    manifests = {}
    for artifact in _folders(folder):
        try:
            manifests[artifact.name] = read_json(artifact / "manifest.json", dict) or {}
        except DamagedFile:
            manifests[artifact.name] = {}
    return manifests


def _finished(manifest: dict[str, Any], root: Path, fingerprint: str) -> float:
    """When an artifact was committed: as it says itself, else as its folder does."""
    try:
        return datetime.fromisoformat(manifest["finished"]).astimezone(UTC).timestamp()
    except (KeyError, TypeError, ValueError):
        return _newest(root / "artifacts" / fingerprint)


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(p for p in folder.iterdir() if p.name[0] != "." and p.is_dir())


def _texts(value: Any) -> Iterator[str]:
    """All texts within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _leftovers(root: Path) -> Iterator[Path]:
    """What killed processes left half written or half removed."""
    for pattern in LEFTOVERS:
        yield from sorted(root.glob(pattern))
    known = {path for pattern in LEFTOVERS for path in root.glob(pattern)}
    for pattern in UNLOCKED_LEFTOVERS:
        paths = (path for path in sorted(root.glob(pattern)) if path not in known)
        yield from (path for path in paths if _newest(path) < time.time() - DAY)


def _newest(folder: Path) -> float:
    """When anything in a folder was last changed."""
    return max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)


def _size(path: Path) -> int:
    below: Iterable[Path] = path.rglob("*") if path.is_dir() else ()
    return sum(p.lstat().st_size for p in (path, *below) if p.is_symlink() or p.is_file())


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)  # its folder may have gone already
        return
    aside = path if path.name.startswith(".") else path.with_name(f".{path.name}-removed")
    if aside != path:
        path.rename(aside)
    try:
        shutil.rmtree(aside)
    except OSError as error:
        raise UserError(
            f"{path.name} cannot be removed",
            where=str(error.filename or aside),
            why=error.strerror,
            hint="make it writable, then run gc again: nothing that is needed was removed",
        ) from None
