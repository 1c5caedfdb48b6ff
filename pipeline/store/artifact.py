"""Artifacts: what a stage committed. Immutable once complete, seen complete or not at all.

An artifact is a folder named by its fingerprint: `kept.parquet`, `dropped.parquet`
and `failed.parquet` (what the stage added for each row, never the texts again),
`files/` where the stage wrote some, and `manifest.json`, written last. It is
prepared in a temporary folder beside its final one, flushed to the disk, and renamed.
A folder without a manifest, or whose files are not as the manifest says, is
treated as if it were not there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.errors import UserError
from pipeline.store.file_hashes import file_digest
from pipeline.store.hashing import digest
from pipeline.store.parquet import column_names, read_frame
from schemas.manifest import FORMAT, FileEntry, Manifest

MANIFEST = "manifest.json"
REPLACED = ".old"


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
        """The stored columns of `kept`, `dropped` or `failed`; empty without such rows."""
        path = self.folder / f"{part}.parquet"
        return column_names(path) if path.exists() else []

    def read(self, part: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of `kept`, `dropped` or `failed`; an empty frame without such rows."""
        path = self.folder / f"{part}.parquet"
        return read_frame(path, columns) if path.exists() else pl.DataFrame()


def open_artifact(folder: Path) -> Artifact | None:
    """The artifact in a folder, or None when it is missing, half written or damaged.

    Raises:
        UserError: It is complete, but of another version of the store's format.
    """
    try:
        manifest: Any = json.loads((folder / MANIFEST).read_text("utf-8"))
        version = manifest["format"]
        if isinstance(version, int) and version != FORMAT:
            raise _other_format(folder, version)
        complete = version == FORMAT and all(
            (folder / name).stat().st_size == entry["bytes"]
            for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Artifact(folder, manifest) if complete else None


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
