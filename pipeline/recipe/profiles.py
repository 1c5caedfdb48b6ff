"""Profiles: variants of a recipe in the recipe itself, such as a small form for two cores.

    profiles:
      tiny:
        models.writer: {engine: transformers, model: data/models/tinylm}
        stages.evolved.with.rounds: 2
        stages.sample: {uses: select.random, needs: pool, with: {budget: 12}}

A profile maps paths to values, as `--set` does: a value replaces what stands at its path,
a stage or model that is not there yet is added, and null removes one. `--profile tiny`
applies it before any `--set`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.hints import suggest
from pipeline.models.base import Embedder, LanguageModel
from pipeline.recipe.discovery import find
from pipeline.recipe.publication import Gate, Publish
from pipeline.recipe.refreshing import Refresh
from pipeline.recipe.yaml_document import RecipeDocument

STAGE_KEYS: Final[dict[str, Any]] = {
    "uses": str, "needs": (str, list, dict), "with": dict, "as": dict, "budget": dict,
}  # fmt: skip
"""The keys of a stage in a recipe, with their types."""


def profiles_of(document: RecipeDocument) -> dict[str, Any]:
    """The profiles of a recipe by name; empty where it has none."""
    section = document.content.get("profiles")
    return {str(k): v for k, v in section.items()} if isinstance(section, dict) else {}


def apply_profile(document: RecipeDocument, name: str) -> None:
    """Apply a profile; mistakes in its paths go to the document's problems.

    Args:
        document: The document to change.
        name: One of its profiles.

    Raises:
        UserError: The recipe has no such profile.
    """
    profiles = profiles_of(document)
    if name not in profiles:
        hint = suggest(name, profiles) or "the recipe has no profiles at all"
        raise UserError(f"the recipe has no profile {name!r}", where=document.file, hint=hint)
    document.problems += _apply(document, name, profiles[name])


def check_profiles(document: RecipeDocument, selected: str | None) -> None:
    """Add wrong paths of the profiles that are not selected to the document's problems.

    Their values are checked only once they are selected: they may need files or modules
    that are not on this machine.

    Args:
        document: The document before any profile is applied.
        selected: The profile to leave out, since applying it reports its mistakes.
    """
    for name, raw in profiles_of(document).items():
        if name != selected:
            variant = document.copy()
            document.problems += _apply(variant, name, raw)
            for path in raw if isinstance(raw, dict) else ():
                unknown = _unknown_key(variant, str(path).split("."))
                if unknown:
                    what, hint = unknown
                    where = document.where(("profiles", name, str(path)))
                    what = f"profile {name!r}: {what}"
                    document.problems.append(UserError(what, where=where, hint=hint))


def _apply(document: RecipeDocument, name: str, raw: Any) -> list[UserError]:
    """Change the document as the profile says; the mistakes in its paths."""
    here = ("profiles", name)
    if not isinstance(raw, dict):
        what = f"profile {name!r} must be a mapping of paths to values, got {raw!r}"
        return [UserError(what, where=document.where(here))]
    problems = []
    for path, value in raw.items():
        at = (*here, str(path))
        below = {k[3:]: line for k, line in document.locations.items() if k[:3] == at and k != at}
        try:
            document.put(str(path), value, document.where(at), below)
        except UserError as error:
            what = f"profile {name!r}: {error.what}"
            problems.append(UserError(what, where=error.where, hint=error.hint))
    return problems


def _unknown_key(document: RecipeDocument, keys: Sequence[str]) -> tuple[str, str | None] | None:
    """What is wrong with the last keys of a path that leads into the document, with a hint."""
    if keys[0] == "publish":
        return _unknown_publish_key(keys[1:])
    if keys[0] == "refresh":
        names = [f.name for f in fields(Refresh)]
        wrong = [key for key in keys[1:2] if key not in names]
        return (f"refresh has no key {wrong[0]!r}", suggest(wrong[0], names)) if wrong else None
    if len(keys) < 3:
        return None
    section, name, key, *inner = keys
    entry = document.content.get(section)
    raw = entry.get(name) if isinstance(entry, Mapping) else None
    if section == "stages" and key not in STAGE_KEYS:
        return f"a stage has no key {key!r}", suggest(key, STAGE_KEYS)
    if section == "stages" and key == "with" and inner and isinstance(raw, dict):
        options = _options(raw.get("uses"))
        if options and inner[0] not in options:
            return f"{raw['uses']} has no option {inner[0]!r}", suggest(inner[0], options)
    if section == "models":
        model_keys = {f.name for kind in (LanguageModel, Embedder) for f in fields(kind)}
        valid = (model_keys - {"made_by", "price"}) | {"from"}
        if key not in valid:
            return f"a model has no key {key!r}", suggest(key, sorted(valid))
    return None


def _unknown_publish_key(keys: Sequence[str]) -> tuple[str, str | None] | None:
    names = [f.name for f in fields(Gate if keys[:1] == ["gate"] else Publish)]
    name = keys[1:2] if keys[:1] == ["gate"] else keys[:1]
    if name and name[0] not in names:
        return f"{'publish.gate' if len(keys) > 1 else 'publish'} has no key {name[0]!r}", suggest(
            name[0], names
        )
    return None


def _options(uses: Any) -> list[str]:
    """The options of a stage; empty where it cannot be found."""
    try:
        return [option.name for option in find(str(uses)).options]
    except UserError:
        return []
