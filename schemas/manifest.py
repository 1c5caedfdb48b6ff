"""The manifest: the small record beside every artifact that says what it is.

It holds no absolute path and no clock but the moment of completion, so a store
may be copied to another machine and read there.
"""

from __future__ import annotations

from typing import Any, Final, TypedDict

import pyarrow as pa

FORMAT: Final = 1

FAILED: Final = pa.schema(
    [("id", pa.string()), ("file", pa.string()), ("line", pa.int64()), ("error", pa.string())]
)
"""A row that could not be processed: its id where it has one, else file and line."""


class FileEntry(TypedDict):
    """One file of an artifact."""

    bytes: int
    sha256: str


Counts = TypedDict(
    "Counts",
    {"in": int, "created": int, "kept": int, "dropped": dict[str, int], "failed": int},
)
"""in + created = kept + the sum of dropped + failed, at every stage."""


class Manifest(TypedDict):
    """fingerprint: the key of the artifact; parts: what it was made of, for `why`.
    digest: stands for the kept rows and the files, independent of sharding.
    columns: a digest for `id` and each stored column of the kept rows.
    computed: rows that were really computed (the others were remembered).
    incomplete: failed rows are left that the next run tries again.
    used: requests, tokens and the like; seconds and peak memory of the run.
    """

    format: int
    recipe: str
    name: str
    stage: str
    version: int
    fingerprint: str
    parts: dict[str, Any]
    code: str
    digest: str
    columns: dict[str, str]
    counts: Counts
    computed: int
    incomplete: bool
    files: dict[str, FileEntry]
    used: dict[str, int]
    seconds: float
    peak_memory_bytes: int
    libraries: dict[str, str]
    finished: str
