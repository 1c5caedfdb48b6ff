"""`select.takedown`: listed rows go, with all that was made of them, whatever the list's form."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from schemas.records import RECORD_COLUMNS
from stages._common.takedown import Takedown, read_takedown, taken_down
from stages.select.takedown import takedown

IDS = [f"{i:032x}" for i in range(8)]


def rows(parents: dict[int, list[int]]) -> pl.DataFrame:
    records = [
        {
            "id": id_,
            "parents": [IDS[p] for p in parents.get(i, ())],
            "origins": [{"source": "web#1", "index": i, "license": "MIT"}],
        }
        for i, id_ in enumerate(IDS)
    ]
    return pl.DataFrame(records, schema=RECORD_COLUMNS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", f"# asked on Monday\n\n{IDS[1]}\nweb#1#3\n"),
        ("list.csv", f"id,source,index,reason\n{IDS[1]},,,asked\n,web#1,3,asked\n"),
        (
            "list.jsonl",
            json.dumps({"id": IDS[1], "why": "asked"})
            + "\n"
            + json.dumps({"source": "web#1", "index": 3}),
        ),
    ],
)
def test_all_forms_of_a_list_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8-sig")
    table = rows({5: [1], 6: [5], 7: [2, 6]})
    result = takedown(Context.scratch(tmp_path), table, path=(str(tmp_path / name),))
    causes = {i: json.loads(text) for i, text in enumerate(result["evidence"]) if text is not None}
    assert causes == {
        1: {"cause": "id", "by": IDS[1]},
        3: {"cause": "origin", "by": "web#1#3"},
        5: {"cause": "parent", "by": IDS[1]},
        6: {"cause": "parent", "by": IDS[5]},
        7: {"cause": "parent", "by": IDS[6]},
    }


def test_an_empty_list_drops_nothing(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# nobody yet\n")
    result = takedown(Context.scratch(tmp_path), rows({}), path=(str(tmp_path / "list.txt"),))
    assert result["drop_reason"].null_count() == len(IDS)


@pytest.mark.parametrize("entry", ["0f3a", "web", "web#x", '{"source": "web"}', '{"id": 3}'])
def test_what_is_no_entry_is_refused_with_its_line(tmp_path: Path, entry: str) -> None:
    for name in ("list.txt", "list.jsonl"):
        (tmp_path / name).write_text(f"{IDS[0]}\n{entry}\n")
        with pytest.raises(UserError) as caught:
            read_takedown([tmp_path / name])
        assert str(caught.value.where).endswith(f"{name}:2")


@given(
    st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=3)),
    st.sets(st.integers(0, 7)),
)
def test_it_is_the_closure_over_parents(parents: dict[int, list[int]], listed: set[int]) -> None:
    expected = set(listed)
    while more := {c for c, ps in parents.items() if expected & {*ps}} - expected:
        expected |= more
    entries = Takedown(frozenset(IDS[i] for i in listed), frozenset())
    assert taken_down([rows(parents)], entries)["id"].to_list() == sorted(IDS[i] for i in expected)


def test_a_document_on_the_list_takes_the_rows_made_of_it() -> None:
    table = rows({2: []}).with_columns(
        parents=pl.when(pl.col("id") == IDS[4]).then(pl.lit(["f" * 32])).otherwise("parents")
    )
    entries = Takedown(frozenset({"f" * 32}), frozenset())
    assert taken_down([table], entries).rows() == [(IDS[4], "parent", "f" * 32)]
