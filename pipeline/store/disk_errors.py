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
    if error.errno in (errno.EACCES, errno.EPERM) and not path.is_relative_to(root):
        # Permission is missing for an input or an output rather than for the store.
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
