"""A column that is not there is named with the stages that add it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecipeErrors
from pipeline.recipe.added_columns import stages_that_add
from pipeline.recipe.discovery import available, find
from pipeline.recipe.recipe import Recipe


def selecting(column: str, folder: Path, **more: Any) -> None:
    (folder / "rows.txt").write_text("a\tb\n")
    stages = {
        "a": {"uses": "tests.support.toys.load", "with": {"path": str(folder / "rows.txt")}},
        "best": {"uses": "select.top", "needs": "a", "with": {"score": column, "budget": 1}},
    }
    Recipe.of("selecting", stages, {})


@pytest.mark.parametrize(
    ("column", "maker"),
    [
        ("language", "tag.surface"),
        ("ifd", "score.loss"),
        ("ppl", "score.loss"),  # by an option that is not the default
        ("response_words", "score.heuristics"),
        ("vector", "embed.activations, embed.gradients or embed.text"),
    ],
)
def test_the_error_names_the_stage_that_adds_the_column(
    column: str, maker: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeErrors) as caught:
        selecting(column, tmp_path)
    assert f"try: {column}: add {maker} before it" in str(caught.value)


def test_no_stage_is_named_for_a_column_that_none_adds(tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors) as caught:
        selecting("nobody_adds_this", tmp_path)
    assert "add a stage before it that makes the column" in str(caught.value)


def test_every_column_that_a_stage_always_adds_is_known() -> None:
    declared = {
        (name, column)
        for name in available()
        if (stage := find(name)).annotates and isinstance(stage._adds, dict)
        for column in stage._adds
    }
    assert declared
    for name, column in declared:
        assert name in stages_that_add(column)


def test_a_column_that_no_stage_adds_is_soon_searched_for() -> None:
    """What a stage adds may hang on a check of columns, whose hint searches all stages again."""
    assert stages_that_add("no_stage_adds_this") == []
