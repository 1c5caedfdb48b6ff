"""Recipes in Python, as a notebook opens them."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from pipeline import open_recipe
from pipeline.cli import tables
from pipeline.errors import Exit, UserError
from pipeline.interface import OpenRecipe
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import create
from pipeline.stage import ROOT
from pipeline.store.store import Store
from tests.support.cli import call
from tests.support.running import environment, pool, toys

TEXT = """\
name: opened
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  unique: {uses: toy.distinct, needs: sized}
  brief: {uses: toy.at_most, needs: unique, with: {maximum: 20}}
  shards: {uses: export.parquet, needs: brief, with: {validation_fraction: 0.2}}
"""
FRAMED = """\
name: framed
stages:
  mine: {uses: load.frame, with: {source: here, license: MIT}}
  sized: {uses: toy.length, needs: mine}
"""
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202e"


@pytest.fixture
def run(tmp_path: Path) -> OpenRecipe:
    pool(tmp_path / "rows.txt", 40)
    with (tmp_path / "rows.txt").open("a") as file:
        file.write(f"{HOSTILE}\txx2\nno tab {HOSTILE[:20]}\n")
    (tmp_path / "opened.yaml").write_text(toys(TEXT))
    opened = open_recipe(tmp_path / "opened.yaml", store=tmp_path / "store")
    result = opened.run(workers=1)
    assert (result.code, result.ran) == (
        Exit.ROWS_FAILED, ["a", "sized", "unique", "brief", "shards"]
    )  # fmt: skip
    return opened


def test_it_reads_what_the_command_line_reads(run: OpenRecipe, tmp_path: Path) -> None:
    where = [str(tmp_path / "opened.yaml"), "--store", str(tmp_path / "store")]
    for part in ("kept", "dropped"):
        more = [] if part == "kept" else ["--dropped"]
        lines = call("cat", where[0], "brief", *more, *where[1:]).stdout.splitlines()
        rows = run.rows("brief") if part == "kept" else run.dropped("brief")
        assert rows["id"].to_list() == [json.loads(line)["id"] for line in lines]
        assert run.frame("brief", part)["id"].tolist() == rows["id"].to_list()
    assert run.dropped("brief", reason="too_long").equals(run.dropped("brief"))
    assert run.failed("a")["line"].to_list() == [42]
    assert run.rows("brief", columns=["length"]).columns == ["id", "length"]
    first = run.rows("brief")["id"][0]
    explained = json.loads(call("explain", where[0], first, "--json", *where[1:]).stdout)
    assert run.explain(first[:16]) == explained
    assert repr(run.explain(first)) == tables.record_history(explained)
    assert run.status() == json.loads(call("status", where[0], "--json", *where[1:]).stdout)
    assert run.run().ran == []


def test_data_sets_are_the_rows_and_the_shards(run: OpenRecipe) -> None:
    rows = run.dataset("brief")
    assert rows["id"][:] == run.rows("brief")["id"].to_list()
    assert rows[0]["messages"][0]["role"] == "user"
    splits = run.dataset("shards")
    assert set(splits) == {"train", "validation"}
    assert sum(splits.num_rows.values()) == len(run.rows("brief"))


def test_the_shards_of_another_run_are_never_given_in_their_place(
    run: OpenRecipe, tmp_path: Path
) -> None:
    ids = {n for split in run.dataset("shards").values() for n in split["id"]}
    less = "stages.brief.with.maximum=12"
    other = open_recipe(tmp_path / "opened.yaml", store=tmp_path / "store", overrides=[less])
    other.run(workers=1)
    fewer = {n for split in other.dataset("shards").values() for n in split["id"]}
    assert fewer == set(other.rows("brief")["id"]) != ids
    file = next(other._snapshot().stage("shards").artifact.files.rglob("*.parquet"))  # type: ignore[union-attr]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="damaged"):
        open_recipe(tmp_path / "opened.yaml", store=tmp_path / "store", overrides=[less]).dataset(
            "shards"
        )


def test_a_release_is_read_and_does_not_run(run: OpenRecipe, tmp_path: Path) -> None:
    recipe, store = Recipe.load(str(tmp_path / "opened.yaml")), Store(tmp_path / "store")
    version = create(recipe, store).release["version"]
    released = open_recipe(f"opened@{version}", store=tmp_path / "store")
    assert released.rows("brief").equals(run.rows("brief"))
    assert released.title == f"opened@{version}"
    assert "opened@" in released._repr_html_()
    with pytest.raises(UserError, match="is a release and does not run"):
        released.run()


def test_frames_are_rows_of_a_stage_and_stay_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = tmp_path / "framed.yaml", tmp_path / "store"
    path.write_text(toys(FRAMED))
    rows = pd.DataFrame({"prompt": ["a", "b", "a", 3], "completion": ["x", "y", "x", "z"]})
    result = open_recipe(path, store=store, frames={"mine": rows}).run(workers=1)
    counts = {s["name"]: (s["kept"], s["dropped"], s["failed"]) for s in result.stages}
    assert counts == {"mine": (2, {"duplicate": 1}, 1), "sized": (2, {}, 0)}
    again = open_recipe(path, store=store, frames={"mine": rows.copy()})
    assert again.run(workers=1).ran == [], "equal rows are never loaded again"
    changed = open_recipe(path, store=store, frames={"mine": rows[:2]})
    assert changed.run(workers=1).ran == ["mine"], "what comes out is the same"
    assert open_recipe(path, store=store).rows("sized").equals(changed.rows("sized"))
    shown = call("cat", str(path), "sized", "--store", str(store))
    assert len(shown.stdout.splitlines()) == 2
    with pytest.raises(UserError, match="no notebook has handed any over"):
        open_recipe(path, store=tmp_path / "other").run()
    with pytest.raises(UserError, match="did you mean 'mine'"):
        open_recipe(path, store=store, frames={"mien": rows})


class Tags(HTMLParser):
    """The names of all tags."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        assert not any(name.startswith("on") or name == "src" for name, _ in attrs)


