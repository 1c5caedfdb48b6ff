"""The manifest: the JSON file in every artifact that says what it is.

The file ends with a `checksum` of all else in it, which manifests of earlier versions lack.
It holds no absolute path and no time but the moment of completion, so a store may be
copied to another machine and read there.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
from typing_extensions import TypedDict

FORMAT: Final = 1
"""Version of the manifest and of the files beside it; another one is refused."""

FAILED: Final = pa.schema(
    [("id", pa.string()), ("file", pa.string()), ("line", pa.int64()), ("error", pa.string())]
)
"""A row that could not be processed: its id where it has one, else file and line."""


class FileEntry(TypedDict):
    """One file of an artifact.

    Attributes:
        bytes: Its size.
        sha256: Hash of its content, 64 hex digits.
    """

    bytes: int
    sha256: str


Counts = TypedDict(
    "Counts",
    {"in": int, "created": int, "kept": int, "dropped": dict[str, int], "failed": int},
)
"""in + created = kept + the sum of dropped + failed, at every stage."""


class Manifest(TypedDict):
    """What `manifest.json` holds.

    Attributes:
        format: `FORMAT` of whoever wrote it.
        recipe: The name under which the store lists it: the recipe's, or that of its previews.
        name: The stage's name in the recipe.
        stage: The stage's full name, such as `score.loss`.
        version: The stage's version.
        fingerprint: The key of the artifact.
        parts: What the fingerprint is a digest of, for `why`.
        code: Hash of the code that computed it.
        digest: Stands for the kept rows and the files, independent of sharding.
        columns: A digest for `id` and each stored column of the kept rows.
        counts: Rows by what became of them.
        computed: Rows that were computed (the others were cached).
        incomplete: Whether rows failed that the next run tries again.
        files: Every file of the artifact, by relative path.
        used: Requests, tokens and other counters of the run.
        seconds: How long the run of the stage took.
        peak_memory_bytes: Resident memory at most, of one process.
        libraries: Versions of the libraries that were used.
        finished: When it was committed: ISO 8601, UTC, to the second.
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
