"""Which names of models are folders with weights."""

from __future__ import annotations

from pathlib import Path

from pipeline.recipe.options import build_model

SERVED = {"engine": "openai", "base_url": "http://127.0.0.1:9/v1"}


def test_a_served_model_has_its_name_where_a_file_is_called_the_same(tmp_path: Path) -> None:
    (tmp_path / "judge").write_text("notes")
    model, problems = build_model({**SERVED, "model": "judge"}, tmp_path)
    assert (model.model, problems) == ("judge", [])


def test_a_folder_beside_the_recipe_holds_the_weights_of_a_served_model(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    model, problems = build_model({**SERVED, "model": "judge"}, tmp_path)
    assert (model.model, problems) == (str(tmp_path / "judge"), [])
