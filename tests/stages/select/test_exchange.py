"""A selector is exchanged for any other by changing its stage: later stages do without columns."""

from __future__ import annotations

from dataclasses import MISSING, fields
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.recipe.discovery import available, find
from pipeline.recipe.problems import option_groups
from pipeline.recipe.recipe import Recipe
from pipeline.stage import DataKind, Stage
from stages._selection.columns import SELECTOR_COLUMNS
from tests.conftest import ROOT
from tests.support.bundled import NAMES, content
from tests.support.rows import DATA
from tests.support.running import artifact, counts, run

SELECTORS = [
    name
    for name in available()
    if name.startswith("select.") and find(name).edges[0].kind is DataKind.RECORDS
]
BUDGET = {"budget": 12}
OPTIONS: dict[str, dict[str, Any]] = {
    "select.clusters": {**BUDGET, "n_clusters": 3},
    "select.coverage": {**BUDGET, "tags": "language"},
    "select.diverse": {**BUDGET, "method": {"name": "facility_location"}},
    "select.except": {},
    "select.random": BUDGET,
    "select.response": {"method": "best", "score": "response_words", "group": "prompt"},
    "select.split": {"parts": {"train": 0.5, "heldout": 0.5}, "keep": "train"},
    "select.stratified": {**BUDGET, "group": "length_class"},
    "select.takedown": {"path": str(ROOT / "tests/support/takedown.txt")},
    "select.target": {**BUDGET, "method": "nearest"},
    "select.top": {**BUDGET, "score": "response_words"},
}
OTHER_EDGES = {"select.target": "target", "select.except": "except"}
MODELS = {"potion": {"engine": "sentence-transformers", "model": "data/models/potion-base-4m"}}
SOURCE = {"source": "s", "license": "MIT"}


def chosen(selector: str, rows: str = "vectors", other: str = "few") -> dict[str, Any]:
    """The step of a selector over rows with vectors and tags."""
    needs = {"rows": rows} | ({OTHER_EDGES[selector]: other} if selector in OTHER_EDGES else {})
    return {"uses": selector, "needs": needs, "with": OPTIONS[selector]}


def stages(folder: Path, selector: str) -> dict[str, Any]:
    lines = (DATA / "samples/user_oriented_252.jsonl").read_text().splitlines()[:40]
    (folder / "pool.jsonl").write_text("\n".join(lines))
    embedder = {"embedder": "potion"}
    return {
        "pool": {"uses": "load.records", "with": {"path": f"{folder}/pool.jsonl", **SOURCE}},
        "tagged": {"uses": "tag.surface", "needs": "pool"},
        "measured": {"uses": "score.heuristics", "needs": "tagged"},
        "vectors": {"uses": "embed.text", "needs": "measured", "with": embedder},
        "few": {"uses": "select.random", "needs": "vectors", "with": {"budget": 3}},
        "chosen": chosen(selector),
        "shards": {
            "uses": "export.parquet",
            "needs": "chosen",
            "with": {"columns": ["cluster", "language", "top_rank"]},
        },
        "summary": {
            "uses": "report.summary",
            "needs": {"pool": "measured", "selected": "chosen"},
            "with": {"columns": ["language"], "selected_columns": ["cluster", "top_rank"]},
        },
    }


@pytest.mark.parametrize("selector", SELECTORS)
def test_one_changed_stage_is_enough(selector: str, tmp_path: Path) -> None:
    """From the vectors to shards and summary, which show the columns that there are."""
    wired = Recipe.of("exchange", stages(tmp_path, selector), MODELS)
    assert run(wired, tmp_path / "store") is Exit.DONE
    kept = counts(wired, tmp_path / "store")["chosen"][2]
    assert kept > 0
    files = artifact(wired, tmp_path / "store", "shards").files
    shards = pl.concat([pl.read_parquet(path) for path in files.glob("data/*.parquet")])
    added = set(wired.steps["chosen"].own) & {"cluster", "top_rank"}
    assert set(shards.columns) == {"messages", "id", "sources", "licenses", "language", *added}
    assert len(shards) == kept
    page = (artifact(wired, tmp_path / "store", "summary").files / "summary.md").read_text()
    absent = [f"`{name}`" for name in ("cluster", "top_rank") if name not in added]
    assert (f"The selected rows have no {', '.join(absent)}." in page) == bool(absent)
    assert all(f"| {name}" in page for name in added)


