"""Artifacts: what a stage committed. Immutable once complete, seen complete or not at all.

An artifact is a folder named by its fingerprint: `kept.parquet`, `dropped.parquet`
and `failed.parquet` (what the stage added for each row, never the texts again),
`files/` where the stage wrote some, and `manifest.json`, written last. It is
prepared in a temporary folder beside its final one, flushed to the disk, and renamed.
A folder without a manifest is treated as if it were not there, and so is a damaged
artifact, with a warning.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.errors import UserError
from pipeline.store.file_hashes import file_digest
from pipeline.store.files import DamagedFile, checked, read_json, warn
from pipeline.store.hashing import digest
from pipeline.store.parquet import column_names, read_frame
from schemas.manifest import FORMAT, FileEntry, Manifest

MANIFEST = "manifest.json"
REPLACED = ".old"


_VERIFIED: Final[dict[Path, tuple[int, ...]]] = {}
"""Files whose bytes this process has verified, with their state then."""


def _state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(frozen=True)
class Artifact:
    """A complete artifact on the disk.

    Attributes:
        folder: Its folder in the store.
        manifest: What `manifest.json` says.
    """

    folder: Path
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        """The key under which it is stored: 32 hex digits."""
        return self.manifest["fingerprint"]

    @property
    def files(self) -> Path:
        """The folder of the files that the stage wrote."""
        return self.folder / "files"

    @property
    def kept(self) -> int:
        """The number of kept rows."""
        return self.manifest["counts"]["kept"]

    def columns(self, part: str) -> list[str]:
        """The stored columns of `kept`, `dropped` or `failed`; empty without such rows.

        Raises:
            UserError: The file is damaged.
        """
        with self.damage_explained():
            path = self._verified(part)
            return column_names(path) if path else []

    def read(self, part: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of `kept`, `dropped` or `failed`; an empty frame without such rows.

        Args:
            part: Which rows.
            columns: Their columns; all without it.

        Raises:
            UserError: The file is damaged.
        """
        with self.damage_explained():
            path = self._verified(part)
            return read_frame(path, columns) if path else pl.DataFrame()

    def _verified(self, part: str) -> Path | None:
        """The file of some rows, whose bytes are those that were written; None without such rows.

        Readers of Parquet may take a flipped bit for another value, and even abort.

        Raises:
            DamagedFile: They are not.
        """
        name = f"{part}.parquet"
        entry, path = self.manifest["files"].get(name), self.folder / name
        if entry is None:
            return None
        if _VERIFIED.get(path) != (state := _state(path)):
            if file_digest(path) != entry["sha256"]:
                raise DamagedFile(path, "its bytes are not those that were written")
            _VERIFIED[path] = state
        return path

    @contextmanager
    def damage_explained(self) -> Iterator[None]:
        """Turns the damage of one of its files into an error with the next command."""
        try:
            yield
        except DamagedFile as damage:
            command = f"rm -r {shlex.quote(str(self.folder))}"
            raise damage.as_error(f"{command}, then run again: it is computed again") from None


def open_artifact(folder: Path) -> Artifact | None:
    """The artifact in a folder, or None when it is missing, half written or damaged.

    Raises:
        UserError: It is complete, but of another version of the store's format.
    """
    path = folder / MANIFEST
    try:
        manifest = _read_manifest(path)
        if manifest is None:
            return None
        for name, entry in manifest["files"].items():
            if problem := _wrong_size(folder / name, entry["bytes"]):
                raise DamagedFile(folder / name, problem)
    except DamagedFile as damage:
        warn(damage, "its artifact counts as missing, and `run` computes it again")
        return None
    return Artifact(folder, manifest)


