"""The releases of a store: written once, read by name and version.

`releases/<name>/<version>/release.json` is prepared in a folder beside its final one, flushed
to the disk, and renamed: a release is there whole or not at all. Nothing here reads more
files than it needs: the newest version of a name is known by the names of the folders.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.errors import UserError, command_line
from pipeline.hints import display, suggest
from pipeline.store.files import DamagedFile, checked, read_json, with_checksum, without_checksum
from pipeline.store.store import Store
from schemas.release import FORMAT, Release

FILE: Final = "release.json"
LATEST: Final = "latest"
MAX_NAME: Final = 96
"""Characters of a release's name, as the hub allows for a repository."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_VERSION: Final = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})", re.ASCII)


class Reference(NamedTuple):
    """A release by name.

    Attributes:
        name: Its name.
        version: "MAJOR.MINOR"; None for the latest.
    """

    name: str
    version: str | None

    def __str__(self) -> str:
        return f"{self.name}@{self.version or LATEST}"


def parse_reference(text: str) -> Reference:
    """A release's name and version from `name@1.2`, `name@latest` or `name`.

    Raises:
        UserError: It is none of these, or no file could have such a name.

    Example:
        >>> parse_reference("chat@1.2"), parse_reference("chat@latest").version
        (Reference(name='chat', version='1.2'), None)
    """
    name, at, version = text.partition("@")
    check_name(name)
    if not at or version == LATEST:
        return Reference(name, None)
    version_key(version)
    return Reference(name, version)


def is_reference(text: str) -> bool:
    """Whether a text of the command line means a release rather than a recipe: it has a version.

    Example:
        >>> is_reference("chat@1.2"), is_reference("chat"), is_reference("me@home/chat.yaml")
        (True, False, False)
    """
    name, _, version = text.partition("@")
    known = version == LATEST or _VERSION.fullmatch(version) is not None
    return known and _NAME.fullmatch(name) is not None and not Path(text).is_file()


def check_name(name: str) -> str:
    """The name, if a release can have it: it becomes that of a folder, a tag and a repository.

    Raises:
        UserError: It cannot.
    """
    if len(name) > MAX_NAME or ".." in name or "--" in name or not _NAME.fullmatch(name):
        raise UserError(
            f"a release's name must be letters, digits, '.', '_' and '-', got {name[:100]!r}",
            why=f"it names a folder and a repository: at most {MAX_NAME} characters, a letter or "
            "digit first, no '.' or '-' at the end, and neither '..' nor '--'",
            hint="release RECIPE --as NAME",
        )
    return name


