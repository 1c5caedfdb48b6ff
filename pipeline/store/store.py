"""The store: one folder with artifacts, caches and the journal, for any number of recipes.

    artifacts/<fingerprint>/   committed artifacts
    work/<fingerprint>/        what survives a kill until the stage is committed
    memo/<key>/                cached results per row of row-scope stages
    journal/                   requests to language models with their raw responses
    refs/<recipe>/<stage>.json fingerprints that this stage of this recipe had, newest last
    code/<stage>@<version>     the code that made this version's artifacts
    releases/<name>/<version>/ releases, which name artifacts that stay
    frames/<digest>/           rows that a notebook handed over (pipeline/store/frames.py)
    inputs/<sha256>/           copies of input files that lie elsewhere
    bundles/<digest>/          code of trusted bundles (pipeline/releases/unbundle.py)
    digests.json, files.json   caches; removing them costs time and nothing else
    inputs.json                which copy stands for which address
    sources.json               commits of data sets on the hub, as the last refresh found them
    refresh.log.jsonl          what each refresh did, and why

One run at a time: the lock is held by an open file and vanishes with its process.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.errors import Exit, UserError
from pipeline.store.artifact import Artifact, commit, open_artifact, restore
from pipeline.store.file_hashes import FileDigests
from pipeline.store.files import (
    DamagedFile,
    check_kind,
    read_json,
    warn,
    with_checksum,
    without_checksum,
    write_json,
)
from schemas.manifest import Manifest

FOLDERS: Final = (
    "artifacts", "work", "memo", "journal", "refs", "code", "releases", "frames", "bundles",
    "inputs",
)  # fmt: skip
FILES: Final = (
    "lock", "digests.json", "files.json", "sources.json", "inputs.json", "refresh.log.jsonl",
)  # fmt: skip
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]+:/")
FOREIGN: Final = "this is no part of a store: move it away, or choose another folder (--store DIR)"


@dataclass
class Store:
    """A store in a folder, which is created when something is first written.

    Args:
        root: The folder; a symbolic link to one is followed.

    Raises:
        UserError: The path is that of another thing, or something else stands in the place
            of a part of the store.

    Example:
        >>> Store(Path("/nowhere")).fingerprints("quickstart", "load")
        []
    """

    root: Path
    _token: str | None = None
    _digests: dict[str, str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if _ADDRESS.match(str(self.root)):
            raise UserError(
                f"the store must be a folder of this machine, got {self.root}",
                why="a run needs its lock, and renames that a power cut cannot undo",
                hint="keep it here, and move what it has: store push RECIPE s3://BUCKET/PREFIX",
            )
        check_kind(self.root, "the store", folder=True)
        for name in (*FOLDERS, *FILES):
            path = self.root / name
            check_kind(path, f"{name} of a store", folder=name in FOLDERS, hint=FOREIGN)

    def artifact(self, fingerprint: str) -> Artifact | None:
        """The complete artifact of a fingerprint, if there is one.

        Raises:
            UserError: It is of another version of the store's format.
        """
        return open_artifact(self.root / "artifacts" / fingerprint)

    def work(self, fingerprint: str) -> Path:
        """The work folder of a fingerprint: it survives kills and goes with the commit."""
        folder = self.root / "work" / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def row_cache(self, key: str) -> Path:
        """The folder of a row-scope stage's cached results."""
        folder = self.root / "memo" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def files(self) -> FileDigests:
        """Digests of input files and weights."""
        return FileDigests(self.root / "files.json")

    # The artifacts of a recipe's stages

    def fingerprints(self, recipe: str, step: str) -> list[str]:
        """The fingerprints that this stage of this recipe had, newest last."""
        try:
            return read_json(self._ref(recipe, step), list[str]) or []
        except DamagedFile as damage:
            warn(damage, "which artifacts the stage had before is forgotten")
            return []

    def latest(self, recipe: str, step: str, *, other_than: str | None = None) -> Artifact | None:
        """The newest artifact of a recipe's stage that is still there.

        Args:
            recipe: The recipe's name.
            step: The stage's name in the recipe.
            other_than: A fingerprint to leave out.
        """
        for fingerprint in reversed(self.fingerprints(recipe, step)):
            artifact = self.artifact(fingerprint) if fingerprint != other_than else None
            if artifact:
                return artifact
        return None

    def set_latest(self, recipe: str, step: str, fingerprint: str) -> None:
        """Record which artifact a recipe's stage has now.

        Args:
            recipe: The recipe's name.
            step: The stage's name in the recipe.
            fingerprint: The artifact's.
        """
        earlier = self.fingerprints(recipe, step)
        if earlier[-1:] != [fingerprint]:
            others = [other for other in earlier if other != fingerprint]
            write_json(self._ref(recipe, step), [*others, fingerprint])

    def _ref(self, recipe: str, step: str) -> Path:
        return self.root / "refs" / recipe / f"{step}.json"

    # The code of a stage's version

    def code(self, stage: str, version: int) -> str | None:
        """The hash of the code that computed this version's artifacts here, if there are any.

        Raises:
            UserError: The record of it is damaged.
        """
        path = self._code(stage, version)
        try:
            return read_json(path, str)
        except DamagedFile as damage:
            hint = f"rm {shlex.quote(str(path))}: then the code of today counts as that of then"
            raise damage.as_error(hint) from None

    def set_code(self, stage: str, version: int, code: str) -> None:
        """Record the code that computes this version's artifacts.

        Args:
            stage: The stage's full name, such as `score.loss`.
            version: Its version.
            code: The hash of its code.
        """
        if self.code(stage, version) != code:
            write_json(self._code(stage, version), code)

    def remove_code(self, stage: str, version: int) -> None:
        """Remove the record of a version that has no results yet: its code may still change."""
        self._code(stage, version).unlink(missing_ok=True)

    def _code(self, stage: str, version: int) -> Path:
        return self.root / "code" / f"{stage}@{version}"

    # Digests of columns on filtered rows

    def digest(self, key: str) -> str | None:
        """A cached digest."""
        if self._digests is None:
            path = self.root / "digests.json"
            try:
                self._digests = without_checksum(path, read_json(path, dict[str, str]) or {})
            except DamagedFile:  # a cache: what it held is computed again, in seconds
                self._digests = {}
        return self._digests.get(key)

    def set_digest(self, key: str, value: str) -> None:
        """Cache a digest; written to the disk only while this process holds the lock."""
        self.digest(key)
        assert self._digests is not None
        self._digests[key] = value
        if self._token:
            write_json(self.root / "digests.json", with_checksum(self._digests))

    # Writing

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the store for one run, and remove what a killed run left half written.

        Raises:
            UserError: Another run holds the lock, or the store cannot be written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            opened = (self.root / "lock").open("a+")
        except OSError as error:
            raise UserError(
                "the store cannot be written to",
                where=str(self.root),
                why=error.strerror,
                hint="choose a folder that can be written to: --store DIR",
            ) from error
        with opened as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().split()[:1]
                raise UserError(
                    f"another run{f' (process {holder[0]})' if holder else ''} uses this store",
                    where=str(self.root),
                    hint="wait until it has ended, or use another store: --store DIR",
                    code=Exit.TRY_AGAIN,
                ) from None
            self._token = uuid.uuid4().hex
            lock.truncate(0)
            lock.write(f"{os.getpid()} {self._token}\n")
            lock.flush()
            self._clear()
            try:
                yield
            finally:
                self._token = None

    def _clear(self) -> None:
        for leftover in (self.root / "artifacts").glob(".*"):
            restore(leftover)

    def _holds_lock(self) -> bool:
        """Whether the lock file is still ours: somebody may have removed it by hand."""
        try:
            content = (self.root / "lock").read_text().split()
        except OSError:
            return False
        return self._token is not None and content[1:] == [self._token]

    def ensure_locked(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            UserError: It does not; another run may be writing here.
        """
        if not self._holds_lock():
            raise UserError(
                "the store's lock was removed during the run; nothing was committed",
                where=str(self.root),
                hint="end other runs on this store, then run again: finished work is kept",
            )

    def staging(self, fingerprint: str) -> Path:
        """An empty folder beside the final one of an artifact, to prepare it in."""
        folder = self.root / "artifacts" / f".{fingerprint}-{uuid.uuid4().hex[:8]}"
        (folder / "files").mkdir(parents=True)
        return folder

    def commit(self, staging: Path, manifest: Manifest) -> Artifact:
        """Commit a prepared artifact.

        Raises:
            UserError: The lock was removed during the run.
        """
        self.ensure_locked()
        fingerprint = manifest["fingerprint"]
        artifact = commit(staging, self.root / "artifacts" / fingerprint, manifest)
        self.set_latest(manifest["recipe"], manifest["name"], fingerprint)
        shutil.rmtree(self.root / "work" / fingerprint, ignore_errors=True)
        return artifact
