"""Publishing into a folder: one folder a version, and `latest`.

1.0/ 1.1/      the files of each version, complete from the moment that they are seen
latest.json    the current version
latest         a link to its folder
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from pipeline.errors import Exit, UserError
from pipeline.releases.publication import Publication, missing_version, other_content
from pipeline.releases.transports import Erased, Outcome, Source, pointer
from pipeline.store.file_hashes import file_digest
from pipeline.store.files import check_kind, write_json
from pipeline.store.releases import FILE, LATEST

T = TypeVar("T")
_LEFTOVER: Final = re.compile(r"\.(?:\d+\.\d+|latest)-[0-9a-f]{8}")


@dataclass
class FolderTransport:
    """A folder of this machine, or one that is mounted.

    Args:
        root: The folder; made where it is not there.
    """

    root: Path

    @classmethod
    def of_url(cls, url: str) -> FolderTransport:
        """The transport of a `file://` address.

        Args:
            url: `file:///FOLDER`.

        Raises:
            UserError: It is no folder of this machine.

        Example:
            >>> FolderTransport.of_url("file:///data/sets").root.as_posix()
            '/data/sets'
        """
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
            raise UserError(f"the address of a folder must be file:///FOLDER, got {url!r}")
        root = Path(unquote(parts.path))
        check_kind(root, "a place to publish to", folder=True, hint="choose another folder")
        return cls(root)

    def check(self, publication: Publication, move_latest: bool) -> None:  # noqa: ARG002
        """Refuse a folder of other releases.

        Args:
            publication: What is to be published.
            move_latest: Not used.

        Raises:
            UserError: The folder holds releases of another name.
        """
        pointer.check_name(self._pointer(), publication.name, str(self.root))

    def publish(self, publication: Publication, move_latest: bool) -> Outcome:
        """Put the version into its folder, complete from the moment that it is seen.

        Args:
            publication: What is to be published.
            move_latest: Whether `latest` is to name it.

        Raises:
            UserError: The version is there with other content, or the folder cannot be written.
        """
        with self._locked():
            is_new = self._ensure_version(publication)
            moved = move_latest and self._move(
                pointer.forward(
                    self._pointer(), publication.name, publication.version, str(self.root)
                )
            )
        address = str(self.root / publication.version)
        return Outcome(address, is_new or moved, publication.version if moved else None)

    def _ensure_version(self, publication: Publication) -> bool:
        target = self.root / publication.version
        if target.exists():
            for path, entry in publication.data.items():
                file = target / path
                if not file.is_file() or file_digest(file) != entry["sha256"]:
                    raise other_content(publication.version, str(self.root))
            return False
        staging = self.root / f".{publication.version}-{uuid.uuid4().hex[:8]}"
        for path, local in publication.files.items():
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(local, staging / path)
        for written in staging.rglob("*"):
            _flush(written)
        _flush(staging)
        staging.rename(target)
        _flush(self.root)
        return True

    def _pointer(self) -> pointer.Pointer | None:
        file = self.root / pointer.FILE
        return pointer.parse(file.read_bytes(), str(file)) if file.exists() else None

    def _move(self, moved: pointer.Pointer | None) -> bool:
        """Replace `latest.json`, then the link, which a call that was killed may have left."""
        if moved is not None:
            write_json(self.root / pointer.FILE, moved)
        current = self._pointer()
        link = self.root / LATEST
        named = link.readlink().name if link.is_symlink() else None
        if current is not None and named != current["version"]:
            new = self.root / f".{LATEST}-{uuid.uuid4().hex[:8]}"
            new.symlink_to(current["version"])
            new.replace(link)
        return moved is not None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; what a killed one left half written is removed."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / ".lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    busy = "another process publishes into this folder"
                    hint = "wait until it has ended"
                    raise UserError(
                        busy, where=str(self.root), hint=hint, code=Exit.TRY_AGAIN
                    ) from None
                for leftover in self.root.iterdir():
                    if _LEFTOVER.fullmatch(leftover.name):
                        leftover.unlink() if leftover.is_symlink() else shutil.rmtree(leftover)
                yield
        except OSError as error:
            why = error.strerror or str(error)
            what = "the folder cannot be written to"
            raise UserError(what, where=str(self.root), why=why) from None

    def has_version(self, version: str) -> bool:
        """Whether a version is there; nothing is fetched.

        Args:
            version: The version.
        """
        return version in self._versions()

    def download(self, publication: Publication, folder: Path) -> Source:  # noqa: ARG002
        """The version's own folder: nothing lies between it and its readers.

        Args:
            publication: What was published.
            folder: Not used.
        """
        published = self.root / publication.version
        return Source(published, str(published))

    def retry(self, step: Callable[[], T]) -> T:
        """The result of a step.

        Args:
            step: Something that reads from the folder.
        """
        return step()

    def rollback(self, name: str, version: str) -> Outcome:
        """Let `latest` name an earlier version.

        Args:
            name: The release's name.
            version: The earlier version.

        Raises:
            UserError: It is not published there.
        """
        with self._locked():
            if version not in self._versions():
                raise missing_version(version, self._versions(), str(self.root))
            moved = self._move(pointer.back(self._pointer(), name, version, str(self.root)))
        return Outcome(str(self.root / version), moved, version)

    def _versions(self) -> list[str]:
        return [path.parent.name for path in self.root.glob(f"[0-9]*.*/{FILE}")]

    def erase(self, versions: list[str]) -> Erased:
        """Remove the folders of versions.

        Args:
            versions: The versions.

        Raises:
            UserError: One of them is the current one.
        """
        with self._locked():
            current = self._pointer()
            if current is not None and current["version"] in versions:
                raise pointer.current_version(current["version"], str(self.root))
            present = [version for version in versions if (self.root / version).is_dir()]
            files = [p for v in present for p in (self.root / v).rglob("*") if p.is_file()]
            size = sum(path.stat().st_size for path in files)
            for version in present:
                hidden = self.root / f".{version}-{uuid.uuid4().hex[:8]}"
                (self.root / version).rename(hidden)
                shutil.rmtree(hidden)
        return Erased(tuple(present), len(files), size)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
