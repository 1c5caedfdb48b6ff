"""Artifacts: what a stage committed. Immutable once complete, seen complete or not at all.

An artifact is a folder named by its fingerprint: `kept.parquet`, `dropped.parquet`
and `failed.parquet` (what the stage added for each row, never the texts again),
`files/` where the stage wrote some, and `manifest.json`, written last. It is
prepared in a temporary folder beside its final one, flushed to the disk, and renamed.
A folder without a manifest is treated as if it were not there, and so is a damaged
artifact, with a warning. What is read is checked first, once in a process: of rows the
footer and the columns that are read, of other files the whole.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.errors import UserError
from pipeline.store.checksums import CHECKSUMS, Part, read_checksums, verify_parts
from pipeline.store.file_hashes import FileDigests, file_digest
from pipeline.store.files import DamagedFile, warn
from pipeline.store.hashing import digest
from pipeline.store.manifests import MANIFEST, read_manifest, write_manifest
from pipeline.store.parquet import column_names, read_frame, read_parts
from schemas.manifest import FileEntry, Manifest

REPLACED = ".old"

State = tuple[int, ...]
"""Size, times of modification and change, and inode: another one means other bytes."""

_VERIFIED: Final[dict[Path, tuple[State, set[str | None] | None]]] = {}
"""Files of which this process has verified columns (None: all bytes), with their state then."""

_DAMAGED: Final[dict[Path, tuple[Path, State | None]]] = {}
"""Artifacts with a file that this process saw damaged, with that file and its state then."""


def _state(path: Path) -> State | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class DamagedArtifact(UserError):
    """An artifact with a file that is not what was written; a run computes it again.

    Args:
        folder: The artifact's folder.
        damage: The file and what is wrong with it.
    """

    def __init__(self, folder: Path, damage: DamagedFile) -> None:
        hint = f"rm -r {shlex.quote(str(folder))}, then run again: it is computed again"
        error = damage.as_error(hint)
        super().__init__(error.what, where=error.where, why=error.why, hint=error.hint)
        self.folder, self.damage = folder, damage


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
        with self._damage_explained():
            path = self._verified(part, ())
            return column_names(path) if path else []

    def read(self, part: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of `kept`, `dropped` or `failed`; an empty frame without such rows.

        Args:
            part: Which rows.
            columns: Their columns; all without it.

        Raises:
            UserError: The file is damaged.
        """
        with self._damage_explained():
            path = self._verified(part, columns)
            return read_frame(path, columns) if path else pl.DataFrame()

    def parts(self, part: str, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The rows of `kept`, `dropped` or `failed` a row group at a time; none without such rows.

        Args:
            part: Which rows.
            columns: Their columns.

        Raises:
            UserError: The file is damaged.
        """
        with self._damage_explained():
            path = self._verified(part, columns)
            yield from read_parts(path, columns) if path else ()

    def verified_files(self, digests: FileDigests | None = None) -> Path:
        """The folder of the files that the stage wrote, after a check of all of them.

        Args:
            digests: Digests of files that did not change since they were read; without it each
                file is read, once in a process.

        Raises:
            UserError: A file is damaged, or is none that the stage wrote.
        """
        with self._damage_explained():
            names = [name for name in self.manifest["files"] if name.startswith("files/")]
            if foreign := foreign_files(self.folder, self.manifest):
                raise DamagedFile(foreign[0], "the stage that made its artifact did not write it")
            if digests is not None:
                self._verify_cached(names, digests)
            else:
                for name in names:
                    self._verify(name)
        return self.files

    def verify_all(self, digests: FileDigests) -> None:
        """Check all files; those that did not change since they were read are not read again.

        Args:
            digests: Digests of files by their state on the disk.

        Raises:
            UserError: A file is damaged; from now on the artifact counts as missing.
        """
        with self._damage_explained():
            self._verify_cached(list(self.manifest["files"]), digests)

    def _verify_cached(self, names: Sequence[str], digests: FileDigests) -> None:
        paths = [self.folder / name for name in names]
        try:
            actual = digests.get_many(paths)
        except OSError as error:
            raise DamagedFile(Path(error.filename), str(error.strerror)) from None
        for name, path, sha256 in zip(names, paths, actual, strict=True):
            if sha256 != self.manifest["files"][name]["sha256"]:
                raise DamagedFile(path, "its bytes are not those that were written")

    def _verified(self, part: str, columns: Sequence[str] | None) -> Path | None:
        """The file of some rows, whose footer and columns are those that were written.

        None without such rows. Readers of Parquet may take a flipped bit for another value, and
        even abort.

        Raises:
            DamagedFile: They are not.
        """
        name = f"{part}.parquet"
        if name not in self.manifest["files"]:
            return None
        self._verify(name, None if columns is None else {None, *columns})
        return self.folder / name

    def _verify(self, name: str, columns: set[str | None] | None = None) -> None:
        """Check a file, or the parts of one that hold some columns; see `verify_parts`.

        Raises:
            DamagedFile: Some of its bytes are not those that were written.
        """
        path = self.folder / name
        if (state := _state(path)) is None:
            raise DamagedFile(path, "it is gone")
        known, verified = _VERIFIED.get(path, (None, set()))
        verified = verified if known == state else set()
        if verified is None or (columns is not None and columns <= verified):
            return
        parts = self._parts(name) if columns is not None else None
        if columns is None or parts is None:
            if file_digest(path) != self.manifest["files"][name]["sha256"]:
                raise DamagedFile(path, "its bytes are not those that were written")
            _VERIFIED[path] = state, None
        else:
            verify_parts(path, parts, columns - verified)
            _VERIFIED[path] = state, verified | columns

    def _parts(self, name: str) -> list[Part] | None:
        """The parts of a Parquet file; None in an artifact of an earlier version, without any."""
        if CHECKSUMS not in self.manifest["files"]:
            return None
        self._verify(CHECKSUMS)
        return _checksums(self.folder, _state(self.folder / CHECKSUMS)).get(name)

    @contextmanager
    def _damage_explained(self) -> Iterator[None]:
        """Turns the damage of one of its files into an error with the next command."""
        try:
            yield
        except DamagedFile as damage:
            _DAMAGED[self.folder] = damage.path, _state(damage.path)
            raise DamagedArtifact(self.folder, damage) from None


@lru_cache(256)
def _checksums(folder: Path, _when: State | None) -> dict[str, list[Part]]:
    """The checksums of an artifact, read once for each state of their file."""
    return read_checksums(folder)


def foreign_files(folder: Path, manifest: Manifest) -> list[Path]:
    """The files in an artifact's `files/` that its stage did not write.

    A reader would take them, but for those whose names begin with a dot.

    Args:
        folder: The artifact's folder.
        manifest: Its manifest.
    """
    paths = (path for path in (folder / "files").rglob("*") if not path.is_dir())
    names = [path.relative_to(folder) for path in paths]
    visible = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return sorted(folder / name for name in visible if name.as_posix() not in manifest["files"])


def open_artifact(folder: Path) -> Artifact | None:
    """The artifact in a folder, or None when it is missing, half written or damaged.

    Raises:
        UserError: It is complete, but of another version of the store's format.
    """
    path = folder / MANIFEST
    try:
        manifest = read_manifest(path)
        if manifest is None:
            return None
        for name, entry in manifest["files"].items():
            if problem := _wrong_size(folder / name, entry["bytes"]):
                raise DamagedFile(folder / name, problem)
        if folder in _DAMAGED:
            file, state = _DAMAGED.pop(folder)
            if _state(file) == state:
                _DAMAGED[folder] = file, state
                raise DamagedFile(file, "its bytes are not those that were written")
    except DamagedFile as damage:
        warn(damage, "its artifact counts as missing, and `run` computes it again")
        return None
    return Artifact(folder, manifest)


def _wrong_size(path: Path, size: int) -> str | None:
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        return "it is gone"
    except OSError as error:
        return str(error.strerror)
    return f"it must have {size:,} bytes, got {actual:,}" if actual != size else None


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
    write_manifest(staging, manifest)
    for path in staging.rglob("*"):
        _flush(path)
    _flush(staging)
    if target.exists():
        # `restore` reads from its name where it was.
        unique = staging.name.rpartition("-")[2]
        replaced = target.with_name(f".{target.name}-{unique}{REPLACED}")
        target.rename(replaced)
        staging.rename(target)
        shutil.rmtree(replaced)
    else:
        staging.rename(target)
    _flush(target.parent)
    for path in (target / name for name in manifest["files"]):
        if state := _state(path):
            _VERIFIED[path] = state, None
    _DAMAGED.pop(target, None)
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