def test_no_view_makes_a_row_markup(run: OpenRecipe) -> None:
    (hostile,) = run.rows("a").filter(
        pl.col("messages").list.first().struct.field("content").str.contains("<script>")
    )["id"]
    views = [
        run, run.run(), run.explain(hostile), run.sample("a", 50), run.sample("a", part="failed"),
        run.sample("unique", reason="duplicate"), run.rows("a"), run.frame("a"), run.failed("a"),
    ]  # fmt: skip
    for view in views:
        html = view._repr_html_()  # type: ignore[operator]
        tags = Tags()
        tags.feed(html)
        assert not tags.names & {"script", "img", "iframe", "a", "svg"}, view
    ours = [view._repr_html_() for view in views[:6]]  # type: ignore[operator]
    assert not any({"\x1b", "\u202e"} & set(html) for html in ours)
    assert "&lt;script&gt;" in ours[2]


def test_a_notebook_shows_data_sets(run: OpenRecipe) -> None:
    """Those of one split and of several; rows are never markup in them."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        for stage, words in (("a", "Dataset of"), ("shards", "<h4>validation</h4>")):
            shown = shell.display_formatter.format(run.dataset(stage))[0]["text/html"]
            tags = Tags()
            tags.feed(shown)
            assert words in shown
            assert "messages" in shown
            assert not tags.names & {"script", "img", "iframe", "a", "svg"}
    finally:
        InteractiveShell.clear_instance()


def test_a_mistake_has_no_traceback_in_a_notebook(run: OpenRecipe) -> None:
    with pytest.raises(UserError) as error:
        run.rows("breif")
    (line,) = error.value._render_traceback_()
    assert line == "error: the recipe has no stage 'breif'\n  try: did you mean 'brief'?"


def test_the_name_costs_nothing_until_it_is_used() -> None:
    code = (
        "import sys, pipeline\n"
        "assert not {'polars', 'pydantic', 'rich', 'pandas', 'datasets'} & set(sys.modules)\n"
        "from pipeline import open_recipe\n"
        "assert not {'pandas', 'datasets', 'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(ImportError):
        from pipeline import open_nothing  # type: ignore[attr-defined]  # noqa: F401
