"""A recipe: a YAML file that names stages and wires them. `Recipe` is the same object in Python.

The loader is strict and tells all mistakes together, with file, line and the
nearest right name, before anything runs. There is no templating and no
inheritance: a recipe means what it says.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from pipeline.errors import RecipeErrors, UserError
from pipeline.models.base import Embedder, LanguageModel
from pipeline.models.budget import BudgetLimit, Price
from pipeline.recipe import graph
from pipeline.recipe.discovery import find
from pipeline.recipe.graph import Step
from pipeline.recipe.options import bind, build_model, numbers
from pipeline.recipe.problems import suggest
from pipeline.recipe.yaml_document import RecipeDocument, parse, set_value
from pipeline.stage import ROOT, Stage

NAME: Final = re.compile(r"[^./\\\0][^/\\\0]*")
T = TypeVar("T")
RECIPES: Final = ROOT / "pipeline" / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A checked graph: its steps in an order in which each follows what it needs.

    budget: what one run may use of language models; budgets: and single steps of it.
    """

    name: str
    path: Path | None
    steps: Mapping[str, Step]
    budget: BudgetLimit = field(default_factory=BudgetLimit)
    budgets: Mapping[str, BudgetLimit] = field(default_factory=dict)

    @classmethod
    def load(cls, reference: str, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe by path, or by the name of one in `pipeline/recipes/`.

        overrides: `stages.chosen.with.budget=500`, as on the command line.
        """
        path = locate(reference)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read", why=str(error)) from None
        document = parse(text, display(path))
        if str(path.parent) not in sys.path:
            # A stage of the user's own may lie beside the recipe that names it.
            sys.path.append(str(path.parent))
        for override in overrides:
            set_value(document, override)
        return cls._build(document, path)

    @classmethod
    def of(
        cls,
        name: str,
        stages: Mapping[str, Any],
        models: Mapping[str, Any] | None = None,
        **more: Mapping[str, Any],
    ) -> Recipe:
        """The same object from Python values; relative paths are the repository's.

        more: the sections `prices` and `budget`.
        """
        content = {"name": name, "models": dict(models or {}), "stages": dict(stages), **more}
        return cls._build(RecipeDocument(content, {}, name), None)

    @classmethod
    def _build(cls, document: RecipeDocument, path: Path | None) -> Recipe:
        builder = _Builder(document, path.parent if path else ROOT)
        # Steps that are right by themselves are wired even where others are not,
        # so that what is wrong between them is told at once.
        ordered = graph.topological_order(builder.steps(), builder.problems)
        steps = graph.wire_columns(ordered, builder.problems)
        if builder.problems:
            told = {str(problem) for problem in builder.problems}
            checked = [graph.wrong_options(step, step.options) for step in ordered]
            more = [problem for problem in checked if problem and str(problem) not in told]
            raise RecipeErrors([*builder.problems, *more])
        name = str(document.content["name"])
        return cls(name, path, steps, builder.budgets.pop(""), builder.budgets)


class _Builder:
    """Reads the sections of a document and collects everything that is wrong with them."""

    def __init__(self, document: RecipeDocument, folder: Path) -> None:
        self.document, self.folder = document, folder
        self.problems: list[UserError] = list(document.doubled)
        content = document.content
        sections = {"name": str, "models": dict, "stages": dict, "prices": dict, "budget": dict}
        self._known((), content, sections, ("name", "stages"))
        self._named(("name",), content.get("name"))
        self.models: dict[str, Any] = {}
        self._read_models(content.get("models"))
        self._read_prices(content.get("prices"))
        self.budgets = {"": self._allowance((), content)}

    def steps(self) -> dict[str, Step]:
        """The steps without a mistake of their own, unordered and not yet connected."""
        steps: dict[str, Step] = {}
        for name, raw in self._stages().items():
            before = len(self.problems)
            step = self._step(str(name), raw)
            if step and len(self.problems) == before:
                steps[step.name] = step
        return steps

    def _stages(self) -> dict[Any, Any]:
        stages = self.document.content.get("stages")
        return stages if isinstance(stages, dict) else {}

    def _named(self, place: tuple[str, ...], name: Any) -> None:
        """Names become names of files in the store."""
        if isinstance(name, str) and not NAME.fullmatch(name):
            self._problem(place, f"{name!r} is no name: it begins with a dot or holds a slash")

    def _problem(self, place: tuple[str, ...], what: str, hint: str | None = None) -> None:
        self.problems.append(UserError(what, where=self.document.where(place), hint=hint))

    def _known(
        self,
        place: tuple[str, ...],
        found: Any,
        allowed: Mapping[str, Any],
        required: Sequence[str] = (),
    ) -> bool:
        """Whether `found` is a mapping with allowed keys of the right types."""
        before = len(self.problems)
        if not isinstance(found, dict):
            self._problem(place, f"{'.'.join(place) or 'a recipe'} must be a mapping")
            return False
        for key, value in found.items():
            if key not in allowed:
                self._problem(
                    (*place, str(key)), f"unknown key {key!r}", suggest(str(key), allowed)
                )
            elif value is not None and not isinstance(value, allowed[key]):
                self._problem((*place, key), f"{key!r} has the wrong type: {value!r}")
        for key in required:
            if found.get(key) is None:
                self._problem(place, f"{'.'.join(place) or 'the recipe'} has no {key!r}")
        return len(self.problems) == before

    def _read_models(self, models: Any) -> None:
        for name, raw in (models if isinstance(models, dict) else {}).items():
            place = ("models", str(name))
            if not isinstance(raw, dict):
                self._problem(place, f"model {name!r} must be a mapping with engine and model")
                continue
            spec = dict(raw)
            maker = spec.pop("from", None)
            if maker is not None:
                spec.setdefault("model", "")
                self._exists((*place, "from"), f"model {name!r} is from", str(maker))
            model, problems = build_model(spec, self.folder)
            if model is not None and maker is not None:
                model = replace(model, made_by=str(maker))
            for problem in problems:
                self._problem(place, f"model {name!r}: {problem}")
            self.models[name] = model

    def _read_prices(self, prices: Any) -> None:
        for name, raw in (prices if isinstance(prices, dict) else {}).items():
            place = ("prices", str(name))
            price = self._typed(place, raw, Price)
            if name not in self.models:
                self._problem(place, f"there is no model {name!r}", suggest(name, self.models))
            elif isinstance(self.models[name], Embedder):
                self._problem(place, f"{name!r} is an embedder: only language models have a price")
            elif price is not None and self.models[name] is not None:
                self.models[name] = replace(self.models[name], price=price)

    def _allowance(self, place: tuple[str, ...], raw: Mapping[str, Any]) -> BudgetLimit:
        """What `budget` says at this place, if it is there."""
        place = (*place, "budget")
        found = self._typed(place, raw.get("budget") or {}, BudgetLimit) or BudgetLimit()
        priceless = [
            name
            for name, model in self.models.items()
            if isinstance(model, LanguageModel) and model.base_url and model.price is None
        ]
        if found.money is not None and priceless:
            self._problem(
                place,
                f"a budget in money, but the model {priceless[0]!r} has no price",
                f"prices: {{{priceless[0]}: {{prompt: 0.5, completion: 1.5}}}}, per million tokens",
            )
        return found

    def _typed(self, place: tuple[str, ...], raw: Any, kind: type[T]) -> T | None:
        """A mapping of numbers as the dataclass that it describes."""
        found, problems = numbers(raw, kind)
        for problem in problems:
            self._problem(place, f"{'.'.join(place)}: {problem}")
        return found

    def _exists(self, place: tuple[str, ...], what: str, needed: str) -> None:
        known = [str(name) for name in self._stages()]
        if needed not in known:
            self._problem(
                place, f"{what} {needed!r}, which the recipe does not have", suggest(needed, known)
            )

    def _step(self, name: str, raw: Any) -> Step | None:
        place = ("stages", name)
        self._named(place, name)
        allowed: dict[str, Any] = {
            "uses": str,
            "needs": (str, list, dict),
            "with": dict,
            "as": dict,
            "budget": dict,
        }
        if not self._known(place, raw, allowed, ("uses",)):
            return None
        try:
            stage = find(raw["uses"])
        except UserError as error:
            where = self.document.where((*place, "uses"))
            why = ": ".join(filter(None, (error.where, error.why))) or None
            self.problems.append(UserError(error.what, where=where, why=why, hint=error.hint))
            return None
        given = raw.get("with") or {}
        options, problems = bind(stage, given, self.models, self.folder)
        for path, what, hint in problems:
            self._problem((*place, "with", *path), f"{name} ({stage.name}): {what}", hint)
        self.budgets[name] = self._allowance(place, raw)
        return Step(
            name=name,
            stage=stage,
            options=options,
            needs=self._needs(place, stage, raw.get("needs")),
            rename=self._rename(place, raw.get("as") or {}),
            where=self.document.where(place),
            locate=lambda keys: self.document.where((*place, *keys)),
        )

    def _rename(self, place: tuple[str, ...], raw: Mapping[Any, Any]) -> dict[str, str]:
        for old, new in raw.items():
            if not isinstance(new, str) or not new:
                self._problem(
                    (*place, "as"), f"'as' gives {old!r} the name {new!r}, which is no text"
                )
        return {str(old): str(new) for old, new in raw.items()}

    def _needs(self, place: tuple[str, ...], stage: Stage, raw: Any) -> dict[str, list[str]]:
        """The connected steps by edge: a name or a list goes to the first edge."""
        edges = {edge.name: edge for edge in stage.edges}
        if isinstance(raw, str | list):
            if not edges:
                self._problem((*place, "needs"), f"{stage.name} takes no input")
                return {}
            raw = {stage.edges[0].name: raw}
        needs: dict[str, list[str]] = {}
        for name, value in (raw or {}).items():
            names = [str(v) for v in value] if isinstance(value, list) else [str(value)]
            if name not in edges:
                self._problem(
                    (*place, "needs"),
                    f"{stage.name} has no edge {name!r}",
                    suggest(str(name), edges),
                )
            elif len(names) > 1 and not edges[name].many:
                self._problem((*place, "needs"), f"{stage.name}: edge {name!r} takes one input")
            else:
                needs[name] = names
                for needed in names:
                    self._exists((*place, "needs"), f"stage {place[-1]!r} needs", needed)
        for edge in edges.values():
            if edge.name not in needs and not edge.optional:
                self._problem(place, f"{stage.name} needs an input for {edge.name!r}")
        return needs


def locate(reference: str) -> Path:
    """The recipe's file: a path, or a name in `pipeline/recipes/`.

    Raises UserError with the nearest names when there is none.
    """
    path = Path(reference)
    if path.is_file():
        return path.resolve()
    named = RECIPES / f"{reference}.yaml"
    if named.is_file():
        return named
    known = sorted(p.stem for p in RECIPES.glob("*.yaml"))
    raise UserError(f"there is no recipe {reference!r}", hint=suggest(reference, known))


def display(path: Path) -> str:
    """A path as a person knows it: relative to where they stand or to the repository."""
    for base in (Path.cwd(), ROOT):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)
