"""Which names of models are folders with weights."""

from __future__ import annotations

from datetime import date, datetime
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


def test_a_version_that_is_a_date_need_not_be_quoted() -> None:
    """YAML reads Azure's `2024-10-21` as a date; a time of the day is no version."""
    for version, right in ((date(2024, 10, 21), True), (datetime(2024, 10, 21), False)):
        api = {"provider": "azure", "version": version}
        model, problems = build_model({**SERVED, "model": "m", "api": api}, Path())
        assert (not problems) is right
        assert right or "quoted" in str(problems[0].hint)
        assert model is None or model.api.version == "2024-10-21"
