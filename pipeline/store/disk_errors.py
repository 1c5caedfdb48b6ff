"""Errors of the disk that the user can fix: it is full, or something cannot be written there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.errors import UserError

_OTHER_FOLDER: Final = "choose a folder that can be written to: --store DIR"
_FOREIGN: Final = "no store has this there: move it away, or choose another folder: --store DIR"
_ELSEWHERE: Final = {
    errno.EROFS: "name a path that can be written to",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ENOTDIR: "a file is where a folder is named: name another path",
    errno.EISDIR: "a folder is where a file is named: name another path",
}
"""What to do where it is about an input or an output rather than about the store."""

DISK_HINTS: Final = {
    errno.ENOSPC: "free some space, then run again: finished work is kept",
    errno.EDQUOT: "free some of your quota, then run again: finished work is kept",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then run again",
    errno.EROFS: _OTHER_FOLDER,
    errno.EACCES: _OTHER_FOLDER,
    errno.EPERM: _OTHER_FOLDER,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: _FOREIGN,
    errno.EISDIR: _FOREIGN,
}
"""What to do about errors of the disk that the user can fix."""


def explained(error: OSError, root: Path) -> UserError | None:
    """The error of the disk as one that the user can fix; None where it is another one.

    Args:
        error: The error.
        root: The folder of the store.
    """
    if error.errno not in DISK_HINTS:
        return None
    path = Path(error.filename) if isinstance(error.filename, str) else root
    hint = DISK_HINTS[error.errno]
    # A folder above the store, which cannot be made, is about it too; one that is there is not.
    above = root.is_relative_to(path) and error.errno != errno.EISDIR
    if not (path.is_relative_to(root) or above):
        hint = _ELSEWHERE.get(error.errno, hint)
        if error.errno in (errno.EACCES, errno.EPERM):
            unreadable = path.exists() and not os.access(path, os.R_OK)
            hint = "make it readable" if unreadable else "name a path that can be written to"
    return UserError(str(error.strerror), where=str(path), hint=hint)


@contextmanager
def disk_errors_explained(root: Path) -> Iterator[None]:
    """Turn errors of the disk into a UserError: nothing is damaged, and the user can fix them.

    Args:
        root: The folder of the store.

    Raises:
        UserError: There was one.
    """
    try:
        yield
    except OSError as error:
        if (problem := explained(error, root)) is None:
            raise
        raise problem from error
