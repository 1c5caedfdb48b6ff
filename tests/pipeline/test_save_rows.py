"""Rows as files: what a spreadsheet gets is what the rows hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openpyxl
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.execution import save_rows
from pipeline.execution.save_rows import XLSX_CHARACTERS, save

FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "{=1}", "http://a.example", "0012", "TRUE", "#N/A"]
TURNS = [{"role": "user", "content": "=cmd()", "name": None}]
ROWS = pl.DataFrame(
    {
        "id": [f"{i:032x}" for i in range(len(FORMULAS))],
        "text": FORMULAS,
        "messages": [TURNS] * len(FORMULAS),
        "vector": [[0.5, 0.25]] * len(FORMULAS),
        "score": [0.1 + i for i in range(len(FORMULAS))],
        "seed": [2**62 + i for i in range(len(FORMULAS))],
        "small": pl.Series([-3] * len(FORMULAS), dtype=pl.Int8),
        "flag": [True, None, False] * 3,
    }
)


def sheet(path: Path) -> list[dict[str, Any]]:
    header, *rows = openpyxl.load_workbook(path).active.iter_rows()
    assert not any(cell.hyperlink for row in rows for cell in row)
    return [{str(name.value): cell for name, cell in zip(header, row, strict=True)} for row in rows]


def test_a_text_stays_a_text_in_xlsx(tmp_path: Path) -> None:
    assert save(ROWS, str(tmp_path / "rows.xlsx")) == []
    rows = sheet(tmp_path / "rows.xlsx")
    assert [row["text"].value for row in rows] == FORMULAS
    assert {row["text"].data_type for row in rows} == {"s"}
    assert [row["score"].value for row in rows] == ROWS["score"].to_list()
    assert [row["seed"].value for row in rows] == [str(seed) for seed in ROWS["seed"]]
    assert [row["small"].value for row in rows] == [-3] * len(FORMULAS)
    assert [row["flag"].value for row in rows] == ROWS["flag"].to_list()
    assert json.loads(rows[0]["messages"].value) == [{"role": "user", "content": "=cmd()"}]
    assert json.loads(rows[0]["vector"].value) == [0.5, 0.25]


@given(st.lists(st.text(), min_size=1))
def test_csv_reads_back_as_it_was(texts: list[str]) -> None:
    frame = pl.DataFrame({"text": texts, "turns": [[{"role": t, "content": t}] for t in texts]})
    with TemporaryDirectory() as folder:
        path = f"{folder}/rows.CSV"
        save(frame, path)
        with open(path, encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file, strict=True))
    assert [row["text"] for row in read] == texts
    assert [json.loads(row["turns"]) for row in read] == frame["turns"].to_list()


@pytest.mark.parametrize("text", ["x" * 40_000, "😀" * 20_000, "ü" * XLSX_CHARACTERS + "!"])
def test_what_a_cell_has_no_room_for_is_cut_and_said(tmp_path: Path, text: str) -> None:
    frame = pl.DataFrame({"text": [text, "y" * XLSX_CHARACTERS]})
    (note,) = save(frame, str(tmp_path / "rows.xlsx"))
    assert note.startswith("1 texts of 'text'")
    cut, whole = (row["text"].value for row in sheet(tmp_path / "rows.xlsx"))
    assert whole == "y" * XLSX_CHARACTERS
    head, _, rest = cut.rpartition("... (")
    assert text.startswith(head)
    assert rest == f"{len(text) - len(head):,} more characters)"


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"\.parquet, \.jsonl, \.csv or \.xlsx, got 'rows.xls'"):
        save(ROWS, "rows.xls")
    with pytest.raises(UserError, match="cannot be written"):
        save(ROWS, str(tmp_path / "nowhere" / "rows.xlsx"))
    monkeypatch.setattr(save_rows, "XLSX_ROWS", 5)
    with pytest.raises(UserError, match="an XLSX sheet holds 5 rows, got 9"):
        save(ROWS, str(tmp_path / "rows.xlsx"))


def test_not_a_number_is_no_crash(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": [float("nan"), float("inf"), -float("inf"), 1.5]})
    save(frame, str(tmp_path / "rows.xlsx"))
    assert [row["x"].data_type for row in sheet(tmp_path / "rows.xlsx")][-1] == "n"


def test_no_rows_are_a_file_with_its_columns(tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.xlsx"):
        save(ROWS.clear(), str(tmp_path / name))
    assert pl.read_csv(tmp_path / "rows.csv").columns == ROWS.columns
    header, *rows = openpyxl.load_workbook(tmp_path / "rows.xlsx").active.iter_rows()
    assert [cell.value for cell in header] == ROWS.columns
    assert all(cell.value is None for row in rows for cell in row)
