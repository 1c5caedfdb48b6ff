"""What a user reads whose template is wrong: in which step, and what may be named."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecipeErrors, UserError
from pipeline.recipe.recipe import Recipe
from tests.support.running import run

NUMBER = {"name": "integer", "low": 1, "high": 9}
DRAWN = {"uses": "generate.sample", "with": {"num_rows": 2, "columns": {"n": NUMBER}}}
WRONG: dict[str, dict[str, Any]] = {
    "turns": {"uses": "rewrite.turns", "needs": "drawn", "with": {"user": "{{ n / 0 }}"}},
    "expression": {
        "uses": "generate.sample",
        "needs": "drawn",
        "with": {"columns": {"m": {"name": "expression", "template": "{{ n / 0 }}"}}},
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_a_template_that_fails_names_its_step_and_the_row(tmp_path: Path, name: str) -> None:
    recipe = Recipe.of("wrong", {"drawn": DRAWN, name: WRONG[name]}, {})
    with pytest.raises(UserError, match="division by zero") as error:
        run(recipe, tmp_path / "store")
    assert f": {name}: row " in str(error.value.where)


def test_a_list_of_no_names_is_not_shown(tmp_path: Path) -> None:
    columns = {"n": {"name": "constant", "value": 1, "when": "other == 3"}}
    drawn = {**DRAWN, "with": {"num_rows": 2, "columns": columns}}
    with pytest.raises(RecipeErrors, match="got 'other'") as error:
        Recipe.of("wrong", {"drawn": drawn}, {})
    (problem,) = error.value.problems
    assert problem.hint is None


def test_a_date_among_values_is_to_be_quoted(tmp_path: Path) -> None:
    columns = {"n": {"name": "categorical", "values": [date(2024, 10, 21), "never"]}}
    with pytest.raises(RecipeErrors, match="must be a plain, finite value") as error:
        Recipe.of("wrong", {"drawn": {**DRAWN, "with": {"num_rows": 2, "columns": columns}}}, {})
    assert "quoted" in str(error.value.problems[0].hint)
