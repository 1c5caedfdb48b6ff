"""Small recipes that are run and released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import Created, create
from pipeline.store.store import Store
from tests.support.running import pool, recipe, run

LINES = 12


def mini(folder: Path, **changed: Any) -> Recipe:
    """Rows from `folder/rows.txt`, measured, limited and exported.

    Args:
        folder: Where the rows are written, if they are not there.
        changed: Options of stages in place of the usual ones.
    """
    path = folder / "rows.txt"
    if not path.exists():
        pool(path, LINES)
    options: dict[str, Any] = {"a": {"path": str(path)}, "brief": {"maximum": 8}, **changed}
    stages = {
        "a": {"uses": "toy.load"},
        "sized": {"uses": "toy.length", "needs": "a"},
        "brief": {"uses": "toy.at_most", "needs": "sized"},
        "shards": {"uses": "export.parquet", "needs": "brief"},
    }
    return recipe({n: {**s, "with": options.get(n, {})} for n, s in stages.items()}, "mini")


def released(wired: Recipe, store: Path, **named: str) -> Created:
    """Run a recipe and release it."""
    run(wired, store)
    return create(wired, Store(store), **named)
