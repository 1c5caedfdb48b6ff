"""An edge that takes one kind or another gets what comes, and says so when neither does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.cli.stage_docs import stage_entry
from pipeline.context import Context
from pipeline.errors import Exit, RecipeErrors
from pipeline.execution.plan import plan
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from pipeline.stage import DataKind, Files, Records, stage
from pipeline.store.store import Store
from tests.support.running import artifact, pool, recipe, run, states

HERE = "tests.pipeline.test_edges"


def arrived(rows: pl.DataFrame, other: pl.DataFrame | Path | None) -> pl.DataFrame:
    came = "nothing" if other is None else type(other).__name__
    columns = ",".join(other.columns) if isinstance(other, pl.DataFrame) else ""
    return pl.DataFrame({"came": [f"{came} {columns}".strip()] * len(rows)})


@stage(version=1, scope="set", reads={"other": ["messages"]}, adds={"came": pl.String})
def either(ctx: Context, rows: Records, other: Records | Files | None = None) -> pl.DataFrame:
    """What kind of thing came along the edge."""
    return arrived(rows, other)


@stage(version=1, scope="row", reads={"other": ["messages"]}, adds={"came": pl.String})
def files_first(ctx: Context, rows: Records, other: Files | Records) -> pl.DataFrame:
    """The same row by row, in workers, with files preferred."""
    return arrived(rows, other)


@stage(version=1, scope="set", reads={"others": ["messages"]}, adds={"came": pl.String})
def by_name(ctx: Context, rows: Records, others: dict[str, Records]) -> pl.DataFrame:
    """How many rows came from which step."""
    came = ", ".join(f"{name}: {len(frame)}" for name, frame in others.items())
    return pl.DataFrame({"came": [came] * len(rows)})


@stage(version=1, scope="set", reads=["messages"], adds={"n": pl.Int8}, files=True)
def rows_and_files(ctx: Context, rows: Records) -> pl.DataFrame:
    """Gives both kinds."""
    (ctx.files / "note.txt").write_text("note")
    return pl.DataFrame({"n": [0] * len(rows)}, schema={"n": pl.Int8})


def wired(folder: Path, other: str | None, uses: str = "either") -> Recipe:
    path = str(pool(folder / "a.txt", 9))
    needs: dict[str, Any] = {"rows": "a"} | ({"other": other} if other else {})
    return recipe(
        {
            "a": {"uses": "toy.load", "with": {"path": path}},
            "texts": {"uses": "toy.texts", "with": {"path": path}},
            "sized": {"uses": "toy.length", "needs": "a"},
            "answers": {"uses": "toy.export", "needs": "sized"},
            "rich": {"uses": f"{HERE}.rows_and_files", "needs": "a"},
            "look": {"uses": f"{HERE}.{uses}", "needs": needs},
        }
    )


@pytest.mark.parametrize(
    ("uses", "other", "came"),
    [
        ("either", None, "nothing"),
        ("either", "sized", "DataFrame id,messages"),
        ("either", "answers", "PosixPath"),
        ("either", "rich", "DataFrame id,messages"),
        ("files_first", "sized", "DataFrame id,messages"),
        ("files_first", "answers", "PosixPath"),
        ("files_first", "rich", "PosixPath"),
    ],
)
def test_what_comes_decides(tmp_path: Path, uses: str, other: str | None, came: str) -> None:
    graph = wired(tmp_path, other, uses)
    assert run(graph, tmp_path / "store", "look") is Exit.DONE
    kept = artifact(graph, tmp_path / "store", "look").read("kept")
    assert kept["came"].to_list() == [came] * 9
    assert states(graph, tmp_path / "store")["look"] == "cached"


def test_another_kind_is_another_input(tmp_path: Path) -> None:
    run(wired(tmp_path, "rich"), tmp_path / "store")
    assert states(wired(tmp_path, "answers"), tmp_path / "store")["look"] == "stale"


def test_neither_kind_is_a_mistake_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors) as caught:
        wired(tmp_path, "texts")
    assert "needs records or files for 'other', but 'texts' gives documents" in str(caught.value)


def test_a_stage_tells_all_kinds_it_takes() -> None:
    described = find(f"{HERE}.either")
    assert [edge.kinds for edge in described.edges] == [
        (DataKind.RECORDS,),
        (DataKind.RECORDS, DataKind.FILES),
    ]
    assert stage_entry(described)["edges"]["other"]["kind"] == "records or files (optional)"


def named(folder: Path, others: list[str], second: str = "b") -> Recipe:
    steps = {
        "a": {"uses": "toy.load", "with": {"path": str(pool(folder / "a.txt", 9))}},
        second: {"uses": "toy.load", "with": {"path": str(pool(folder / "b.txt", 4))}},
        "look": {"uses": f"{HERE}.by_name", "needs": {"rows": "a", "others": others}},
    }
    return recipe(steps)


def test_the_names_of_steps_come_with_their_rows_in_whatever_order(tmp_path: Path) -> None:
    store, graph = tmp_path / "store", named(tmp_path, ["b", "a"])
    assert run(graph, store, "look") is Exit.DONE
    kept = artifact(graph, store, "look").read("kept")
    assert kept["came"].to_list() == ["a: 9, b: 4"] * 9
    assert states(named(tmp_path, ["a", "b"]), store)["look"] == "cached"
    renamed = named(tmp_path, ["a", "c"], second="c")
    assert states(renamed, store)["look"] == "stale"
    (planned,) = [p for p in plan(renamed, Store(store)) if p.step.name == "look"]
    assert planned.causes == ["input others: c is new", "input others: b was removed"]
