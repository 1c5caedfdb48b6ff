"""Profiles of a recipe: the same as `--set`, checked with the lines of the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe.recipe import Recipe
from tests.support.running import TOY, pool, toys

TEXT = """\
name: profiled
models:
  m: {engine: transformers, model: nowhere, id: m1, dtype: bfloat16}
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  other: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  brief: {uses: toy.at_most, needs: sized, with: {maximum: 5, column: length}}
  judged: {uses: toy.judge, needs: brief, with: {model: m}}
profiles:
  small:
    stages.brief.with.maximum: 3
    stages.sized.with.plus: 2
  other_model:
    models.m: {engine: transformers, model: elsewhere}
    stages.judged: null
    stages.few: {uses: toy.merge, needs: [a]}
    stages.sized.needs: few
    models.n: {engine: transformers, model: n}
    stages.again: {uses: toy.judge, needs: sized, with: {model: n}}
    stages.again.with.criteria: [x]
"""


def load(folder: Path, text: str, *overrides: str, profile: str | None = None) -> Recipe:
    pool(folder / "rows.txt", 4)
    (folder / "r.yaml").write_text(toys(text))
    return Recipe.load(str(folder / "r.yaml"), overrides, profile)


def mistakes(folder: Path, text: str, *overrides: str, profile: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, text, *overrides, profile=profile)
    return str(caught.value).replace(f"{TOY}.", "toy.").replace(str(folder), "")


def test_a_profile_replaces_values(tmp_path: Path) -> None:
    plain, small = load(tmp_path, TEXT), load(tmp_path, TEXT, profile="small")
    assert plain.profiles == small.profiles == ("small", "other_model")
    assert (plain.profile, small.profile) == (None, "small")
    assert (plain.steps["brief"].options.maximum, plain.steps["sized"].options.plus) == (5, 0)
    assert (small.steps["brief"].options.maximum, small.steps["sized"].options.plus) == (3, 2)
    assert small.steps["brief"].options.column == "length", "what stands beside it stays"


def test_a_profile_adds_and_removes_stages_and_replaces_models_whole(tmp_path: Path) -> None:
    recipe = load(tmp_path, TEXT, profile="other_model")
    # A new stage comes right after the last one that it needs.
    assert list(recipe.steps) == ["a", "few", "other", "sized", "again", "brief"]
    assert recipe.steps["sized"].needs == {"rows": ["few"]}
    assert recipe.steps["again"].options.criteria == ("x",)
    assert recipe.steps["again"].options.model.model == "n"
    replaced = load(tmp_path, TEXT, "stages.again.with.model=m", profile="other_model")
    model = replaced.steps["again"].options.model
    assert (model.model, model.dtype, model.id) == ("elsewhere", "float32", None)


def test_overrides_come_after_the_profile(tmp_path: Path) -> None:
    recipe = load(tmp_path, TEXT, "stages.brief.with.maximum=9", profile="small")
    assert recipe.steps["brief"].options.maximum == 9
    assert recipe.steps["sized"].options.plus == 2
    removed = load(tmp_path, TEXT, "stages.judged=null")
    assert "judged" not in removed.steps


def test_what_a_profile_does_not_change_is_the_same(tmp_path: Path) -> None:
    """Two loads share nothing, and one profile's values are not seen by another."""
    load(tmp_path, TEXT, profile="other_model")
    assert list(load(tmp_path, TEXT).steps) == ["a", "other", "sized", "brief", "judged"]


