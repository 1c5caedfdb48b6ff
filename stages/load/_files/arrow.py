"""Arrow IPC as source positions: files of `save_to_disk` and of Feather, in either format.

A batch that cannot be read ends the file, since no later one can be found behind it. Arrow
trusts what it maps: an offset that leads out of a column would end the process, so each batch
is validated before anything of it is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from stages.load._files.json_lines import NOT_UTF8, Position
from stages.load._files.parquet import Budget, rows_of_batch, source_of_stream
from stages.load._files.stream import Stream
from stages.load._files.tables import unpacked, without_nulls

_BATCH: Final = 256
_DAMAGED: Final = f"unreadable Arrow: a value outside of its column, or {NOT_UTF8}"


def arrow(stream: Stream, nested: frozenset[str]) -> Iterator[Position]:
    """The rows of an Arrow file; `line` is the number of the row.

    Args:
        stream: The file.
        nested: Columns whose cells may be JSON lists.
    """
    import pyarrow as pa

    at, budget = 0, Budget(stream.path)
    try:
        for batch in _batches(source_of_stream(stream)):
            batch.validate()
            budget.take(batch)
            for start in range(0, batch.num_rows, _BATCH):
                for row in valid_rows(batch.slice(start, _BATCH)):
                    at += 1
                    if isinstance(row, dict):
                        yield at, unpacked(without_nulls(row, nested), nested), None
                    else:
                        yield at, None, row
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield at + 1, None, f"unreadable Arrow: {reason}; what followed is lost"
    stream.read = stream.path.stat().st_size


def valid_rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch as dicts; for one whose values are damaged the reason.

    Args:
        batch: A record batch whose buffers are as long as they must be.
    """
    if is_valid(batch):
        yield from rows_of_batch(batch)
        return
    for at in range(batch.num_rows):
        row = batch.slice(at, 1)
        yield next(rows_of_batch(row)) if is_valid(row) else _DAMAGED


def is_valid(batch: Any) -> bool:
    """Whether nothing of a batch leads out of its columns, and its texts are UTF-8.

    Args:
        batch: A record batch.
    """
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _batches(source: Any) -> Iterator[Any]:
    import pyarrow as pa

    file = pa.memory_map(str(source)) if isinstance(source, Path) else source
    if file.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
        return
    file.seek(0)
    yield from pa.ipc.open_stream(file)
