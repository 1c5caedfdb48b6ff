"""The shipped recipes: the full ones are wired, those with the profile tiny run offline."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Exit
from pipeline.execution import history
from pipeline.execution.actual_usage import comparison
from pipeline.execution.plan import check, plan
from pipeline.execution.progress import LineProgress
from pipeline.execution.runner import Runner
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.recipe import RECIPES, Recipe
from pipeline.store.store import Store
from tests.support.bundled import NAMES, content
from tests.support.running import command

TINY = [name for name in NAMES if "tiny" in content(name).get("profiles", {})]
AS_COMMANDS = ["full", "self-instruct"]
"""Those that run as a user runs them; the others run in this process, which loads tinylm once."""
FACTOR = 4
"""What an estimate before the first run may be off by: it takes every answer for a long and
good one, and tinylm's are neither."""


def test_every_recipe_of_the_literature_has_a_tiny_form() -> None:
    assert set(NAMES) - set(TINY) == {"quickstart"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_name_of_its_file_and_says_what_it_is(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text("utf-8")
    assert content(name)["name"] == name
    assert text.startswith("# ")


@pytest.mark.parametrize(
    ("name", "profile"), [*((name, None) for name in NAMES), *((name, "tiny") for name in TINY)]
)
def test_a_recipe_can_be_planned_and_checked_without_its_models(
    name: str, profile: str | None, tmp_path: Path
) -> None:
    recipe = Recipe.load(name, named_models(name), profile=profile)
    planned_steps = plan(recipe, Store(tmp_path))
    assert [planned.step.name for planned in planned_steps] == list(recipe.steps)
    assert {planned.state for planned in planned_steps} <= {"missing", "unknown"}
    check(planned_steps)


def named_models(name: str) -> list[str]:
    """Identities for the models of a recipe, since the hub that resolves them is out of reach.

    Only a step without inputs is resolved when the whole is planned.
    """
    models = content(name).get("models", {})
    return [f"models.{model}.id=one" for model, options in models.items() if "from" not in options]


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_recipe_is_the_small_form_of_another(name: str) -> None:
    """It writes with the same stages; what it leaves out is training and curation."""
    tiny, full = Recipe.load(name, profile="tiny"), Recipe.load(name)
    writing = [{step.stage.name for step in recipe.steps.values()} for recipe in (tiny, full)]
    assert {s for s in writing[1] if s.startswith(("generate.", "rewrite."))} <= writing[0]


@pytest.mark.proof
@pytest.mark.parametrize("name", [name for name in AS_COMMANDS if name != "full"])
def test_a_tiny_recipe_runs_as_a_command(name: str, tmp_path: Path) -> None:
    run_and_account(name, tmp_path)  # tests/test_full.py runs the other one


def run_and_account(name: str, store: Path) -> None:
    """Run a tiny recipe, look at its estimates and sums, and run it again with nothing to do."""
    call = (name, "--profile", "tiny", "--store", str(store))
    done = command("run", *call, timeout=600)
    assert done.returncode == 0, done.stderr
    check_estimates([line for line in done.stderr.splitlines() if line.startswith("requests of ")])
    check_sums(json.loads(command("status", *call, "--json").stdout)["stages"])
    again = command("run", *call, timeout=120)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.proof
@pytest.mark.parametrize("name", [name for name in TINY if name not in AS_COMMANDS])
def test_a_tiny_recipe_runs_and_accounts_for_every_row(name: str, tmp_path: Path) -> None:
    """The same as a command does, in this process."""
    recipe, store = Recipe.load(name, profile="tiny"), Store(tmp_path)
    runner = runner_of(recipe, store)
    assert runner.run() is Exit.DONE
    check_estimates(comparison(runner.expected, runner.used))
    check_sums(history.status(Snapshot.of_recipe(recipe, store))["stages"])
    again = runner_of(recipe, store)
    assert (again.run(), again.ran) == (Exit.DONE, [])


def runner_of(recipe: Recipe, store: Store) -> Runner:
    return Runner(recipe, store, LineProgress(len(recipe.steps), lambda text: None))


def check_estimates(lines: Sequence[str]) -> None:
    """Requests and tokens of each stage were estimated, and not far off."""
    for line in lines:
        estimated = re.findall(r"\(estimate(?: for the longest answers)? ([+-]\d+)%\)", line)
        assert len(estimated) == 2, f"requests and tokens were not both estimated: {line}"
        assert all(1 / FACTOR < 1 + int(off) / 100 < FACTOR for off in estimated), line


def check_sums(stages: Sequence[Mapping[str, Any]]) -> None:
    """Every row ended in one way, and every stage that makes rows keeps some of them."""
    for stage in stages:
        ended = stage["kept"] + sum(stage["dropped"].values()) + stage["failed"]
        assert stage["rows_in"] + stage["created"] == ended, stage["name"]
        assert stage["state"] == "cached"
        if stage["created"]:
            assert stage["kept"], f"{stage['name']} keeps nothing: {stage['dropped']}"
