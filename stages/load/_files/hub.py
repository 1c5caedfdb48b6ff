"""The rows of a data set on the Hugging Face hub, or of a folder that `datasets` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from stages.load._files.json_lines import Position
from stages.load._files.tables import without_nulls

_SAVED: Final = ("state.json", "dataset_dict.json")
"""What `save_to_disk` writes beside the rows of a split, or of several."""


def hub_rows(
    name: str, split: str, revision: str | None, nested: frozenset[str]
) -> Iterator[tuple[str, Position]]:
    """The rows of a data set by number, from 1.

    Args:
        name: OWNER/NAME on the hub, or a folder, also one of `save_to_disk`.
        split: Of the data set.
        revision: Of the data set.
        nested: Columns that hold lists.

    Raises:
        UserError: It cannot be loaded.
    """
    try:
        rows = _rows(name, split, revision)
    except Exception as error:  # the client's errors have no common base, and all mean the same
        raise UserError(
            f"cannot load the data set {name!r} (split {split!r})",
            why=(str(error).splitlines() or [type(error).__name__])[0],
            hint="check the name and the network, or download it and give its files as `path`",
        ) from None
    for number, row in enumerate(rows, 1):
        yield name, (number, without_nulls(row, nested), None)


def _rows(name: str, split: str, revision: str | None) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk

    if not any((Path(name) / file).is_file() for file in _SAVED):
        return load_dataset(name, split=split, revision=revision)
    saved = load_from_disk(name)
    if not isinstance(saved, DatasetDict):
        return saved
    if split not in saved:
        raise ValueError(f"it has the splits {', '.join(map(str, saved))}")
    return saved[split]