def _read_manifest(path: Path) -> Manifest | None:
    """A manifest whose parts fit together, None where there is none.

    Raises:
        DamagedFile: It is not as it was written.
        UserError: It is of another version of the store's format.
    """
    raw: Any = read_json(path, dict)
    if raw is None:
        return None
    version = raw.get("format")
    if isinstance(version, int) and version != FORMAT:
        raise _other_format(path.parent, version)
    manifest = checked(path, raw, Manifest)
    if problem := _contradiction(manifest, path.parent.name):
        raise DamagedFile(path, problem)
    return manifest


def _contradiction(manifest: Manifest, folder: str) -> str | None:
    """What in a manifest does not fit together: a digest and what it is of, counts that differ."""
    counts = manifest["counts"]
    came = counts["in"] + counts["created"]
    try:
        if manifest["fingerprint"] != folder:
            return f"its fingerprint must be the name of its folder, got {manifest['fingerprint']}"
        if digest(manifest["parts"]) != manifest["fingerprint"]:
            return "its fingerprint is not that of its parts"
    except TypeError as error:
        return f"its parts have no fingerprint ({error})"
    if kept_digest(manifest["columns"], manifest["files"]) != manifest["digest"]:
        return "its digest is not that of its columns and files"
    if came != counts["kept"] + sum(counts["dropped"].values()) + counts["failed"]:
        return "its counts do not add up"
    return None


def kept_digest(columns: Mapping[str, str], files: Mapping[str, FileEntry]) -> str:
    """What stands for the kept rows and the files of an artifact, independent of sharding.

    Args:
        columns: A digest for each column.
        files: The files of the artifact; those of rows are left out.
    """
    return digest([dict(columns), {n: e["sha256"] for n, e in files.items() if n[:6] == "files/"}])


def _wrong_size(path: Path, size: int) -> str | None:
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        return "it is gone"
    except OSError as error:
        return str(error.strerror)
    return f"it must have {size:,} bytes, got {actual:,}" if actual != size else None


def _other_format(folder: Path, version: int) -> UserError:
    age = "a newer" if version > FORMAT else "an older"
    return UserError(
        f"the store's format must be {FORMAT}, got {version}",
        where=str(folder / MANIFEST),
        why=f"this artifact was written by {age} version of Gristmill",
        hint="use another store (--store DIR), or the version of Gristmill that wrote this one",
    )


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Size and digest of every file below a folder, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): FileEntry(
            bytes=path.stat().st_size, sha256=file_digest(path)
        )
        for path in paths
    }


def files_digest(manifest: Manifest, below: str = "files/") -> str:
    """One digest for the files of an artifact under a folder: names and contents."""
    hashes = {
        name.removeprefix(below): entry["sha256"]
        for name, entry in manifest["files"].items()
        if name.startswith(below)
    }
    return digest(hashes)


def commit(staging: Path, target: Path, manifest: Manifest) -> Artifact:
    """Turn a prepared folder into the artifact.

    The manifest is written last, everything is flushed to the disk, then one rename makes
    it visible. An incomplete artifact under the same fingerprint is replaced; a kill
    between the two renames leaves both folders aside, and `restore` puts one back.

    Args:
        staging: The prepared folder, on the same disk as `target`.
        target: The artifact's final folder.
        manifest: What to write into `manifest.json`.

    Returns:
        The committed artifact.
    """
    with (staging / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, ensure_ascii=False)
    for path in staging.rglob("*"):
        _flush(path)
    _flush(staging)
    if target.exists():
        replaced = staging.with_name(staging.name + REPLACED)
        target.rename(replaced)
        staging.rename(target)
        shutil.rmtree(replaced)
    else:
        staging.rename(target)
    _flush(target.parent)
    _VERIFIED.update((target / name, _state(target / name)) for name in manifest["files"])
    return Artifact(target, manifest)


def restore(leftover: Path) -> None:
    """Remove what a killed run left aside, or put it back where it was the only artifact."""
    fingerprint = leftover.name.removeprefix(".").partition("-")[0]
    target = leftover.with_name(fingerprint)
    if leftover.name.endswith(REPLACED) and not target.exists():
        leftover.rename(target)
    else:
        shutil.rmtree(leftover)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
