"""A recipe: a YAML file that names stages and wires them. `Recipe` is the same object in Python.

The loader is strict and reports all mistakes together, with file, line and the
nearest right name, before anything runs. There is no templating and no inheritance
between files: a recipe and its profiles mean what they say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline import DEFAULT_STORE, ROOT
from pipeline.errors import RecipeErrors, UserError, command_line
from pipeline.hints import display, suggest
from pipeline.models.budget import DEFAULT_CURRENCY, BudgetLimit
from pipeline.recipe import graph
from pipeline.recipe.builder import Builder
from pipeline.recipe.graph import Step
from pipeline.recipe.profiles import apply_profile, check_profiles, profiles_of
from pipeline.recipe.publication import Publish
from pipeline.recipe.refreshing import Refresh
from pipeline.recipe.yaml_document import (
    MAX_CHARACTERS,
    RecipeDocument,
    apply_override,
    parse,
)
from pipeline.store.hashing import digest

RECIPES: Final = ROOT / "pipeline" / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A checked graph: its steps in an order in which each follows what it needs.

    Args:
        name: The name under which the store keeps its history.
        path: The file, None for a recipe from Python values.
        steps: The steps by name.
        budget: What one run may use of language models.
        budgets: What single steps may use of it.
        currency: That of its prices.
        profiles: The profiles that the recipe has.
        profile: The one that is applied.
        overrides: What `--set` changed after it.
        text: The file as it is; of a recipe from Python values, these as JSON.
        publish: Where a release goes, and what it must be before.
        refresh: When a refresh stops instead of releasing.
        limit: Of a preview, the rows that each stage gets which asks a language model.
        digest: Stands for what the recipe says: its stages, models and prompts with the profile
            and the overrides applied.
    """

    name: str
    path: Path | None
    steps: Mapping[str, Step]
    budget: BudgetLimit = field(default_factory=BudgetLimit)
    budgets: Mapping[str, BudgetLimit] = field(default_factory=dict)
    currency: str = DEFAULT_CURRENCY
    profiles: tuple[str, ...] = ()
    profile: str | None = None
    overrides: tuple[str, ...] = ()
    text: str = field(default="", repr=False)
    publish: Publish = field(default_factory=Publish)
    refresh: Refresh = field(default_factory=Refresh)
    digest: str = ""
    limit: int | None = None

    @classmethod
    def load(
        cls, reference: str, overrides: Sequence[str] = (), profile: str | None = None
    ) -> Recipe:
        """Read a recipe.

        Args:
            reference: Its path, or the name of one in `pipeline/recipes/`.
            overrides: `stages.chosen.with.budget=500`, as after `--set`; applied last.
            profile: The profile to apply.

        Raises:
            UserError: There is no such file or profile, or it is no YAML.
            RecipeErrors: The recipe has mistakes.
        """
        path = locate(reference)
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(MAX_CHARACTERS + 1)  # one more than `parse` takes
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read", why=str(error)) from None
        if str(path.parent) not in sys.path:
            # A stage of the user's own may lie beside the recipe that names it.
            sys.path.append(str(path.parent))
        return cls.from_text(text, path, overrides, profile)

    @classmethod
    def from_text(
        cls, text: str, path: Path, overrides: Sequence[str] = (), profile: str | None = None
    ) -> Recipe:
        """The recipe of a text.

        Args:
            text: The recipe.
            path: The file that holds it; relative paths are looked for beside it first.
            overrides: As for `load`.
            profile: As for `load`.

        Raises:
            UserError: There is no such profile, or it is no YAML.
            RecipeErrors: The recipe has mistakes.
        """
        document = document_of(text, display(path), overrides, profile)
        applied = {"profile": profile, "overrides": tuple(overrides)}
        return cls._build(document, path, text=text, **applied)

    @classmethod
    def of(
        cls,
        name: str,
        stages: Mapping[str, Any],
        models: Mapping[str, Any] | None = None,
        **more: Mapping[str, Any],
    ) -> Recipe:
        """The same object from Python values; relative paths are the repository's.

        Args:
            name: The recipe's name.
            stages: The section `stages`.
            models: The section `models`.
            more: The sections `prices`, `budget`, `publish`, `refresh` and `prompts`.

        Raises:
            RecipeErrors: The recipe has mistakes.
        """
        content = {"name": name, "models": dict(models or {}), "stages": dict(stages), **more}
        text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
        return cls._build(RecipeDocument(content, {}, name), None, text=text)

    @classmethod
    def _build(cls, document: RecipeDocument, path: Path | None, **applied: Any) -> Recipe:
        builder = Builder(document, path.parent if path else ROOT)
        # Steps that are right by themselves are wired even where others are not,
        # so that mistakes between them are reported at once.
        ordered = graph.topological_order(builder.steps(), builder.problems)
        steps = graph.wire_columns(ordered, builder.problems)
        if builder.problems:
            reported = {str(problem) for problem in builder.problems}
            checked = [graph.wrong_options(step, step.options) for step in ordered]
            more = [problem for problem in checked if problem and str(problem) not in reported]
            raise RecipeErrors([*builder.problems, *more])
        name, budgets = str(document.content["name"]), builder.budgets
        profiles = tuple(profiles_of(document))
        applied |= {"publish": builder.publish, "refresh": builder.refresh}
        applied["digest"] = _digest(document.content, applied, steps)
        limits = budgets.pop(""), budgets, builder.currency
        return cls(name, path, steps, *limits, profiles, **applied)

    @property
    def folder(self) -> Path:
        """Where relative paths are looked for first."""
        return self.path.parent if self.path else ROOT

    def history(self, parts: Mapping[str, Any] | None) -> str:
        """The name under which the store lists the artifacts of a stage: previews by themselves.

        Args:
            parts: What the fingerprint is a digest of; None where that is not known yet.
        """
        limited = self.limit is not None and (parts is None or "limit" in parts)
        # No recipe has a name that begins with a dot.
        return f".{self.name}.limit-{self.limit}" if limited else self.name

    def step(self, name: str) -> Step:
        """The step of this name.

        Raises:
            UserError: The recipe has none.
        """
        if name not in self.steps:
            hint = suggest(name, self.steps)
            raise UserError(f"the recipe has no stage {name!r}", hint=hint)
        return self.steps[name]

    def command(self, verb: str, *words: str, store: Path = DEFAULT_STORE) -> str:
        """The command line of another verb on this recipe, for hints.

        Args:
            verb: For example "run".
            words: What follows the recipe.
            store: The store of the run.

        Returns:
            A line that can be pasted: profile, overrides and store are those of this call.
        """
        options = ["--profile", self.profile] if self.profile else []
        options += [word for override in self.overrides for word in ("--set", override)]
        options += ["--limit", str(self.limit)] if self.limit is not None else []
        return command_line(verb, self._reference(), *words, *options, store=store)

    def _reference(self) -> str:
        """The recipe as the command line takes it from where its user stands."""
        if self.path is None:
            return self.name
        if self.path.parent == RECIPES:
            return self.path.stem
        inside = self.path.is_relative_to(Path.cwd())
        return str(self.path.relative_to(Path.cwd()) if inside else self.path)