@pytest.mark.parametrize(
    ("step", "option"), [("shards", "columns"), ("summary", "selected_columns")]
)
def test_a_column_that_no_selector_adds_is_a_mistake(
    step: str, option: str, tmp_path: Path
) -> None:
    raw = stages(tmp_path, "select.random")
    raw[step]["with"][option] = ["clutser"]
    with pytest.raises(RecipeErrors, match="reads the column 'clutser', which 'chosen' does not"):
        Recipe.of("exchange", raw, MODELS)


PARTS_OF_METHODS = {
    ("diversify-and-conquer", "chosen_1"),  # the second round weighs the first one's clusters
    ("smart", "ranked"),  # the mixture is made of the gains of the selection
}
SELECTIONS = [
    (recipe, name)
    for recipe in NAMES
    for name, step in content(recipe)["stages"].items()
    if step["uses"].startswith("select.") and (recipe, name) not in PARTS_OF_METHODS
]


EXCHANGES = [
    # A sixth of all pairs, each selector and each selection among them.
    pytest.param(*selection, selector, marks=[pytest.mark.proof] * ((i + j) % 6 > 0))
    for i, selection in enumerate(SELECTIONS)
    for j, selector in enumerate(SELECTORS)
]


@pytest.mark.parametrize(("name", "step", "selector"), EXCHANGES)
def test_no_later_stage_of_a_bundled_recipe_minds(name: str, step: str, selector: str) -> None:
    """What a selector itself reads may be missing; whoever comes after it is content."""
    raw = content(name)
    stages = raw["stages"]
    rows = stages[step]["needs"]
    rows = rows["rows"] if isinstance(rows, dict) else rows
    stages[step] = chosen(selector, rows, other=rows)
    problems = mistakes(name, stages, raw["models"])
    # Two selectors that add the same column must be told apart (`as`), wherever they stand.
    twice = ("which is there already", "the rows have the column 'split'")
    assert all(
        f"{step} ({selector})" in problem or any(text in problem for text in twice)
        for problem in problems
    )


def mistakes(name: str, stages: dict[str, Any], models: dict[str, Any]) -> list[str]:
    try:
        Recipe.of(name, stages, models)
    except RecipeErrors as errors:
        return [str(problem) for problem in errors.problems]
    return []


def test_all_columns_of_selectors_are_known() -> None:
    for name in SELECTORS:
        stage = find(name)
        groups = {o.name: option_groups(o.annotation).values() for o in stage.options}
        methods = {option: kinds for option, kinds in groups.items() if kinds}
        for combination in product(*methods.values()):
            defaults = {o.name: o.default for o in stage.options} | {"budget": 1, "group": "kind"}
            chosen_methods = {o: _example(k) for o, k in zip(methods, combination, strict=True)}
            options = SimpleNamespace(**defaults | chosen_methods)
            added = _added(stage, options)
            assert added <= SELECTOR_COLUMNS, name


def _example(kind: Any) -> Any:
    """A method with any columns where it needs some."""
    needed = [f.name for f in fields(kind) if f.default is MISSING is f.default_factory]
    return kind(**dict.fromkeys(needed, ("a", "b")))


def _added(stage: Stage, options: SimpleNamespace) -> set[str]:
    """What a stage adds, with the edges that its method wants."""
    names = [edge.name for edge in stage.edges]
    for connected in (names, *combinations(names, 2), names[:1]):
        try:
            return set(stage.adds(options, {n: [{"id": pl.String}] for n in connected}))
        except UserError:
            continue
    raise AssertionError(f"{stage.name} takes no edges")
