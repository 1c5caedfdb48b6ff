"""The summary: counts that add up, columns of every kind, the ablation's page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import RecipeErrors, UserError
from pipeline.recipe.discovery import describe
from pipeline.recipe.recipe import Recipe
from schemas.records import RECORD_COLUMNS
from stages.report.summary import MAX_VALUES, summary
from tests.support.options import problems


def rows(sources: list[list[str]], **columns: list[object]) -> pl.DataFrame:
    origins = [[{"source": s, "index": 0, "license": "MIT"} for s in row] for row in sources]
    frame = pl.DataFrame({"id": [f"{i:03}" for i in range(len(sources))], "origins": origins})
    return frame.cast({"origins": RECORD_COLUMNS["origins"]}).with_columns(
        **{name: pl.Series(values) for name, values in columns.items()}
    )


def cells(text: str, first: str) -> dict[str, list[str]]:
    """The lines of the table whose first column is named so, by their first cell."""
    head = next(part for part in text.split("\n\n") if part.startswith(f"| {first} "))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in head.splitlines()]
    return {line[0]: line[1:] for line in lines[2:]}


def test_chosen_rows_are_set_beside_the_pool(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "ablation.md").write_text("# Did choosing help?\n\nPerhaps.\n")
    pool = rows(
        [["web"], ["web", "books"], ["books"], ["web"]],
        language=["en", "en", None, "de"],
        is_code=[True, False, True, True],
        ifd=[0.1, 0.2, 0.3, 0.4],
    )
    selected = pool[1:3].with_columns(cluster=pl.Series([7, 7]))
    summary(
        ctx, pool, selected, tmp_path, columns=("language", "is_code", "ifd"),
        selected_columns=("cluster",),
    )  # fmt: skip
    text = (ctx.files / "summary.md").read_text()
    assert "2 of 4 rows (50.0%)" in text
    # A row with two sources counts in both: shares are of rows.
    assert cells(text, "source") == {
        "books": ["2", "50.0%", "2", "100.0%"],
        "web": ["3", "75.0%", "1", "50.0%"],
    }
    assert cells(text, "language") == {
        "en": ["2", "50.0%", "1", "50.0%"],
        "(none)": ["1", "25.0%", "1", "50.0%"],
        "de": ["1", "25.0%", "0", "0.0%"],
    }
    assert cells(text, "flag") == {"is_code": ["3", "75.0%", "1", "50.0%"]}
    assert cells(text, "score")["ifd"][4] in ("0.2", "0.3")
    assert cells(text, "cluster") == {"7": ["2", "100.0%"]}
    assert "## Did choosing help?\n\nPerhaps." in text
    assert max(map(len, text.splitlines())) <= 100


def test_rare_values_share_a_line(ctx: Context) -> None:
    pool = rows([["web"]] * 40, cluster=[f"{i}" for i in range(40)])
    summary(ctx, pool, pool[:20], columns=("cluster",))
    counts = cells((ctx.files / "summary.md").read_text(), "cluster")
    assert len(counts) == MAX_VALUES + 1
    assert counts[f"{40 - MAX_VALUES} others"][0] == str(40 - MAX_VALUES)
    assert sum(int(line[2]) for line in counts.values()) == 20


def test_integers_of_many_values_are_summed_up(ctx: Context) -> None:
    """423 values of a count are no 423 lines, nor twelve and a rest."""
    pool = rows([["web"]] * 423, words=list(range(1000, 1423)), turns=[1, 2, 3] * 141)
    summary(ctx, pool, pool[:11], columns=("words", "turns"))
    text = (ctx.files / "summary.md").read_text()
    assert cells(text, "score") == {"words": ["1,042", "1,211", "1,380", "1,001", "1,005", "1,009"]}
    assert list(cells(text, "turns")) == ["1", "2", "3"]


def test_lists_are_summed_up_by_their_lengths(ctx: Context) -> None:
    tags = [["a"], ["a", "b", "c"], None, [], ["x"] * 7]
    pool = rows([["web"]] * 5, tags=tags)
    summary(ctx, pool, pool[1:2], columns=("tags",))
    text = (ctx.files / "summary.md").read_text()
    assert cells(text, "score") == {"tags (length)": ["0", "3", "7", "3", "3", "3"]}
    summary(ctx, pool, pool[:0], selected_columns=("tags",))
    text = (ctx.files / "summary.md").read_text()
    assert cells(text, "score") == {"tags (length)": ["", "", ""]}


def test_a_column_that_no_table_shows_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "structs.py").write_text(STRUCTS)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "rows.txt").write_text("a\tb\n")
    with pytest.raises(RecipeErrors) as caught:
        Recipe.load(str(tmp_path / "r.yaml"))
    assert "r.yaml:8: report (report.summary): columns must name columns of" in str(caught.value)
    assert "got 'pair', which is Struct" in str(caught.value)


STRUCTS = """\
import polars as pl
from pipeline.context import Context
from pipeline.stage import Records, stage

@stage(version=1, scope="set", reads=[], adds={"pair": pl.Struct({"a": pl.Int8})})
def pairs(ctx: Context, rows: Records) -> pl.DataFrame:
    return rows.select(pl.struct(pl.lit(1, pl.Int8).alias("a")).alias("pair"))
"""
RECIPE = """\
name: r
stages:
  a: {uses: tests.support.toys.load, with: {path: rows.txt}}
  b: {uses: structs.pairs, needs: a}
  report:
    uses: report.summary
    needs: {pool: b, selected: b}
    with: {columns: [pair]}
"""


def test_nothing_chosen_is_still_a_summary(ctx: Context) -> None:
    pool = rows([["web"]], language=["en"], ifd=[0.5])
    summary(ctx, pool, pool[:0], columns=("language", "ifd"))
    assert "0 of 1 rows" in (ctx.files / "summary.md").read_text()


def test_it_reads_the_columns_that_it_shows_and_refuses_others() -> None:
    stage = describe("report.summary", summary)
    options = SimpleNamespace(columns=("language",), selected_columns=("cluster",))
    assert stage.reads("pool", options) == ["origins", "language"]
    assert stage.reads("selected", options) == ["origins", "language", "cluster"]
    both = {"columns": ["language"], "selected_columns": ["language"]}
    assert problems("report.summary", **both) == [
        "selected_columns must not name a column of `columns`, got language"
    ]
    assert problems("report.summary", columns=["a", "a"]) == [
        "columns must name each once, got ['a', 'a']"
    ]
    assert problems("report.summary", columns=["origins"]) == ["columns must not name origins"]


def test_a_verdict_of_another_stage_is_refused(ctx: Context, tmp_path: Path) -> None:
    pool = rows([["web"]])
    with pytest.raises(UserError, match=r"ablation\.md"):
        summary(ctx, pool, pool, tmp_path)
