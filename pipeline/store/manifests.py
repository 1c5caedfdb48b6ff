"""The file `manifest.json`: written with a checksum of itself, read with all its parts checked.

A manifest says what the other files of its artifact must be, so nothing but itself can say
that it is whole. What follows from other parts of it is checked too: manifests of earlier
versions have no checksum.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.store.files import DamagedFile, checked, read_json, with_checksum, without_checksum
from pipeline.store.hashing import digest
from schemas.manifest import FORMAT, FileEntry, Manifest

MANIFEST: Final = "manifest.json"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest into the folder of its artifact, with its checksum."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(with_checksum(manifest), file, indent=1, ensure_ascii=False)


def read_manifest(path: Path) -> Manifest | None:
    """A manifest whose parts fit together, None where there is none.

    Raises:
        DamagedFile: It is not as it was written.
        UserError: It is of another version of the store's format.
    """
    raw: Any = read_json(path, dict)
    if raw is None:
        return None
    version, damage = raw.get("format"), None
    try:
        raw = without_checksum(path, raw)
    except DamagedFile as error:
        damage = error
    if isinstance(version, int) and version != FORMAT:
        raise _other_format(path.parent, version, damage is not None)
    if damage:
        raise damage
    if unknown := sorted(raw.keys() - Manifest.__annotations__.keys()):
        raise DamagedFile(path, f"no manifest has {unknown[0]!r}")
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


def _other_format(folder: Path, version: int, damaged: bool) -> UserError:
    age = "a newer" if version > FORMAT else "an older"
    why = f"this artifact was written by {age} version of Gristmill"
    hint = "use another store (--store DIR), or the version of Gristmill that wrote this one"
    if damaged:
        why += ", or its manifest is damaged"
        hint += f"; if no other version was used here: rm -r {shlex.quote(str(folder))}"
    what = f"the store's format must be {FORMAT}, got {version}"
    return UserError(what, where=str(folder / MANIFEST), why=why, hint=hint)
