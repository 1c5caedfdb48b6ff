"""The shipped recipes: the full ones are wired, those with the profile tiny run offline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.execution.plan import check, plan
from pipeline.recipe.recipe import RECIPES, Recipe
from pipeline.store.store import Store
from tests.support.running import command

FULL = sorted(path.stem for path in RECIPES.glob("*.yaml"))
TINY = [name for name in FULL if "tiny" in Recipe.load(name).profiles]
FACTOR = 4
"""What an estimate before the first run may be off by: it takes every answer for a long and
good one, and tinylm's are neither."""


def test_every_recipe_of_the_literature_has_a_tiny_form() -> None:
    assert set(FULL) - set(TINY) == {"quickstart"}


@pytest.mark.parametrize(
    ("name", "profile"), [*((name, None) for name in FULL), *((name, "tiny") for name in TINY)]
)
def test_a_recipe_can_be_planned_and_checked_without_its_models(
    name: str, profile: str | None, tmp_path: Path
) -> None:
    recipe = Recipe.load(name, profile=profile)
    planned_steps = plan(recipe, Store(tmp_path))
    assert [planned.step.name for planned in planned_steps] == list(recipe.steps)
    assert {planned.state for planned in planned_steps} <= {"missing", "unknown"}
    check(planned_steps)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_recipe_is_the_small_form_of_another(name: str) -> None:
    """It writes with the same stages; what it leaves out is training and curation."""
    tiny, full = Recipe.load(name, profile="tiny"), Recipe.load(name)
    writing = [{step.stage.name for step in recipe.steps.values()} for recipe in (tiny, full)]
    assert {s for s in writing[1] if s.startswith(("generate.", "rewrite."))} <= writing[0]


@pytest.mark.proof
@pytest.mark.parametrize("name", [name for name in TINY if name != "full"])
def test_a_tiny_recipe_runs_and_accounts_for_every_row(name: str, tmp_path: Path) -> None:
    run_and_account(name, tmp_path)  # tests/test_full.py runs the other one


def run_and_account(name: str, store: Path) -> None:
    """Run a tiny recipe, look at its estimates and sums, and run it again with nothing to do.

    Every stage that makes rows keeps some of them.
    """
    call = (name, "--profile", "tiny", "--store", str(store))
    done = command("run", *call, timeout=600)
    assert done.returncode == 0, done.stderr
    for line in (line for line in done.stderr.splitlines() if line.startswith("requests of ")):
        estimated = re.findall(r"\(estimate(?: for the longest answers)? ([+-]\d+)%\)", line)
        assert len(estimated) == 2, f"requests and tokens were not both estimated: {line}"
        assert all(1 / FACTOR < 1 + int(off) / 100 < FACTOR for off in estimated), line
    stages = json.loads(command("status", *call, "--json").stdout)["stages"]
    for stage in stages:
        ended = stage["kept"] + sum(stage["dropped"].values()) + stage["failed"]
        assert stage["rows_in"] + stage["created"] == ended, stage["name"]
        assert stage["state"] == "cached"
        if stage["created"]:
            assert stage["kept"], f"{stage['name']} keeps nothing: {stage['dropped']}"
    again = command("run", *call, timeout=120)
    assert (again.returncode, again.stderr) == (0, "")
