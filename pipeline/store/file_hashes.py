"""Content digests of files, remembered while a file is unchanged.

Weights and data files enter fingerprints by content. Reading gigabytes again for
every plan would be waste, so a digest is remembered together with the file's
size, modification time in nanoseconds and inode; if any of the three differs,
the file is read again. The memory is one JSON file in the store. It names files
by a hash of their resolved path: a store holds no absolute path, and one that
was copied to another machine simply finds nothing it knows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

BLOCK = 1 << 20


def file_digest(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class FileDigests:
    """Digests of files by path, remembered in `cache` (a JSON file that may not exist yet).

    A cache that cannot be read counts as empty: it holds nothing that cannot be
    computed again. Several processes may use one cache; the last to write wins,
    and what another process learnt in the meantime is merged in first.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known = _read(cache)

    def get(self, path: str | os.PathLike[str]) -> str:
        """sha256 of the file's content, 64 hex digits. Raises OSError if it cannot be read."""
        return self.get_many([path])[0]

    def get_many(self, paths: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The digests of several files, in order; the cache is written at most once."""
        learnt = {}
        digests = []
        for path in paths:
            key, state = _key(path), _state(path)
            entry = self._known.get(key)
            if entry is None or entry[:3] != state:
                entry = [*state, file_digest(path)]
                # A file that changed while it was read is not remembered.
                if _state(path) == state:
                    learnt[key] = entry
            digests.append(str(entry[3]))
        if learnt:
            self._known = {**_read(self._cache), **self._known, **learnt}
            # A store that cannot be written to is told by whoever must write; this is a cache.
            with contextlib.suppress(OSError):
                _write(self._cache, self._known)
        return digests


def _key(path: str | os.PathLike[str]) -> str:
    resolved = os.fsencode(Path(path).resolve())
    return hashlib.blake2b(resolved, digest_size=16).hexdigest()


def _state(path: str | os.PathLike[str]) -> list[int]:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{os.fspath(path)} is no regular file")
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read(cache: Path) -> dict[str, list[int | str]]:
    try:
        known = json.loads(cache.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, list) and len(v) == 4}


def _write(cache: Path, known: dict[str, list[int | str]]) -> None:
    """Replace the cache as a whole: a reader sees the old or the new one, never half of it."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{cache.name}.", dir=cache.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(known, file, sort_keys=True)
        os.replace(name, cache)
    except BaseException:
        os.unlink(name)
        raise
