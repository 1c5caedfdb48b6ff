"""The shipped recipes: the tiny forms run offline from end to end, the full ones are wired."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.execution.plan import check, plan
from pipeline.recipe.recipe import RECIPES, Recipe
from pipeline.store.store import Store
from tests.support.running import command

TINY = sorted(path.stem for path in RECIPES.glob("*-tiny.yaml"))
FULL = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in TINY)
FACTOR = 4
"""What an estimate before the first run may be off by: it takes every answer for a long and
good one, and tinylm's are neither."""


@pytest.mark.parametrize("name", [*FULL, *TINY])
def test_a_recipe_can_be_planned_and_checked_without_its_models(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    planned = plan(recipe, Store(tmp_path))
    assert [look.step.name for look in planned] == list(recipe.steps)
    assert {look.state for look in planned} <= {"missing", "unknown"}
    check(planned)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_recipe_is_the_small_form_of_another(name: str) -> None:
    """It writes with the same stages; what it leaves out is training and curation."""
    tiny, full = Recipe.load(name), Recipe.load(name.removesuffix("-tiny"))
    writing = [{step.stage.name for step in recipe.steps.values()} for recipe in (tiny, full)]
    assert {s for s in writing[1] if s.startswith(("generate.", "rewrite."))} <= writing[0]


@pytest.mark.proof
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_recipe_runs_and_accounts_for_every_row(name: str, tmp_path: Path) -> None:
    done = command("run", name, "--store", str(tmp_path), timeout=600)
    assert done.returncode == 0, done.stderr
    for line in (line for line in done.stderr.splitlines() if line.startswith("asked by ")):
        told_before = re.findall(r"\(estimate(?: for the longest answers)? ([+-]\d+)%\)", line)
        assert len(told_before) == 2, f"requests and tokens were not both estimated: {line}"
        assert all(1 / FACTOR < 1 + int(off) / 100 < FACTOR for off in told_before), line
    told = command("status", name, "--store", str(tmp_path), "--json")
    stages = json.loads(told.stdout)["stages"]
    for stage in stages:
        ended = stage["kept"] + sum(stage["dropped"].values()) + stage["failed"]
        assert stage["rows_in"] + stage["created"] == ended, stage["name"]
        assert stage["state"] == "cached"
        if stage["created"] and not stage["kept"]:
            assert stage["dropped"], f"{stage['name']} ends empty and does not say why"
            assert stage["uses"].startswith("generate.") or stage["rows_in"] == 0
    again = command("run", name, "--store", str(tmp_path), timeout=120)
    assert (again.returncode, again.stderr) == (0, "")
