"""The zip file of a bundle, read as data of a stranger.

Every name must be one that a bundle has, of a regular file that stays inside; sizes are limited
before anything is decompressed, and each content must be that of the bundle's own list.
"""

from __future__ import annotations

import hashlib
import json
import stat
import uuid
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.hints import display
from pipeline.models.journal.export import import_entries
from pipeline.models.journal.journal import Journal
from pipeline.releases.bundle import BUNDLE, JOURNAL, OWN, PROMPTS, RECIPE, RELEASE, copied
from pipeline.store.files import DamagedFile, checked
from pipeline.store.store import Store
from schemas.bundle import BundleFile

MAX_MEMBERS: Final = 10_000
MAX_BYTES: Final = 16 * 2**20
"""Of every member but the journal."""
MAX_JOURNAL: Final = 16 * 2**30
MAX_RATIO: Final = 200
"""Bytes of a member for each of its bytes in the zip; texts of people reach 20."""
_FREE_OF_RATIO: Final = 2**20
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def refused(path: Path, what: str, why: str | None = None, hint: str | None = None) -> UserError:
    """The error about a bundle.

    Args:
        path: Its file.
        what: The fact.
        why: The cause.
        hint: What to do.
    """
    return UserError(what, where=display(path), why=why, hint=hint)


def open_archive(path: Path) -> zipfile.ZipFile:
    """The opened zip file.

    Raises:
        UserError: There is none, or it is no zip file.
    """
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise UserError(f"there is no bundle {display(path)!r}") from None
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError) as error:
        raise refused(path, "it is no zip file that can be read", str(error)) from None


def checked_names(path: Path, archive: zipfile.ZipFile) -> set[str]:
    """The names of the members, each of a file that stays inside and has a sane size.

    Args:
        path: The zip file, for messages.
        archive: The same, opened.

    Raises:
        UserError: One has not.
    """
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise refused(path, f"it must have at most {MAX_MEMBERS:,} files, got {len(members):,}")
    for member in members:
        if problem := _problem(member):
            raise refused(path, f"its file {member.filename[:200]!r} {problem}")
    folded = Counter(member.filename.casefold() for member in members)
    if twice := [name for name, count in folded.items() if count > 1]:
        raise refused(path, f"it has two files {twice[0]!r}")
    names = {member.filename for member in members}
    if missing := {BUNDLE, RELEASE, RECIPE} - names:
        what = f"it is no bundle: it has no {sorted(missing)[0]}"
        raise refused(path, what, hint="release RECIPE --bundle FILE.zip writes one")
    return names


def _problem(member: zipfile.ZipInfo) -> str | None:
    """What is wrong with a member, if anything is."""
    name, parts = member.filename, PurePosixPath(member.filename).parts
    mode = stat.S_IFMT(member.external_attr >> 16)
    limit = MAX_JOURNAL if name == JOURNAL else MAX_BYTES
    if name != member.orig_filename or any(c in name for c in "\\:\0") or not name.isprintable():
        return "has a name that no bundle has"
    if not parts or name != "/".join(parts) or ".." in parts or name.startswith("/"):
        return "would leave the bundle"
    if mode not in (0, stat.S_IFREG):
        return "must be a regular file"
    if not name.startswith((OWN, PROMPTS)) and name not in (BUNDLE, RELEASE, RECIPE, JOURNAL):
        return "is not of a bundle"
    if member.flag_bits & 1 or member.compress_type not in _METHODS:
        return "is encrypted, or compressed in another way than bundles are"
    if member.file_size > limit:
        return f"must have at most {limit:,} bytes, got {member.file_size:,}"
    if member.file_size > max(_FREE_OF_RATIO, MAX_RATIO * member.compress_size):
        return f"is compressed more than {MAX_RATIO} times"
    return None


def _read(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise damaged(path, name, str(error)) from None


def damaged(path: Path, name: str, why: str | None = None) -> UserError:
    """The error about one file of a bundle.

    Args:
        path: The bundle.
        name: The file in it.
        why: What is wrong.
    """
    hint = "copy it again from where it was written"
    return refused(path, f"its file {name} is damaged", why, hint)


def read_member(path: Path, archive: zipfile.ZipFile, expected: BundleFile) -> bytes:
    """A member whose content is that of the list.

    Args:
        path: The zip file, for messages.
        archive: The same, opened.
        expected: What the list says.

    Raises:
        UserError: It is not.
    """
    content = _read(path, archive, expected["name"])
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise damaged(path, expected["name"])
    return content


def read_json_member(path: Path, archive: zipfile.ZipFile, name: str, kind: Any) -> Any:
    """The value of a JSON member that no list is about.

    Args:
        path: The zip file, for messages.
        archive: The same, opened.
        name: The member.
        kind: The type of its value.

    Raises:
        UserError: It is damaged, or of another type.
    """
    return loaded(path, name, _read(path, archive, name), kind)


def loaded(path: Path, name: str, content: bytes, kind: Any) -> Any:
    """The value of a JSON member.

    Args:
        path: The zip file, for messages.
        name: The member.
        content: Its bytes.
        kind: The type of its value.

    Raises:
        UserError: It is damaged, or of another type.
    """
    try:
        return checked(path, json.loads(content), kind)
    except (ValueError, RecursionError) as error:  # a DamagedFile is one
        why = error.why if isinstance(error, DamagedFile) else str(error)
        raise damaged(path, name, why) from None


def import_journal(
    path: Path, archive: zipfile.ZipFile, expected: BundleFile, store: Store
) -> None:
    """Take a bundle's answers into the journal of a store; existing ones stay.

    Args:
        path: The zip file, for messages.
        archive: The same, opened.
        expected: What the list says of them.
        store: The store.

    Raises:
        UserError: They are damaged.
    """
    temporary = store.root / "bundles" / f".{uuid.uuid4().hex}.jsonl"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(JOURNAL) as source, temporary.open("wb") as target:
            actual = copied(source, target)
        if actual["sha256"] != expected["sha256"]:
            raise damaged(path, JOURNAL)
        journal = Journal(store.root / "journal")
        import_entries(journal, temporary)
        journal.close()
    except (EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise damaged(path, JOURNAL, str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)
