"""Rows as files: Parquet and JSON Lines as they are, CSV and XLSX for spreadsheets.

A cell of a table holds one value: what is nested (turns, origins, vectors) is JSON text
there. CSV has no types, so a text that begins with `=` is that text in the file, and whoever
opens it in a spreadsheet decides what it is; in XLSX every text is stored as one, and no
spreadsheet takes it for a formula, a link or a number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.errors import UserError
from pipeline.execution.json_rows import json_lines
from pipeline.store.files import check_kind
from pipeline.store.parquet import write_frame

XLSX_ROWS: Final = 1_048_576 - 1
"""Rows that a sheet holds below its header."""

XLSX_CHARACTERS: Final = 32_767
"""UTF-16 code units that a cell holds."""

EXACT_INTEGER: Final = 10**15
"""Spreadsheets hold numbers with 15 digits: longer integers are written as text."""


def save(frame: pl.DataFrame, path: str) -> list[str]:
    """Write rows in the form that the end of the path names.

    Args:
        frame: Any rows.
        path: A file that ends in `.parquet`, `.jsonl`, `.csv` or `.xlsx`.

    Returns:
        What the file does not hold as it was: texts that a spreadsheet's cell has no room for.

    Raises:
        UserError: The path ends in none of these or is another thing (a FIFO, a device), the
            file cannot be written, or an XLSX sheet has too few rows.
    """
    write = WRITERS.get(end := Path(path).suffix.lower())
    if write is None:
        forms = f"{', '.join([*WRITERS][:-1])} or {[*WRITERS][-1]}"
        raise UserError(f"the output must end in {forms}, got {path!r}")
    check_kind(Path(path), "the output", folder=False, hint=f"name another file: -o rows{end}")
    try:
        return write(Path(path), frame) or []
    except OSError as error:
        raise UserError(f"{path} cannot be written", why=error.strerror) from None


def _jsonl(path: Path, frame: pl.DataFrame) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json_lines(frame))


def _csv(path: Path, frame: pl.DataFrame) -> None:
    with path.open("wb") as file:
        _flat(frame).write_csv(file)


def _xlsx(path: Path, frame: pl.DataFrame) -> list[str]:
    if len(frame) > XLSX_ROWS:
        raise UserError(
            f"an XLSX sheet holds {XLSX_ROWS:,} rows, got {len(frame):,}",
            hint=f"-o {path.with_suffix('.csv').name}, or .parquet",
        )
    cells, notes = _fitting(_flat(frame))
    from xlsxwriter import Workbook

    with path.open("wb") as file:
        options = {
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
            "nan_inf_to_errors": True,
        }
        with Workbook(file, options) as book:
            cells.write_excel(
                book,
                "rows",
                dtype_formats={pl.Float64: "General", pl.Int64: "0"},
                freeze_panes="A2",
                autofilter=False,
            )
    return notes


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with JSON texts in place of what is nested."""
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    if not nested:
        return frame
    texts: dict[str, list[str | None]] = {name: [] for name in nested}
    for part in json_lines(frame.select(nested)):
        # Not splitlines: texts may hold other line ends, such as U+2028, as they are.
        for line in filter(None, part.split("\n")):
            for name, value in json.loads(line).items():
                texts[name].append(None if value is None else _json(value))
    return frame.with_columns(pl.Series(name, texts[name], pl.String) for name in nested)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _fitting(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The rows as cells can hold them, and a line for each column in which texts were cut."""
    notes, columns = [], []
    for name, dtype in frame.schema.items():
        column = frame[name]
        if dtype.is_integer():
            bounds: list[Any] = [column.min(), column.max()]
            is_long = any(abs(bound or 0) >= EXACT_INTEGER for bound in bounds)
            column = column.cast(pl.String if is_long else pl.Int64)
        elif dtype.is_float():
            column = column.cast(pl.Float64)
        elif dtype == pl.String:
            units = column.str.len_chars() + column.str.count_matches(r"[\x{10000}-\x{10FFFF}]")
            too_long = units > XLSX_CHARACTERS
            if count := too_long.sum():
                cut = column.filter(too_long).map_elements(_cut, return_dtype=pl.String)
                column = column.scatter(too_long.arg_true(), cut)
                notes.append(
                    f"{count:,} texts of {name!r} are longer than a cell ({XLSX_CHARACTERS:,} "
                    "characters) and were cut; .csv, .jsonl and .parquet hold them in full"
                )
        columns.append(column.alias(name))
    return pl.DataFrame(columns), notes


def _cut(text: str) -> str:
    """The beginning of a text, and how much is left."""
    # In UTF-16 a character may be two units: half a cell always fits what is left of it.
    units = text.encode("utf-16-le")
    room = XLSX_CHARACTERS - 40
    head = units[: 2 * room].decode("utf-16-le", "ignore")
    return f"{head}... ({len(text) - len(head):,} more characters)"


WRITERS: Final[Mapping[str, Callable[[Path, pl.DataFrame], list[str] | None]]] = {
    ".parquet": write_frame,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".xlsx": _xlsx,
}
"""How rows are written, by the end of the file's name."""
