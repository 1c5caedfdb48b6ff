"""Content digests of files, cached while a file is unchanged.

Weights and data files enter fingerprints by content. Reading gigabytes again for
every plan would be waste, so a digest is cached together with the file's size, inode,
and times of modification and change in nanoseconds; if any of the four differs, the file
is read again. The time of change alone shows that an archive was unpacked over a file: the
others are as the archive says. The cache is one JSON file in the store. It names files by
a hash of their resolved path: a store holds no absolute path, and in one that was copied to
another machine every file is simply read once more.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.store.files import DamagedFile, with_checksum, without_checksum

BLOCK = 1 << 20

Entry = list[int | str]
"""Size, inode, times of modification and change in nanoseconds, and sha256 of one file."""

_CLOCK = 100_000_000
"""Two changes within that time, in nanoseconds, may carry the same time."""


def file_digest(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class FileDigests:
    """Digests of files by path, cached in a JSON file.

    A cache that cannot be read counts as empty: it holds nothing that cannot be
    computed again. Several processes may use one cache; the last to write wins, after
    it has read what the others wrote in the meantime.

    Args:
        cache: The JSON file; it need not exist yet.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("one")
        >>> FileDigests(folder / "files.json").get(folder / "a.txt")[:8]
        '7692c3ad'
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._entries = _read(cache)

    def get(self, path: str | os.PathLike[str]) -> str:
        """The sha256 of the file's content, 64 hex digits.

        Raises:
            OSError: The file cannot be read, or is not a regular file.
        """
        return self.get_many([path])[0]

    def get_many(self, paths: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The digests of several files, in order; the cache is written at most once."""
        added: dict[str, Entry] = {}
        digests = []
        for path in paths:
            key, state = _key(path), _state(path)
            entry = self._entries.get(key)
            if entry is None or entry[:-1] != state:
                entry = [*state, file_digest(path)]
                # A file that changed while it was read, or just before, is not cached: the
                # next change may carry the same time.
                if _state(path) == state and time.time_ns() - state[-1] > _CLOCK:
                    added[key] = entry
            digests.append(str(entry[-1]))
        if added:
            self._entries = {**_read(self._cache), **self._entries, **added}
            # Only a cache: whoever must write to the store reports that it cannot.
            with contextlib.suppress(OSError):
                _write(self._cache, self._entries)
        return digests


def _key(path: str | os.PathLike[str]) -> str:
    resolved = os.fsencode(Path(path).resolve())
    return hashlib.blake2b(resolved, digest_size=16).hexdigest()


def _state(path: str | os.PathLike[str]) -> list[int]:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _read(cache: Path) -> dict[str, Entry]:
    try:
        entries = json.loads(cache.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    try:
        entries = without_checksum(cache, entries)
    except DamagedFile:
        return {}
    return {k: v for k, v in entries.items() if isinstance(v, list) and len(v) == 5}


def _write(cache: Path, entries: dict[str, Entry]) -> None:
    """Replace the cache in one step: a reader sees the old or the new one, never half of it."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{cache.name}.", dir=cache.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(with_checksum(entries), file, sort_keys=True)
        os.replace(name, cache)
    except BaseException:
        os.unlink(name)
        raise
