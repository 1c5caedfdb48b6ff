"""The rows of a data set on the Hugging Face hub, or of a folder that `datasets` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UserError
from stages.load._files.arrow import is_valid, valid_rows
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
    shown = Path(name).name if Path(name).is_absolute() else name
    for number, row in enumerate(_values(rows), 1):
        if isinstance(row, dict):
            yield shown, (number, without_nulls(row, nested), None)
        else:
            yield shown, (number, None, row)


def _values(rows: Any) -> Iterator[dict[str, Any] | str]:
    """The rows as dicts; for one that cannot be decoded the reason."""
    if isinstance(rows, Iterator):  # a damaged one's
        yield from rows
        return
    at, count = 0, len(rows)
    while at < count:
        try:
            for row in rows.select(range(at, count)) if at else rows:
                at += 1
                yield row
        except Exception as error:  # of whatever decodes a feature
            at += 1
            yield (str(error).splitlines() or [type(error).__name__])[0]


def _rows(name: str, split: str, revision: str | None) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk

    if not any((Path(name) / file).is_file() for file in _SAVED):
        return load_dataset(name, split=split, revision=revision)
    saved = load_from_disk(name)
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise ValueError(f"it has the splits {', '.join(map(str, saved))}")
        saved = saved[split]
    batches = saved.data.table.to_batches()
    if all(map(is_valid, batches)):
        return saved
    # `datasets` maps its files and trusts them: a damaged offset would end the process.
    if getattr(saved, "_indices", None) is not None:  # of versions that wrote a selection so
        raise ValueError("its data are damaged: a value lies outside of its column")
    return chain.from_iterable(map(valid_rows, batches))
