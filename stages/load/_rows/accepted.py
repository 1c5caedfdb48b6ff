"""Failed rows that are accepted: dropped with a reason instead of failed for ever.

A bad row of a source stays bad while its file is unchanged. Whoever has seen the failures
(`gristmill cat RECIPE STAGE --failed -o accepted.jsonl`) names that file, and the run is
clean until another row fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.errors import OptionError
from stages._common.verdicts import evidence_of
from stages.load._files.container import container
from stages.load._files.positions import positions
from stages.load._files.stream import Stream, head
from stages.load._rows.output import existing_files

_KEY: Final = {"file": pl.String(), "line": pl.Int64(), "error": pl.String()}


def read_accepted(paths: Sequence[str]) -> pl.DataFrame:
    """File, line and error of the rows that are accepted.

    Args:
        paths: Files, as `cat --failed -o` writes them.

    Raises:
        OptionError: One of them cannot be read as such.
    """
    rows = [row for path in existing_files(paths, "accepted") for row in _rows(path)]
    return pl.DataFrame(rows, schema=_KEY, orient="row").unique()


def _rows(path: Path) -> list[tuple[Any, ...]]:
    rows = []
    for line, row, error in positions(Stream(path), container(path, head(path)[0]), frozenset()):
        values = tuple(row.get(name) for name in _KEY) if isinstance(row, dict) else ()
        if error or tuple(map(type, values)) != (str, int, str):
            raise OptionError(
                "accepted",
                f"must name files of failed rows, got {path.name!r}, whose line {line} has no "
                "file, line and error",
                hint="write them with: gristmill cat RECIPE STAGE --failed -o accepted.jsonl",
            )
        rows.append(values)
    return rows


def accept(frame: pl.DataFrame, accepted: pl.DataFrame) -> pl.DataFrame:
    """The rows, of which failed ones that are accepted are dropped as `accepted`.

    Args:
        frame: Rows with the columns of a verdict.
        accepted: What `read_accepted` gives.

    >>> row = {"file": "a.csv", "line": 3, "error": "1 cells where the header has 2"}
    >>> failed = pl.DataFrame([row | {"drop_reason": None, "evidence": None}])
    >>> accept(failed, pl.DataFrame([row])).select("drop_reason", "error").row(0)
    ('accepted', None)
    """
    if accepted.is_empty():
        return frame
    marked = accepted.with_columns(_accepted=pl.lit(True))
    frame = frame.join(marked, on=list(_KEY), how="left", maintain_order="left")
    is_accepted = pl.col("_accepted").fill_null(False)
    evidence = evidence_of(*_KEY)
    return frame.with_columns(
        pl.when(is_accepted).then(pl.lit("accepted")).otherwise("drop_reason").alias("drop_reason"),
        pl.when(is_accepted).then(evidence).otherwise("evidence").alias("evidence"),
        *(pl.when(~is_accepted).then(pl.col(name)).alias(name) for name in _KEY),
    ).drop("_accepted")