@pytest.mark.parametrize(
    ("line", "profile", "expected"),
    [
        ("stages.breif.with.maximum: 3", None, "the recipe has no mapping 'stages.breif'"),
        ("stages.breif.with.maximum: 3", "bad", "the recipe has no mapping 'stages.breif'"),
        ("stages.brief.with.maximun: 3", None, "toy.at_most has no option 'maximun'"),
        ("stages.brief.with.maximun: 3", "bad", "brief (toy.at_most): unknown option 'maximun'"),
        ("stages.brief.wiht.maximum: 3", None, "the recipe has no mapping 'stages.brief.wiht'"),
        ("stages.brief.need: a", None, "a stage has no key 'need'"),
        ("stages.brief.need: a", "bad", "unknown key 'need'"),
        ("models.m.dytpe: float32", None, "a model has no key 'dytpe'"),
        ("models.m.dytpe: float32", "bad", "model 'm': unknown key 'dytpe'"),
        ("stages.gone: null", None, "the recipe has no 'stages.gone' to remove"),
        ("maximum: 3", None, "'maximum' must be a path into the recipe"),
        ("profiles.small: 3", None, "'profiles' cannot be set"),
        ("stages.brief.with.maximum: x", "bad", "maximum must be an integer, got 'x'"),
        ("stages.brief.with: {maximum: 1, column: c, x: 1}", "bad", "unknown option 'x'"),
        ("stages.few: {uses: toy.mergee, needs: a}", "bad", "there is no stage 'toy.mergee'"),
        ("stages.brief.needs: gone", "bad", "stage 'brief' needs 'gone'"),
    ],
)
def test_mistakes_in_a_profile_are_at_its_own_line(
    tmp_path: Path, line: str, profile: str | None, expected: str
) -> None:
    text = f"{TEXT}  bad:\n    stages.brief.with.column: length\n    {line}\n"
    reported = [m for m in mistakes(tmp_path, text, profile=profile).splitlines() if expected in m]
    assert len(reported) == 1
    assert reported[0].startswith(f"/r.yaml:{text.count(chr(10))}: ")


def test_lines_inside_a_value_of_a_profile(tmp_path: Path) -> None:
    text = TEXT + "  bad:\n    stages.judged:\n      uses: toy.judge\n      needs: brief\n"
    text += "      with:\n        model: m\n        criteria: 3\n"
    message = mistakes(tmp_path, text, profile="bad")
    assert "/r.yaml:28: judged (toy.judge): criteria must be a list, got 3" in message


def test_a_value_of_an_unused_profile_is_checked_when_it_is_used(tmp_path: Path) -> None:
    """It may need files that are not on this machine."""
    text = f"{TEXT}  server:\n    stages.a.with.path: absent.txt\n"
    load(tmp_path, text)
    assert "/r.yaml:23: a (toy.load): there is no file" in mistakes(
        tmp_path, text, profile="server"
    )


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("[small]", "profiles must be a mapping, got ['small']"),
        ("{small: 3}", "profile 'small' must be a mapping of paths to values, got 3"),
        ("{small: null}", "profile 'small' must be a mapping of paths to values, got None"),
    ],
)
def test_profiles_of_the_wrong_form(tmp_path: Path, section: str, expected: str) -> None:
    text = f"{TEXT.split('profiles:')[0]}profiles: {section}\n"
    assert f"/r.yaml:10: {expected}" in mistakes(tmp_path, text)


def test_an_unknown_profile(tmp_path: Path) -> None:
    message = mistakes(tmp_path, TEXT, profile="smal")
    assert "the recipe has no profile 'smal'" in message
    assert "did you mean 'small'?" in message
    assert "there are: small, other_model" in mistakes(tmp_path, TEXT, profile="xyz")
    bare = TEXT.split("profiles:")[0]
    assert "the recipe has no profiles at all" in mistakes(tmp_path, bare, profile="small")


def test_a_mistake_in_an_override_names_the_override(tmp_path: Path) -> None:
    message = mistakes(tmp_path, TEXT, "stages.judged.with={model: m, criteria: 3}")
    assert "--set stages.judged.with: judged (toy.judge): criteria must be a list" in message
    message = mistakes(tmp_path, TEXT, "stages.brief.with.maximum=x", profile="small")
    assert "--set stages.brief.with.maximum: brief (toy.at_most): maximum must be" in message
