"""The section `publish` of a recipe: strict, with lines, and no part of what rows are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import RecipeErrors
from pipeline.execution.plan import plan
from pipeline.recipe.publication import Gate, Publish
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import create
from pipeline.releases.options import publication_of
from pipeline.store.store import Store
from tests.support.running import pool, run, toys

STAGES = """\
name: good
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  b: {uses: toy.length, needs: a, with: {plus: 1}}
"""
PUBLISH = """\
publish:
  to: hf://org/name
  takedown: list.txt
  gate: {licenses: [MIT], certificate: false, held_out: [a], personal: refuse, max_rows: 10}
"""


def load(folder: Path, text: str, *overrides: str, profile: str | None = None) -> Recipe:
    pool(folder / "rows.txt", 4)
    (folder / "list.txt").write_text("# nobody\n")
    path = folder / "r.yaml"
    path.write_text(toys(text))
    return Recipe.load(str(path), overrides, profile)


def test_what_a_recipe_says_is_what_the_gate_gets(tmp_path: Path) -> None:
    section = load(tmp_path, STAGES + PUBLISH).publish
    assert (section.to, section.file("takedown")) == ("hf://org/name", tmp_path / "list.txt")
    assert section.gate == Gate(
        licenses=("MIT",), certificate=False, held_out=("a",), personal="refuse", max_rows=10
    )
    assert load(tmp_path, STAGES).publish == Publish()
    assert load(tmp_path, STAGES + "publish: {gate: null}\n").publish == Publish()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("publish: 3\n", 5, "publish must be a mapping, got 3"),
        ("publish:\n  too: hf://a/b\n", 6, "did you mean 'to'?"),
        ("publish:\n  to: ftp://a/b\n", 6, "to must be hf://ORG/NAME"),
        ("publish:\n  to: hf://a\n", 6, "to must be hf://ORG/NAME"),
        ("publish:\n  card: none.jinja\n", 6, "card: there is no file none.jinja"),
        ("publish:\n  gate:\n    secret: warn\n", 7, "did you mean 'secrets'?"),
        ("publish:\n  gate:\n    secrets: no\n", 7, "secrets must be 'refuse', 'warn' or 'ignore'"),
        ("publish:\n  gate:\n    max_rows: 0\n", 7, "max_rows must be at least 1, got 0"),
        ("publish:\n  gate:\n    held_out: [c]\n", 7, "the recipe has no stage 'c'"),
        ("publish:\n  gate:\n    phone_regions: [UK]\n", 7, "must be countries such as US"),
        ("profiles:\n  p:\n    publish.gate.secret: warn\n", 7, "did you mean 'secrets'?"),
    ],
)
def test_mistakes_are_reported_at_their_lines(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    with pytest.raises(RecipeErrors) as caught:
        load(tmp_path, STAGES + text)
    assert f"r.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)


def test_it_is_no_part_of_any_fingerprint(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    plain = load(tmp_path, STAGES)
    run(plain, store.root)
    for recipe in (
        load(tmp_path, STAGES + PUBLISH),
        load(tmp_path, STAGES + PUBLISH, "publish.gate.secrets=warn"),
    ):
        assert {planned.state for planned in plan(recipe, store)} == {"cached"}
        assert recipe.digest == plain.digest


def test_profiles_and_set_change_it(tmp_path: Path) -> None:
    text = STAGES + "profiles: {strict: {publish.gate.personal: refuse, publish.to: null}}\n"
    recipe = load(tmp_path, text, "publish.gate.min_rows=3", profile="strict")
    assert recipe.publish == Publish(gate=Gate(personal="refuse", min_rows=3))


def test_a_release_is_published_by_the_rules_that_it_was_made_with(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    recipe = load(tmp_path, STAGES + PUBLISH, "publish.gate.min_rows=2")
    run(recipe, store.root)
    release = create(recipe, store).release
    (tmp_path / "r.yaml").write_text(toys(STAGES))
    assert publication_of(release, tmp_path) == recipe.publish