def version_key(version: str) -> tuple[int, int]:
    """Major and minor of a version: versions are compared as numbers.

    Raises:
        UserError: It is no MAJOR.MINOR.

    Example:
        >>> version_key("1.10") > version_key("1.9")
        True
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise UserError(f"a version must be MAJOR.MINOR, such as 1.0, got {version!r}")
    return int(match[1]), int(match[2])


def names(store: Store) -> list[str]:
    """The names of all releases in a store, sorted; no file is read."""
    root = store.root / "releases"
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if _NAME.fullmatch(p.name) and p.is_dir())


def versions(store: Store, name: str) -> list[str]:
    """The versions of a name, oldest first; no file is read."""
    folder = store.root / "releases" / name
    if not folder.is_dir():
        return []
    valid = [path for path in folder.iterdir() if _VERSION.fullmatch(path.name)]
    return sorted((p.name for p in valid if (p / FILE).exists()), key=version_key)


def references(store: Store, name: str | None = None) -> list[Reference]:
    """All releases of a name, or of all names, by name and version; no file is read.

    Args:
        store: The store.
        name: The name; all of them without it.
    """
    listed = names(store) if name is None else [name]
    return [Reference(one, version) for one in listed for version in versions(store, one)]


def releases(store: Store, name: str | None = None) -> list[Release]:
    """The releases of a name, or of all names, by name and version.

    Args:
        store: The store.
        name: The name; all of them without it.

    Raises:
        UserError: One is damaged, or of another format.
    """
    return [read_release(store, str(reference)) for reference in references(store, name)]


def latest(store: Store, name: str) -> Release | None:
    """The newest version of a name, None where there is none; one file is read.

    Raises:
        UserError: It is damaged, or of another format.
    """
    known = versions(store, name)
    return _read(store, name, known[-1]) if known else None


def version_before(store: Store, release: Release) -> Release | None:
    """The version before a release that can be read; None without any.

    Args:
        store: The store.
        release: The release.
    """
    name, own = release["name"], version_key(release["version"])
    for version in reversed([v for v in versions(store, name) if version_key(v) < own]):
        try:
            return _read(store, name, version)
        except UserError as error:  # nothing but a comparison needs it
            print(f"warning: {error}", file=sys.stderr)
    return None


def read_release(store: Store, reference: str) -> Release:
    """The release of a reference.

    Args:
        store: The store.
        reference: `name@1.2`, `name@latest` or `name`.

    Raises:
        UserError: There is none (the hint has near names), or it is damaged.
    """
    name, version = parse_reference(reference)
    known = versions(store, name)
    if not known:
        what = f"there is no release {name!r} in the store {display(store.root)}"
        hint = suggest(name, names(store)) if names(store) else "release RECIPE makes one"
        raise UserError(what, hint=hint)
    if version is not None and version not in known:
        what = f"{name} has no version {version} in the store {display(store.root)}"
        raise UserError(what, hint=f"it has {', '.join(known[-10:])}")
    return _read(store, name, version or known[-1])


def _read(store: Store, name: str, version: str) -> Release:
    path = store.root / "releases" / name / version / FILE
    try:
        raw: Any = read_json(path, dict)
        version_of_format = (raw or {}).get("format")
        if isinstance(version_of_format, int) and version_of_format != FORMAT:
            raise UserError(
                f"the format of a release must be {FORMAT}, got {version_of_format}",
                where=str(path),
                hint="use the version of Gristmill that wrote it",
            )
        raw = without_checksum(path, raw or {})
        if unknown := sorted(raw.keys() - Release.__annotations__.keys()):
            raise DamagedFile(path, f"no release has {unknown[0]!r}")
        release = checked(path, raw, Release)
        if (release["name"], release["version"]) != (name, version):
            stated = f"{release['name']}@{release['version']}"
            raise DamagedFile(path, f"it must be {name}@{version}, got {stated}")
    except DamagedFile as damage:
        raise damage.as_error(
            "put it back from a copy of the store, or from where it was published; or forget the "
            f"release: rm -r {shlex.quote(str(path.parent))}"
        ) from None
    return release


def write_release(store: Store, release: Release) -> Path:
    """Write a release, whole or not at all.

    Args:
        store: The store.
        release: The release; the same one may be written again.

    Returns:
        Its file.

    Raises:
        UserError: Another release has this name and version.
    """
    name, version = check_name(release["name"]), release["version"]
    version_key(version)
    folder = store.root / "releases" / name / version
    if (folder / FILE).exists():
        if _read(store, name, version) == release:
            return folder / FILE
        what = f"{name}@{version} is there already, and a release never changes"
        raise UserError(what, where=str(folder / FILE), hint="release it under a higher version")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for half_written in folder.parent.glob(".*"):
        shutil.rmtree(half_written)
    staging = folder.with_name(f".{version}-{uuid.uuid4().hex[:8]}")
    staging.mkdir()
    with (staging / FILE).open("w", encoding="utf-8") as file:
        json.dump(with_checksum(release), file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    _flush(staging)
    staging.rename(folder)
    for parent in (folder.parent, folder.parent.parent, store.root):
        _flush(parent)
    return folder / FILE


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def release_files(store: Store, release: Release) -> dict[str, Path]:
    """The local files of a release by their paths in a publication.

    Args:
        store: Where its artifacts are.
        release: The release.

    Returns:
        By path, with the stage's name before it where several stages export; sorted.

    Raises:
        UserError: The store lacks one of them, or its bytes are not those of the release.
    """
    reference = f"{release['name']}@{release['version']}"
    hint = command_line("verify", reference, store=store.root)
    files = sorted(_files(store, release))
    for _, path, _ in files:
        if not path.is_file():
            what = f"a file of {reference} is not in the store"
            raise UserError(what, where=str(path), hint=hint)
    actual = store.files().get_many([path for _, path, _ in files])
    for (_, path, sha256), digest in zip(files, actual, strict=True):
        if digest != sha256:
            raise UserError(f"a file of {reference} is damaged", where=str(path), hint=hint)
    return {shown: path for shown, path, _ in files}


def _files(store: Store, release: Release) -> Iterator[tuple[str, Path, str]]:
    fingerprints = {stage["name"]: stage["fingerprint"] for stage in release["stages"]}
    several = len({file["stage"] for file in release["files"]}) > 1
    for file in release["files"]:
        shown = f"{file['stage']}/{file['path']}" if several else file["path"]
        folder = store.root / "artifacts" / fingerprints[file["stage"]] / "files"
        yield shown, folder / file["path"], file["sha256"]
