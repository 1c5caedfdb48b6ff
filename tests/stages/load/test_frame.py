"""Rows from a notebook's objects: read, counted and failed as those of a file."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.store.frames import frame_override, save_rows
from stages.load.frame import frame
from stages.load.records import records

TURNS = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
ROWS: list[dict[str, Any]] = [
    {"messages": TURNS, "lang": "en", "score": 0.5},
    {"messages": TURNS, "lang": "de", "score": None},
    {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}],
     "lang": "en", "score": 1.5},
    {"messages": [], "lang": "en", "score": 2.0},
]  # fmt: skip
ORIGIN = {"source": "here", "license": "MIT"}


def loaded(path: Path, folder: Path) -> pl.DataFrame:
    return next(frame(Context.scratch(folder), path=(str(path),), **ORIGIN))


def from_lines(rows: list[dict[str, Any]], folder: Path) -> pl.DataFrame:
    """What `load.records` makes of a file of the rows."""
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return next(records(Context.scratch(folder / "lines"), path=(str(file),), **ORIGIN))


OBJECTS = {
    "list": ROWS,
    "pandas": pd.DataFrame(ROWS),
    "polars": pl.DataFrame(ROWS),
    "lazy": pl.LazyFrame(ROWS),
    "arrow": pl.DataFrame(ROWS).to_arrow(),
    "dataset": datasets.Dataset.from_list(ROWS),
}


@pytest.mark.parametrize("kind", list(OBJECTS))
def test_all_objects_give_the_rows_of_a_file(kind: str, tmp_path: Path) -> None:
    path = save_rows(tmp_path, "mine", OBJECTS[kind])
    rows, expected = loaded(path, tmp_path), from_lines(ROWS, tmp_path)
    for column in ("id", "messages", "origins", "drop_reason", "line"):
        assert rows[column].to_list() == expected[column].to_list(), column
    assert rows["error"].to_list() == expected["error"].to_list()
    assert rows["error"].null_count() == 3
    assert rows.filter(pl.col("error").is_not_null())["file"].to_list() == [path.name]
    assert path.stem == "mine"


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.one_of(TEXTS, st.none(), st.integers(-9, 9), st.booleans(), st.floats(), st.just([1]))


@given(st.lists(st.fixed_dictionaries({"prompt": VALUES, "completion": VALUES}), min_size=1))
def test_a_pandas_frame_of_anything_loses_no_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    """Each row has the fate that it has in a file, whatever stands in the others."""
    folder = tmp_path_factory.mktemp("frames")
    mixed = pd.DataFrame(rows).astype(object)
    ours = loaded(save_rows(folder, "mine", mixed), folder)
    expected = from_lines(rows, folder)
    assert len(ours) == len(rows)
    assert ours["id"].to_list() == expected["id"].to_list()
    assert ours["error"].to_list() == expected["error"].to_list()


def test_a_bad_row_is_one_bad_row(tmp_path: Path) -> None:
    bad = pd.DataFrame({"prompt": ["a", 3, "b\ud800", "c"], "completion": ["x", "x", "x", "x"]})
    rows = loaded(save_rows(tmp_path, "mine", bad), tmp_path)
    assert rows["error"].is_null().to_list() == [True, False, False, True]
    assert rows["line"].to_list()[1:3] == [2, 3]


def test_equal_rows_are_one_file_that_is_written_once(tmp_path: Path) -> None:
    plain = [{"prompt": f"q{i}", "completion": "a", "n": i} for i in range(100)]
    first = save_rows(tmp_path, "mine", pd.DataFrame(plain))
    before = first.stat().st_mtime_ns
    for same in (
        pl.DataFrame(plain), datasets.Dataset.from_list(plain), pl.DataFrame(plain).rechunk(),
        pl.concat([pl.DataFrame(plain[:30]), pl.DataFrame(plain[30:])], rechunk=False),
        pd.DataFrame(plain)[::-1][::-1], pd.DataFrame(plain, index=range(7, 107)),
        datasets.Dataset.from_list([*plain, plain[0]]).select(range(100)),
    ):  # fmt: skip
        assert save_rows(tmp_path, "mine", same) == first
    assert first.stat().st_mtime_ns == before
    others = [plain[::-1], plain[:99], [{**plain[0], "n": 5}, *plain[1:]]]
    paths = {save_rows(tmp_path, "mine", pl.DataFrame(rows)) for rows in others}
    assert len(paths | {first}) == 4
    assert [p.name for p in tmp_path.rglob("frames/**/.*")] == [], "nothing is left aside"


def test_values_of_libraries_are_data(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "messages": [np.array(TURNS, dtype=object)],
            "when": [datetime(2026, 1, 2, tzinfo=UTC)],
            "day": [date(2026, 1, 2)],
            "n": [np.int64(3)],
            "missing": [pd.NaT],
            "label": pd.Categorical(["good"]),
        }
    )
    result = loaded(save_rows(tmp_path, "mine", rows), tmp_path)
    extra = json.loads(result["extra"][0])
    assert extra == {
        "when": "2026-01-02T00:00:00+00:00", "day": "2026-01-02", "n": 3, "missing": None,
        "label": "good",
    }  # fmt: skip
    categories = pl.DataFrame({"prompt": ["a"], "c": pl.Series(["x"], dtype=pl.Categorical)})
    assert len(loaded(save_rows(tmp_path, "mine", categories), tmp_path)) == 1


def test_an_index_with_a_name_is_a_column(tmp_path: Path) -> None:
    named = pd.DataFrame({"prompt": ["a", "b"], "key": [1, 2]}).set_index("key")
    extras = loaded(save_rows(tmp_path, "mine", named), tmp_path)["extra"]
    assert [json.loads(extra) for extra in extras] == [{"key": 1}, {"key": 2}]
    kept = pd.DataFrame({"prompt": ["a", "b"]})[1:]
    assert loaded(save_rows(tmp_path, "mine", kept), tmp_path)["extra"].to_list() == ["{}"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": {1, 2}}], "row 1 of mine holds what is no data"),
        (pd.DataFrame({"prompt": ["a", object()]}), "row 2 of mine holds what is no data"),
        ({"train": datasets.Dataset.from_list(ROWS)}, "choose one of train"),
        ("rows.csv", "must be a data frame of pandas or polars.*got builtins.str"),
        ([1, 2], "got builtins.list"),
    ],
)
def test_what_holds_no_rows_is_refused(rows: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        frame_override(tmp_path, "mine", rows)
    assert re.search(message, str(error.value))
    assert not list(tmp_path.rglob("*.jsonl"))
