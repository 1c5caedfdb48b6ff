"""Arrow IPC as source positions: files of `save_to_disk` and of Feather, in either format.

A batch that cannot be read ends the file, since no later one can be found behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from stages.load._files.json_lines import Position
from stages.load._files.parquet import BATCH_BYTES, EXPANSION, rows_of_batch, source_of_stream
from stages.load._files.stream import Stream
from stages.load._files.tables import unpacked, without_nulls

_BATCH: Final = 256


def arrow(stream: Stream, nested: frozenset[str]) -> Iterator[Position]:
    """The rows of an Arrow file; `line` is the number of the row.

    Args:
        stream: The file.
        nested: Columns whose cells may be JSON lists.
    """
    import pyarrow as pa

    at = 0
    budget = max(BATCH_BYTES, EXPANSION * stream.path.stat().st_size)
    try:
        for batch in _batches(source_of_stream(stream)):
            budget -= batch.nbytes
            if budget < 0:
                raise ValueError(f"it expands to more than {EXPANSION:,} times its size")
            for start in range(0, batch.num_rows, _BATCH):
                for row in rows_of_batch(batch.slice(start, _BATCH)):
                    at += 1
                    if isinstance(row, dict):
                        yield at, unpacked(without_nulls(row, nested), nested), None
                    else:
                        yield at, None, row
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield at + 1, None, f"unreadable Arrow: {reason}; what followed is lost"
    stream.read = stream.path.stat().st_size


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
