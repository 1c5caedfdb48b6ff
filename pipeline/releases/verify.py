"""Every byte of a release, or of a whole store, against its digest.

Readers check what they read, once in a process. Here all is read from the disk, whatever
was read before: each file of each artifact, the manifests, the releases themselves, cached
rows, the journal's entries and the small records of a store.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.errors import UserError
from pipeline.models.journal.export import verify as verify_journal
from pipeline.models.journal.journal import journal_in
from pipeline.store.artifact import foreign_files
from pipeline.store.file_hashes import file_digest
from pipeline.store.files import DamagedFile, read_json, without_checksum
from pipeline.store.manifests import MANIFEST, read_manifest
from pipeline.store.releases import FILE, names, parse_reference, read_release, versions
from pipeline.store.row_cache import verify_chunk
from pipeline.store.store import Store
from pipeline.wording import byte_size
from schemas.manifest import Manifest
from schemas.release import Release, ReleaseStage

_KEY: Final = re.compile(r"[0-9a-f]{32}")


@dataclass
class Verification:
    """What was read, and what is damaged.

    Attributes:
        what: What it is about: "artifact".
        items: How many of them there are.
        files: The files that were read.
        bytes: Their bytes.
        damages: The damaged files, with what is wrong and what to do.
    """

    what: str
    items: int = 0
    files: int = 0
    bytes: int = 0
    damages: list[UserError] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """What was read, in one line."""
        amount = f"{_count(self.files, 'file')}, {byte_size(self.bytes)}"
        return f"{_count(self.items, self.what)} ({amount})"

    def read(self, path: Path) -> None:
        """Count a file that was read."""
        self.files += 1
        self.bytes += path.stat().st_size

    def damaged(self, damage: DamagedFile, hint: str) -> None:
        """Add a damaged file.

        Args:
            damage: The file and what is wrong with it.
            hint: What to do.
        """
        self.damages.append(damage.as_error(hint))


def _count(number: int, what: str) -> str:
    noun, *rest = what.split(" ", 1)
    return " ".join([f"{number:,}", noun + "s" * (number != 1), *rest])


def verify_release(store: Store, reference: str) -> Verification:
    """Read a release, the artifacts of all its stages and its files from the disk.

    Args:
        store: The store.
        reference: `name@1.2` or `name@latest`.

    Raises:
        UserError: There is no such release, or `release.json` itself is damaged.
    """
    release = read_release(store, reference)
    result = Verification("artifact")
    result.read(store.root / "releases" / release["name"] / release["version"] / FILE)
    for stage in {stage["fingerprint"]: stage for stage in release["stages"]}.values():
        folder = store.root / "artifacts" / stage["fingerprint"]
        manifest = _verify_artifact(folder, result)
        if manifest is not None and (problem := _difference(manifest, stage, release)):
            result.damaged(DamagedFile(folder / MANIFEST, problem), _again(folder))
    return result


def _difference(manifest: Manifest, stage: ReleaseStage, release: Release) -> str | None:
    """What an artifact has that is not as its release says."""
    name = f"{release['name']}@{release['version']}"
    values: tuple[tuple[str, object, object], ...] = (
        ("version", manifest["version"], stage["version"]),
        ("digest", manifest["digest"], stage["digest"]),
        ("counts", manifest["counts"], stage["counts"]),
        ("columns", manifest["columns"], stage["columns"]),
        ("parts", manifest["parts"], stage["parts"]),
    )
    for part, ours, released in values:
        if ours != released:
            return f"its {part} must be {released} as in {name}, got {ours}"
    for file in release["files"]:
        entry = manifest["files"].get(f"files/{file['path']}")
        if file["stage"] == stage["name"] and (not entry or entry["sha256"] != file["sha256"]):
            return f"it must have the file {file['path']} as in {name}"
    return None


def _verify_artifact(folder: Path, result: Verification) -> Manifest | None:
    """Read all files of an artifact; its manifest, None for one that cannot be trusted."""
    result.items += 1
    try:
        manifest = read_manifest(folder / MANIFEST)
        if manifest is None:
            raise DamagedFile(folder, "it is gone")
    except DamagedFile as damage:
        result.damaged(damage, _again(folder))
        return None
    except UserError as error:
        result.damages.append(error)
        return None
    result.read(folder / MANIFEST)
    for name, entry in manifest["files"].items():
        path = folder / name
        try:
            actual = file_digest(path)
        except OSError as error:
            result.damaged(DamagedFile(path, str(error.strerror)), _again(folder))
            continue
        result.read(path)
        if actual != entry["sha256"]:
            problem = "its bytes are not those that were written"
            result.damaged(DamagedFile(path, problem), _again(folder))
    for path in foreign_files(folder, manifest):
        result.damaged(
            DamagedFile(path, "the stage that made its artifact did not write it"),
            f"move it away: mv {shlex.quote(str(path))} ELSEWHERE",
        )
    return manifest


def _again(folder: Path) -> str:
    return f"rm -r {shlex.quote(str(folder))}, then run again: it is computed again"


def verify_store(store: Store) -> Iterator[Verification]:
    """Read a whole store from the disk: what is in it, part by part."""
    parts = (_artifacts, _releases, _cached_rows, _records, _journal)
    for part in parts:
        yield part(store)


def _artifacts(store: Store) -> Verification:
    result = Verification("artifact")
    for folder in sorted((store.root / "artifacts").glob("[!.]*")):
        _verify_artifact(folder, result)
    return result


def _releases(store: Store) -> Verification:
    result = Verification("release")
    for name in names(store):
        for version in versions(store, name):
            result.items += 1
            try:
                reference = parse_reference(f"{name}@{version}")
                read_release(store, str(reference))
            except UserError as error:
                result.damages.append(error)
            else:
                result.read(store.root / "releases" / name / version / FILE)
    return result


def _cached_rows(store: Store) -> Verification:
    result = Verification("chunk of cached rows")
    for path in sorted((store.root / "memo").glob("*/[!.]*.parquet")):
        result.items += 1
        try:
            verify_chunk(path)
        except DamagedFile as damage:
            hint = f"rm {shlex.quote(str(path))}: a run that needs its rows computes them again"
            result.damaged(damage, hint)
        else:
            result.read(path)
    return result


def _records(store: Store) -> Verification:
    """The small files that say which artifacts and which code there were, and the caches."""
    result = Verification("record")
    root = store.root
    checks: list[tuple[Path, Callable[[Path], object], str]] = [
        *((p, _read_refs, "what it says is forgotten") for p in sorted(root.glob("refs/*/*.json"))),
        *(
            (p, lambda path: read_json(path, str), "the code of today counts as that of then")
            for p in sorted(root.glob("code/*"))
        ),
        *(
            (root / name, _read_cache, "it is a cache, and made again")
            for name in ("digests.json", "files.json")
            if (root / name).exists()
        ),
    ]
    for path, check, consequence in checks:
        result.items += 1
        try:
            check(path)
        except DamagedFile as damage:
            result.damaged(damage, f"rm {shlex.quote(str(path))}: {consequence}")
        else:
            result.read(path)
    return result


def _read_refs(path: Path) -> None:
    _check_keys(path, read_json(path, list[str]) or ())


def _read_cache(path: Path) -> None:
    _check_keys(path, without_checksum(path, read_json(path, dict) or {}))


def _check_keys(path: Path, keys: Iterable[str]) -> None:
    for key in keys:
        if not _KEY.fullmatch(key):
            raise DamagedFile(path, f"it must hold keys of 32 hex digits, got {key!r}")


def _journal(store: Store) -> Verification:
    result = Verification("answer in the journal")
    try:
        if (journal := journal_in(store.root)) is not None:
            result.items = verify_journal(journal)
            result.read(journal.path)
            journal.close()
    except UserError as error:
        result.damages.append(error)
    return result
