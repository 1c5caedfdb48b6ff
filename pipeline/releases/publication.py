"""A publication: the files of a release as they will lie at the place where it is published.

The shards are those of the store, byte for byte. Beside them stand `README.md` (the card),
`croissant.json` and `release.json`. What says whether a place holds a release is its *data*,
which is everything but the two rendered files: a card may read differently tomorrow, a
release never does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError, command_line
from pipeline.store.file_hashes import file_digest
from pipeline.store.releases import FILE, release_files, version_key
from pipeline.store.store import Store
from schemas.manifest import FileEntry
from schemas.release import Release

CARD: Final = "README.md"
CROISSANT: Final = "croissant.json"
RENDERED: Final = (CARD, CROISSANT)
"""Files that are rendered from a release; all others are its data."""


@dataclass(frozen=True)
class Publication:
    """A release, ready to be sent.

    Args:
        name: The release's name.
        version: Its version, which becomes the tag.
        files: The local file of each path.
        entries: Size and sha256 of each path.
        rows: The rows of each path that holds some and says how many.
        message: What the commit says below its title.

    Example:
        >>> Publication("chat", "1.0", {}, {}, {}, "").title
        'chat 1.0'
    """

    name: str
    version: str
    files: dict[str, Path]
    entries: dict[str, FileEntry]
    rows: dict[str, int]
    message: str

    @property
    def title(self) -> str:
        """The first line of the commit."""
        return f"{self.name} {self.version}"

    @property
    def data(self) -> dict[str, FileEntry]:
        """The files that make it this release: all but the rendered ones."""
        return {path: entry for path, entry in self.entries.items() if path not in RENDERED}

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(entry["bytes"] for entry in self.entries.values())


def prepare(
    store: Store, release: Release, folder: Path, *, card: str, croissant: Mapping[str, Any]
) -> Publication:
    """Stage a release for sending, after checking every byte of it.

    Args:
        store: Where the release and its artifacts are.
        release: The release.
        folder: Where the rendered files are written; it must last as long as the publication.
        card: The text of `README.md`.
        croissant: The content of `croissant.json`.

    Raises:
        UserError: The store lacks a file of the release, or has another one in its place.
    """
    files = dict(release_files(store, release))
    (folder / CARD).write_text(card, "utf-8")
    (folder / CROISSANT).write_text(_pretty(croissant), "utf-8")
    record = store.root / "releases" / release["name"] / release["version"] / FILE
    files |= {CARD: folder / CARD, CROISSANT: folder / CROISSANT, FILE: record}
    entries = {
        path: FileEntry(bytes=local.stat().st_size, sha256=file_digest(local))
        for path, local in files.items()
    }
    _check(store, release, entries)
    listed = zip(repository_paths(release), release["files"], strict=True)
    rows = {path: file["rows"] for path, file in listed if file["rows"] is not None}
    return Publication(
        release["name"], release["version"], files, entries, rows, _message(release, entries)
    )


def _pretty(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _check(store: Store, release: Release, entries: Mapping[str, FileEntry]) -> None:
    for path, file in zip(repository_paths(release), release["files"], strict=True):
        if path not in RENDERED and entries[path]["sha256"] != file["sha256"]:
            reference = f"{release['name']}@{release['version']}"
            raise UserError(
                f"{path} of {reference} is not what was released",
                where=f"stage {file['stage']}",
                why=f"its sha256 must be {file['sha256']}, got {entries[path]['sha256']}",
                hint=command_line("verify", reference, store=store.root),
            )


def _message(release: Release, entries: Mapping[str, FileEntry]) -> str:
    rows, digest = release["counts"]["kept"], entries[FILE]["sha256"]
    return f"{rows:,} rows; {len(entries)} files; {FILE} has sha256 {digest}"


def repository_paths(release: Mapping[str, Any]) -> list[str]:
    """Where each file of a release lies in a publication, in the order of the release.

    Args:
        release: The release, or as much of one as `release.json` of some place holds.

    Example:
        >>> files = [{"stage": "shards", "path": "data/train.parquet"}]
        >>> repository_paths({"files": files})
        ['data/train.parquet']
    """
    files = release.get("files", [])
    several = len({file["stage"] for file in files}) > 1
    return [f"{file['stage']}/{file['path']}" if several else file["path"] for file in files]


def stale_paths(
    published: bytes | None, present: Collection[str], publication: Publication
) -> list[str]:
    """The files of the release that was published before and are none of the new one's.

    What others put there stays.

    Args:
        published: The `release.json` of the place, None without one.
        present: The paths that the place has.
        publication: What is to be published.
    """
    try:
        earlier = repository_paths(json.loads(published or b"{}"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return []  # no release of ours: nothing there is ours to remove
    return sorted({*earlier, *RENDERED} & set(present) - set(publication.files))


def refuse_older(version: str, published: Collection[str], address: str) -> None:
    """Check that no newer version is published.

    Args:
        version: The version to publish.
        published: The versions that the place has.
        address: The place.

    Raises:
        UserError: It has a newer one, whose place this one would take.
    """
    newest = max(published, key=version_key, default=version)
    if version_key(newest) > version_key(version):
        raise UserError(
            f"a version must be newer than those that are published, got {version} after {newest}",
            where=address,
            hint=f"release the rows under a higher version, or go back by --rollback {version} "
            "where it was published before",
        )


def other_content(version: str, address: str) -> UserError:
    """The error of a version that is published with other data."""
    return UserError(
        f"version {version} is published there with other content, and a version never changes",
        where=address,
        hint="release the rows under a higher version (release RECIPE), and publish that",
    )


def missing_version(version: str, published: Collection[str], address: str) -> UserError:
    """The error of a version that is not published.

    Args:
        version: The version.
        published: The versions that the place has.
        address: The place.
    """
    listed = ", ".join(sorted(published, key=version_key)[-10:])
    return UserError(
        f"version {version} is not published there",
        where=address,
        hint=f"it has {listed}" if listed else "it has no version yet",
    )