def _digest(
    content: Mapping[str, Any], applied: Mapping[str, Any], steps: Mapping[str, Step]
) -> str:
    """What stands for stages, models and prompts, and for what changed them."""
    sections = {name: content.get(name) or {} for name in ("stages", "models")}
    # Where a release goes is no part of what it is, and prompts are known by what they say.
    without = ("publish.", "refresh.", "prompts.")
    overrides = [o for o in applied.get("overrides", ()) if not o.startswith(without)]
    identity: list[Any] = [sections, applied.get("profile"), overrides]
    prompts = {one.name: one.digest for step in steps.values() for one in step.stage.prompts}
    identity += [prompts] if prompts else []
    # YAML has values, such as dates, that JSON has not.
    return digest(json.loads(json.dumps(identity, default=str)))


def document_of(
    text: str, shown: str, overrides: Sequence[str] = (), profile: str | None = None
) -> RecipeDocument:
    """What a recipe says, with profile and overrides applied.

    Args:
        text: The recipe.
        shown: The name of its file, for messages.
        overrides: As after `--set`; applied last.
        profile: The profile to apply.

    Raises:
        UserError: There is no such profile, or it is no YAML.
    """
    document = parse(text, shown)
    check_profiles(document, profile)
    if profile is not None:
        apply_profile(document, profile)
    for override in overrides:
        apply_override(document, override)
    return document


def locate(reference: str) -> Path:
    """The recipe's file: a path, or a name in `pipeline/recipes/`.

    Raises:
        UserError: There is none; the hint has the nearest names.
    """
    path, named = Path(reference), RECIPES / f"{reference}.yaml"
    try:
        if path.is_file():
            return path.resolve()
        if named.is_file():
            return named
    except OSError as error:  # a name that is too long, or links in a circle
        what = f"there is no recipe {reference[:80]!r}"
        raise UserError(what, why=error.strerror) from None
    names = sorted(p.stem for p in RECIPES.glob("*.yaml"))
    raise UserError(f"there is no recipe {reference!r}", hint=suggest(reference, names))
