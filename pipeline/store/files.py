"""What is in a store besides rows: its folders, its small JSON files, and what is damaged.

Whatever a disk, a copy or a hand did to a file of the store comes to its user in one form:
the file, what is wrong with it, and the next command. What can be computed again (an
artifact, cached rows, the list of a stage's artifacts) then counts as missing, with a
warning; what cannot (the journal, the record of a stage's code) is an error.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import UserError
from pipeline.store.hashing import digest

T = TypeVar("T")

OTHER_STORE: Final = "choose another folder: --store DIR"
CHECKSUM: Final = "checksum"
_KINDS: Final = {
    stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
}  # fmt: skip
_EXPECTED: Final = {True: "a folder", False: "a regular file"}


class DamagedFile(ValueError):
    """A file that is not what was written: the text says what is wrong with it.

    Args:
        path: The file.
        why: What is wrong.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is damaged: {why}")
        self.path, self.why = path, why

    def as_error(self, hint: str) -> UserError:
        """The error of a file that nothing can replace; `hint` is what its user can do."""
        return UserError("the file is damaged", where=str(self.path), why=self.why, hint=hint)


@cache
def _warn_once(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def warn(damage: DamagedFile, consequence: str) -> None:
    """Say on standard error, once, that a file is damaged and what that costs.

    Args:
        damage: The file and what is wrong with it.
        consequence: What happens now: "it counts as missing, and `run` computes it again".
    """
    _warn_once(f"{damage}; {consequence}")


def wrong_kind(path: Path, folder: bool) -> str | None:
    """Why a path cannot be what it is to be; None where it is, or is not there yet.

    Symbolic links are followed; one that leads nowhere is refused.

    Args:
        path: The path.
        folder: Whether it is to be a folder, else a regular file.

    Example:
        >>> wrong_kind(Path("/dev/null"), folder=True)
        'must be a folder, got a device'
    """
    expected = f"must be {_EXPECTED[folder]}"
    try:
        if folder:
            str(path).encode()  # libraries that read Parquet take only names in UTF-8
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return f"{expected}, got a link that leads nowhere" if path.is_symlink() else None
    except OSError as error:
        return f"{expected} ({error.strerror})"
    except ValueError as error:
        return f"{expected} ({error})"
    return None if kind == _kind(folder) else f"{expected}, got {_KINDS.get(kind, 'neither')}"


def _kind(folder: bool) -> int:
    return stat.S_IFDIR if folder else stat.S_IFREG


def check_kind(path: Path, what: str, *, folder: bool, hint: str = OTHER_STORE) -> None:
    """Check that a path is a folder or a regular file, or is not there yet.

    Args:
        path: The path.
        what: What it is, for the message: "the store".
        folder: Whether it is to be a folder, else a regular file.
        hint: What to do where it is another thing.

    Raises:
        UserError: It is another thing: a device, a FIFO, a link that leads nowhere.
    """
    if problem := wrong_kind(path, folder):
        raise UserError(f"{what} {problem}", where=str(path), hint=hint)


def read_json(path: Path, kind: type[T]) -> T | None:
    """The content of a JSON file of the store, None where there is no file.

    Args:
        path: The file.
        kind: The type of its content.

    Raises:
        DamagedFile: It cannot be read, is no JSON, or its content is of another type.
    """
    if problem := wrong_kind(path, folder=False):
        raise DamagedFile(path, f"it {problem}")
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedFile(path, str(error.strerror)) from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"it is no JSON ({error})") from None
    return checked(path, value, kind)


def checked(path: Path, value: Any, kind: type[T]) -> T:
    """A value from a JSON file, if it is of this type.

    Args:
        path: The file, for the message.
        value: The value.
        kind: The type, down to the parts of mappings and lists.

    Raises:
        DamagedFile: It is of another type, or a part is missing.
    """
    expected: Any = kind
    try:
        result: T = _adapter(expected).validate_python(value, strict=True)
    except ValidationError as error:
        entry = error.errors()[0]
        place = ".".join(map(str, entry["loc"])) or "its content"
        raise DamagedFile(path, f"{place}: {entry['msg']}") from None
    return result


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with a checksum of itself under CHECKSUM, for a file that holds nothing else."""
    return {**values, CHECKSUM: digest(dict(values))}


def without_checksum(path: Path, values: dict[str, T]) -> dict[str, T]:
    """The mapping that `with_checksum` took; one that was written without is taken as it is.

    Args:
        path: The file that holds it, for the message.
        values: What the file holds.

    Raises:
        DamagedFile: The checksum is not that of the others.
    """
    rest = {key: value for key, value in values.items() if key != CHECKSUM}
    try:
        sound = CHECKSUM not in values or values[CHECKSUM] == digest(rest)
    except (TypeError, RecursionError):  # what has no digest was never written
        sound = False
    if not sound:
        raise DamagedFile(path, "its checksum is not that of its content")
    return rest


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step: a reader sees the old or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    temporary.replace(path)
