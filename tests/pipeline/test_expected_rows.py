"""What is expected behind a step whose earlier run was cut short by a budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import Exit
from pipeline.execution.estimate import estimate_steps
from pipeline.execution.plan import plan
from pipeline.execution.progress import LineProgress
from pipeline.execution.runner import Runner
from pipeline.models.engines.registry import close_engines
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from tests.pipeline.test_flips import answer
from tests.support.running import pool
from tests.support.serving import NAME, FakeServer, listening

RECIPE = """\
name: cut
models: {{m: {{engine: openai, model: {name}, base_url: "http://127.0.0.1:{port}/v1"}}}}
stages:
  a: {{uses: tests.support.toys.load, with: {{path: rows.txt}}}}
  first: {{uses: tests.support.asking.rate, needs: a, with: {{model: m}}}}
  second: {{uses: tests.support.asking.respond, needs: first, with: {{model: m, tokens: 5}}}}
"""
ROWS = 10


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(FakeServer(answer)) as port:
        yield port
    close_engines()


@pytest.mark.parametrize("asked", [0, 1, 7])
def test_rows_that_were_not_asked_about_are_expected_behind_their_step(
    tmp_path: Path, port: int, asked: int
) -> None:
    """They failed in the partial run, which is no reason to expect that fewer come through."""
    pool(tmp_path / "rows.txt", ROWS)
    path = tmp_path / "cut.yaml"
    path.write_text(RECIPE.format(name=NAME, port=port))
    store = Store(tmp_path / "store")
    limited = Recipe.load(str(path), [f"budget.requests={asked}"])
    lines = LineProgress(len(limited.steps), lambda text: None)
    assert Runner(limited, store, lines, partial=True).run(()) is Exit.BUDGET
    recipe = Recipe.load(str(path))
    estimates = estimate_steps(recipe, store, plan(recipe, store))
    assert estimates["first"].expected.requests == ROWS - asked
    assert estimates["second"].expected.requests == ROWS
