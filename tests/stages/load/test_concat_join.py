"""Bringing branches together: no row and no column is lost, and no order matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.recipe.graph import kind_of
from pipeline.stage import Columns, DataKind
from schemas.records import RECORD_COLUMNS, record_id
from stages.load.concat import KINDS, concat
from stages.load.concat import added as concat_adds
from stages.load.join import added as join_adds
from stages.load.join import join
from tests.support.running import counts, recipe, run

NOWHERE = Context.__new__(Context)
"""Neither stage touches its context."""

Rows = list[tuple[int, int, list[str]]]
"""Conversation number, index in the source, parents."""


def pool(source: str, rows: Rows) -> pl.DataFrame:
    lines = []
    for number, index, parents in rows:
        messages = [{"role": "user", "content": f"question {number}"}]
        line = {
            "id": record_id(messages),  # type: ignore[arg-type]
            "messages": messages,
            "input_start": None,
            "origins": [{"source": source, "index": index, "license": "MIT"}],
            "parents": parents,
            "extra": json.dumps({"from": source}),
        }
        lines.append(line)
    return pl.DataFrame(lines, schema=RECORD_COLUMNS).sort("id")  # type: ignore[arg-type]


pools = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 8), st.integers(0, 99), st.lists(st.sampled_from("pq"), max_size=2)
        ),
        max_size=8,
        unique_by=lambda row: row[0],
    ),
    min_size=1,
    max_size=4,
)


@given(pools)
def test_concat_keeps_the_first_with_the_places_of_all(inputs: list[Rows]) -> None:
    frames = [pool(f"s{n}", rows) for n, rows in enumerate(inputs)]
    result = concat(NOWHERE, frames)
    assert len(result) == sum(map(len, frames))
    assert result["id"].to_list() == [i for frame in frames for i in frame["id"]]
    merged: dict[str, dict[str, set[object]]] = {}
    for row in (row for frame in frames for row in frame.iter_rows(named=True)):
        into = merged.setdefault(row["id"], {"origins": set(), "parents": set()})
        into["origins"] |= {tuple(origin.values()) for origin in row["origins"]}
        into["parents"] |= set(row["parents"])
    kept = result.filter(pl.col("drop_reason").is_null())
    assert len(kept) == len(merged)
    seen = set()
    for row in result.iter_rows(named=True):
        first = row["id"] not in seen
        seen.add(row["id"])
        assert (row["drop_reason"] is None) == first
        if first and (result["id"] == row["id"]).sum() > 1:
            assert [tuple(o.values()) for o in row["origins"]] == sorted(
                merged[row["id"]]["origins"]  # type: ignore[type-var]
            )
            assert row["parents"] == sorted(merged[row["id"]]["parents"])  # type: ignore[type-var]


def test_concat_names_both_places() -> None:
    result = concat(NOWHERE, [pool("a", [(1, 7, [])]), pool("b", [(1, 3, []), (2, 4, [])])])
    [evidence] = [json.loads(e) for e in result["evidence"].drop_nulls()]
    assert evidence == {
        "id": pool("a", [(1, 7, [])])["id"][0],
        "kept": {"source": "a", "index": 7},
        "dropped": {"source": "b", "index": 3},
    }
    assert result["extra"][0] == '{"from": "a"}'


def test_concat_of_generated_rows_without_a_place() -> None:
    rows = pool("x", [(1, 0, ["p"])]).with_columns(origins=pl.lit([], RECORD_COLUMNS["origins"]))
    result = concat(NOWHERE, [rows, pool("b", [(1, 3, ["q"])]), rows])
    assert result["drop_reason"].to_list() == [None, "duplicate", "duplicate"]
    assert result["parents"][0].to_list() == ["p", "q"]
    assert [origin["source"] for origin in result["origins"][0]] == ["b"]
    assert json.loads(result["evidence"][1])["kept"] is None
    assert json.loads(result["evidence"][2])["dropped"] is None


def test_concat_fills_columns_that_an_input_lacks() -> None:
    one = pool("a", [(1, 0, [])]).with_columns(score=pl.lit(0.5, pl.Float32))
    two = pool("b", [(2, 0, [])]).with_columns(tag=pl.lit("x"))
    result = concat(NOWHERE, [one, two])
    assert result.select("score", "tag").rows() == [(0.5, None), (None, "x")]
    adds = concat_adds(None, {"rows": [one.schema, two.schema]})  # type: ignore[arg-type]
    assert adds == {"score": pl.Float32, "tag": pl.String}
    other = two.with_columns(score=pl.lit("high"))
    with pytest.raises(UserError, match="column 'score' is Float32 in one input and String"):
        concat_adds(None, {"rows": [one.schema, other.schema]})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_concat_of_every_kind(kind: Columns) -> None:
    """Equal rows once, columns of both; what the kind calls its own is not added."""
    one = pl.DataFrame([{"id": "a"}, {"id": "b"}], schema=kind).with_columns(score=pl.lit(0.5))
    two = pl.DataFrame([{"id": "b"}, {"id": "c"}], schema=kind).with_columns(tag=pl.lit("x"))
    result = concat(NOWHERE, [one, two])
    assert result["id"].to_list() == ["a", "b", "b", "c"]
    assert result["drop_reason"].to_list() == [None, None, "duplicate", None]
    assert json.loads(result["evidence"][2])["id"] == "b"
    adds = concat_adds(None, {"rows": [one.schema, two.schema]})  # type: ignore[arg-type]
    assert adds == {"score": pl.Float64, "tag": pl.String}
    assert set(result.columns) == {*kind, *adds, "drop_reason", "evidence"}


def exams(folder: Path, *needs: str) -> dict[str, Any]:
    """Two benchmarks of which an item is in both, a document, and what is made of them."""
    items = [{"question": f"How many of the {n} birds that sat on it are left?"} for n in range(9)]
    for name, part in (("one", items[:6]), ("two", items[5:])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (folder / "pool.jsonl").write_text(
        json.dumps({"instruction": items[8]["question"], "output": "None."})
    )
    terms = {"source": "s", "license": "MIT"}
    sources = {
        name: {
            "uses": "load.benchmarks",
            "with": {"path": f"{folder}/{name}.jsonl", "benchmark": "b"},
        }
        for name in ("one", "two")
    }
    return {
        **sources,
        "pool": {"uses": "load.records", "with": {"path": f"{folder}/pool.jsonl", **terms}},
        "texts": {"uses": "load.documents", "with": {"path": f"{folder}/pool.jsonl", **terms}},
        "all": {"uses": "load.concat", "needs": list(needs)},
    }


def test_items_of_several_stages_are_searched_for_together(tmp_path: Path) -> None:
    needs = {"rows": "pool", "benchmarks": "all"}
    stages = exams(tmp_path, "one", "two")
    del stages["texts"]
    wired = recipe(stages | {"clean": {"uses": "decontaminate.ngram", "needs": needs}})
    assert kind_of(wired.steps["all"]) is DataKind.ITEMS
    assert run(wired, tmp_path / "store") == Exit.DONE
    accounts = counts(wired, tmp_path / "store")
    assert accounts["all"] == (10, 0, 10, {}, 0)  # keys are row numbers: no two are equal
    assert accounts["clean"] == (1, 0, 0, {"contaminated": 1}, 0)


def test_one_kind_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors) as caught:
        recipe(exams(tmp_path, "one", "pool"))
    assert "load.concat) needs records or documents or items or pairs for 'rows', but" in str(
        caught.value
    )
    documents = {"uses": "load.concat", "needs": ["texts", "texts"]}
    wired = recipe({**exams(tmp_path, "pool"), "all": documents})
    assert kind_of(wired.steps["all"]) is DataKind.DOCUMENTS


def branches() -> list[pl.DataFrame]:
    rows = pool("a", [(n, n, []) for n in range(20)])
    return [
        rows.with_columns(a=pl.int_range(20)),
        rows.with_columns(b=pl.int_range(20) * 2, c=pl.lit(None, pl.String)).reverse(),
        rows.with_columns(d=pl.lit(float("nan")), c=pl.lit(None, pl.String)),
    ]


def test_join_gives_what_the_first_branch_has_not() -> None:
    frames = branches()
    result = join(NOWHERE, frames)
    adds = join_adds(None, {"rows": [f.schema for f in frames]})  # type: ignore[arg-type]
    assert dict(result.schema) == {"id": pl.String} | adds
    assert result.columns == ["id", "b", "c", "d"]
    together = frames[0].with_columns(result)
    assert (together["b"] == 2 * together["a"]).all()
    assert join(NOWHERE, frames[:1]).equals(frames[0].select("id"))


def test_join_needs_the_same_rows() -> None:
    frames = branches()
    lost = frames[1]["id"].sort()[0]
    with pytest.raises(UserError, match="branch 2 is not over the rows of the first") as caught:
        join(NOWHERE, [frames[0], frames[1].filter(pl.col("id") != lost)])
    assert f"it lacks 1 ({lost}), and has none" in str(caught.value)
    with pytest.raises(UserError, match="branch 3") as caught:
        join(NOWHERE, [frames[0].head(3), frames[1].tail(3), frames[2]])
    assert "and has 17 (" in str(caught.value)


@pytest.mark.parametrize("at", [0, 1])
def test_join_refuses_two_values_under_one_name(at: int) -> None:
    frames = branches()
    name = "ac"[at]
    frames[2] = frames[2].with_columns(pl.lit(-1 if name == "a" else "x").alias(name))
    with pytest.raises(UserError, match=f"branches {at + 1} and 3 differ in the column '{name}'"):
        join(NOWHERE, frames)
