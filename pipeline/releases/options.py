"""The section `publish` of the recipe that made a release."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import RecipeErrors, UserError
from pipeline.recipe.profiles import apply_profile
from pipeline.recipe.publication import Publish, read_publish
from pipeline.recipe.yaml_document import apply_override, parse
from schemas.release import Release


def publication_of(release: Release, folder: Path | None = None) -> Publish:
    """The section `publish` of the recipe that made a release; the defaults where it has none.

    Args:
        release: The release.
        folder: Where its files are looked for: the recipe's folder.

    Raises:
        RecipeErrors: The section has mistakes.
    """
    recipe = release["recipe"]
    document = parse(recipe["text"], f"{recipe['name']} of {release['name']}")
    if recipe["profile"] is not None:
        apply_profile(document, recipe["profile"])
    for override in recipe["overrides"]:
        apply_override(document, override)
    stages = document.content.get("stages") or {}
    raw = document.content.get("publish")
    section, problems = read_publish(raw, folder or Path.cwd(), [*stages])
    if problems:
        where = [document.where(("publish", *problem.path)) for problem in problems]
        pairs = zip(problems, where, strict=True)
        here = "name the recipe instead of the release, or stand in the recipe's folder"
        raise RecipeErrors([UserError(p.what, where=w, hint=p.hint or here) for p, w in pairs])
    return section
