"""Reading a published version back: what its users get is what was released, or it is an error.

Every byte is fetched anew and compared by its digest; then `datasets.load_dataset` loads the
version as a user would, and its rows are compared with those of the local shards.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import Exit, UserError
from pipeline.releases.publication import CARD, Publication
from pipeline.releases.transports import Transport
from pipeline.store.file_hashes import file_digest

if TYPE_CHECKING:
    import pyarrow as pa

ROWS: Final = 16_384
"""Rows that are compared at a time."""
_JSON: Final = re.compile(r"\.jsonl?(?:\.(?:gz|zst))?$")


def read_back(transport: Transport, publication: Publication) -> int:
    """Check that a published version can be fetched and loaded, and is what was sent.

    Args:
        transport: Where it is.
        publication: What was sent.

    Returns:
        The rows that were loaded and compared.

    Raises:
        UserError: It is another one, or cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
        downloads, cache = Path(folder) / "files", Path(folder) / "cache"
        downloads.mkdir()
        source = transport.download(publication, downloads)
        check_bytes(publication, source.folder)
        return transport.retry(lambda: check_rows(publication, source.path, source.revision, cache))


def check_bytes(publication: Publication, folder: Path) -> None:
    """Compare every file with what was sent.

    The card and the description are compared with nothing: the release may have been
    published before, with those of that day.

    Args:
        publication: What was sent.
        folder: Where it was fetched to.

    Raises:
        UserError: A file is missing or differs.
    """
    for path, entry in publication.data.items():
        file = folder / path
        actual = file_digest(file) if file.is_file() else "no file"
        if actual != entry["sha256"]:
            raise UserError(
                f"what was fetched is not what was sent: {path}",
                where=f"{publication.name}@{publication.version}",
                why=f"its sha256 must be {entry['sha256']}, got {actual}",
                hint="the same command again: a fetch may have been disturbed",
                code=Exit.TRY_AGAIN,
            )


def check_rows(publication: Publication, path: str, revision: str | None, cache: Path) -> int:
    """Load the version with `datasets` and compare its rows with the local shards.

    Args:
        publication: What was sent.
        path: What `load_dataset` loads: a repository or a folder.
        revision: The tag, where it is a repository.
        cache: An empty folder.

    Returns:
        The rows that were compared.

    Raises:
        UserError: It cannot be loaded, rows differ, or shards are in no split.
    """
    if not publication.rows and not _names_splits(publication):
        return 0  # files that `datasets` cannot load, such as those of other trainers
    compared: set[str] = set()
    count = 0
    where = f"{publication.name}@{publication.version}"
    for files, loaded in _splits(path, revision, cache):
        names = [_name_of(file, publication) for file in files]
        compared.update(names)
        rows = [publication.rows.get(name) for name in names]
        expected = sum(row or 0 for row in rows)
        if None not in rows and loaded.num_rows != expected:
            what = f"{names[0]} loads with {loaded.num_rows:,} rows instead of {expected:,}"
            raise UserError(what, where=where)
        count += loaded.num_rows
        if all(name.endswith(".parquet") for name in names):
            _compare(publication, names, loaded, where)
        elif all(_JSON.search(name) for name in names):
            _compare_json(publication, names, loaded, where, cache)
    if missing := sorted(publication.rows.keys() - compared):
        raise UserError(
            f"no split of the data set has {missing[0]}",
            where=where,
            why="`configs` of the card must name every file with rows",
            hint="correct the card (publish.card of the recipe), or leave it to the default",
        )
    return count


def _names_splits(publication: Publication) -> bool:
    """Whether the card says what `datasets` is to load."""
    from huggingface_hub import DatasetCard

    return "configs" in DatasetCard.load(publication.files[CARD]).data.to_dict()


def _splits(path: str, revision: str | None, cache: Path) -> Iterator[tuple[list[str], pa.Table]]:
    """The files and the table of every split, as `datasets` loads them."""
    import datasets

    is_enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    options: dict[str, Any] = {"revision": revision, "cache_dir": str(cache)}
    try:
        for config in datasets.get_dataset_config_names(path, revision=revision):
            builder = datasets.load_dataset_builder(path, config, **options)
            loaded = datasets.load_dataset(path, config, **options)
            for split, files in (builder.config.data_files or {}).items():
                yield list(files), loaded[split].data.table
    finally:
        if is_enabled:
            datasets.enable_progress_bars()


def _name_of(file: str, publication: Publication) -> str:
    """The path within the publication of a file that `datasets` names."""
    parts = re.split(r"[/@]", file)
    names = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((name for name in names if name in publication.files), file)


def _compare(publication: Publication, names: list[str], loaded: pa.Table, where: str) -> None:
    import pyarrow.parquet as pq

    start = 0
    for name in names:
        for batch in pq.ParquetFile(publication.files[name]).iter_batches(ROWS):
            part = loaded.slice(start, batch.num_rows)
            if not _equal(batch, part):
                what = f"rows of {name} load with other values than they have"
                raise UserError(what, where=where)
            start += batch.num_rows


def _compare_json(
    publication: Publication, names: list[str], loaded: pa.Table, where: str, cache: Path
) -> None:
    import datasets

    files = [str(publication.files[name]) for name in names]
    local = datasets.load_dataset(
        "json", data_files=files, split="train", cache_dir=str(cache / "local")
    )
    for batch in local.data.table.to_batches(ROWS):
        if not _equal(batch, loaded.slice(0, batch.num_rows)):
            what = f"rows of {names[0]} load with other values than they have"
            raise UserError(what, where=where)
        loaded = loaded.slice(batch.num_rows)


def _equal(batch: pa.RecordBatch, loaded: pa.Table) -> bool:
    import pyarrow as pa

    expected = pa.Table.from_batches([batch]).replace_schema_metadata(None)
    if set(expected.column_names) != set(loaded.column_names):
        return False
    loaded = loaded.select(expected.column_names).replace_schema_metadata(None)
    try:
        return bool(loaded.cast(expected.schema).equals(expected))
    except (pa.ArrowException, ValueError):
        return bool(loaded.to_pylist() == expected.to_pylist())
