"""Small recipes of real stages, run and released, for what reads a release."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import Exit
from pipeline.execution.progress import LineProgress
from pipeline.execution.runner import Runner
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import create
from pipeline.store.store import Store
from schemas.release import Release


class Released(NamedTuple):
    """A release with its graph.

    Attributes:
        store: Where it is.
        release: The release.
        snapshot: Its stages.
        recipe: The recipe that it was made from.
        exit: How the run ended.
    """

    store: Store
    release: Release
    snapshot: Snapshot
    recipe: Recipe
    exit: Exit


def pool_of(path: Path, pairs: Sequence[tuple[str, str]], **more: Any) -> dict[str, Any]:
    """A stage that loads prompts and answers, which are written to a file; MIT by default."""
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in pairs]
    path.write_text("\n".join(lines) + "\n")
    options = {"path": str(path), "source": path.stem, "license": "MIT", **more}
    return {"uses": "load.records", "with": options}


def questions(start: int, stop: int) -> list[tuple[str, str]]:
    """Prompts and answers that share no run of words."""
    return [(f"What follows number {i}?", f"Number {i + 1} does.") for i in range(start, stop)]


def released(
    folder: Path, stages: Mapping[str, Any], publish: Mapping[str, Any] | None = None
) -> Released:
    """Run a recipe in a store of its own and release it, complete or not."""
    recipe = Recipe.of("small", stages, publish=publish or {})
    store = Store(folder / "store")
    lines = LineProgress(len(recipe.steps), lambda text: None)
    code = Runner(recipe, store, lines, 1, False).run(())
    release = create(recipe, store).release
    return Released(store, release, Snapshot.of_release(store, release), recipe, code)
