"""From a recipe's document to models, budgets and steps, with all mistakes collected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from pipeline.errors import Exit, UserError
from pipeline.hints import suggest
from pipeline.models.base import Embedder, LanguageModel
from pipeline.models.budget import DEFAULT_CURRENCY, BudgetLimit, Price
from pipeline.recipe.discovery import find
from pipeline.recipe.graph import Step
from pipeline.recipe.options import bind, build_model, limits
from pipeline.recipe.problems import Problem, as_written, merged
from pipeline.recipe.profiles import STAGE_KEYS
from pipeline.recipe.prompts import read_prompts, with_prompts
from pipeline.recipe.publication import Publish, read_publish
from pipeline.recipe.refreshing import Refresh, read_refresh
from pipeline.recipe.renamed import renamed_hint
from pipeline.recipe.yaml_document import KeyPath, RecipeDocument
from pipeline.stage import Stage

T = TypeVar("T")
NAME: Final = re.compile(r"[^./\\\0][^/\\\0]*")
MAX_NAME: Final = 200
"""Bytes of a name, which becomes that of a file: file systems allow 255 with a suffix."""
STAGE_NAME: Final = re.compile(r"[^\W\d][\w-]*")
SECTIONS: Final[dict[str, Any]] = {
    "name": str, "models": dict, "stages": dict, "prices": dict, "budget": dict, "profiles": dict,
    "publish": dict, "refresh": dict, "prompts": dict,
}  # fmt: skip
_TYPE_NAMES: Final = {str: "a text", list: "a list", dict: "a mapping"}


def checkpoint_names(options: Any) -> list[str]:
    """What the checkpoints are called that a training keeps, by its option `checkpoints`.

    Args:
        options: The options of the step that trains.

    Example:
        >>> from types import SimpleNamespace
        >>> checkpoint_names(SimpleNamespace(checkpoints=(1, 3)))
        ['epoch-1', 'epoch-3']
    """
    return [f"epoch-{epoch}" for epoch in getattr(options, "checkpoints", ())]


class Builder:
    """Reads the sections of a document.

    Args:
        document: The recipe, with its profile and overrides applied.
        folder: Where relative paths are looked for first; then in the repository.

    Attributes:
        problems: All mistakes so far.
        models: The models by name, None for one with a mistake.
        budgets: What the run may use (under the empty name) and single steps of it.
        currency: That of the prices.
        publish: Where a release goes, and what it must be before.
        refresh: When a refresh stops instead of releasing.
    """

    def __init__(self, document: RecipeDocument, folder: Path) -> None:
        self.document, self.folder = document, folder
        self.problems: list[UserError] = list(document.problems)
        content = document.content
        self._check_mapping((), content, SECTIONS, ("name", "stages"))
        self._check_name(("name",), content.get("name"))
        self.models: dict[str, Any] = {}
        self._read_models(content.get("models"))
        self._read_prices(content.get("prices"))
        self._read_fallbacks(content.get("models"))
        self.budgets = {"": self._budget((), content)}
        self.publish = self._publish(content.get("publish"))
        self.refresh = self._refresh(content.get("refresh"))

    def steps(self) -> dict[str, Step]:
        """The steps without a mistake of their own, unordered and not yet connected."""
        steps: dict[str, Step] = {}
        for name, raw in self._stages().items():
            before = len(self.problems)
            self._check_stage_name(name)
            step = self._step(str(name), raw)
            if step and len(self.problems) == before:
                steps[step.name] = step
        self._check_checkpoints(steps)
        return self._with_prompts(steps)

    def _check_checkpoints(self, steps: Mapping[str, Step]) -> None:
        """A checkpoint that a training does not keep is known before the training."""
        for name, model in self.models.items():
            checkpoint = getattr(model, "checkpoint", None)
            if checkpoint is None or model.made_by not in steps:
                continue
            kept = checkpoint_names(steps[model.made_by].options)
            if checkpoint not in kept:
                what = f"{model.made_by} keeps no checkpoint {checkpoint!r}"
                why = f"it keeps {', '.join(kept)}" if kept else "it keeps none"
                hint = f"{why}; its option `checkpoints` names epochs"
                self._problem(("models", name, "checkpoint"), what, hint)

    def _with_prompts(self, steps: dict[str, Step]) -> dict[str, Step]:
        """The steps with the recipe's templates in the place of their prompts."""
        raw = self.document.content.get("prompts")
        if not isinstance(raw, dict):
            return steps
        stages = {step.stage.name: step.stage for step in steps.values()}
        complete = len(steps) == len(self._stages())
        templates, problems = read_prompts(raw, self.folder, [*stages.values()], complete=complete)
        self._add(("prompts",), "prompts", problems)
        own = {name: with_prompts(stage, templates) for name, stage in stages.items()}
        return {
            name: replace(step, stage=replace(step.stage, prompts=own[step.stage.name]))
            for name, step in steps.items()
        }

    def _stages(self) -> dict[Any, Any]:
        stages = self.document.content.get("stages")
        return stages if isinstance(stages, dict) else {}

    def _check_name(self, key_path: KeyPath, name: Any) -> None:
        """Names become names of files in the store."""
        if isinstance(name, str) and len(name.encode()) > MAX_NAME:
            what = f"a name must have at most {MAX_NAME} bytes, got {name[:40]!r} and more"
            self._problem(key_path, what)
        elif isinstance(name, str) and not NAME.fullmatch(name):
            what = f"a name must not begin with a dot or contain a slash, got {name!r}"
            self._problem(key_path, what)

    def _check_stage_name(self, name: Any) -> None:
        """Names of stages are words of paths, of commands and of file names."""
        if isinstance(name, str) and len(name.encode()) > MAX_NAME:
            self._check_name(("stages", name), name)
        elif not isinstance(name, str) or not STAGE_NAME.fullmatch(name):
            what = "a stage's name must be a letter or _, followed by letters, digits, _ or -"
            self._problem(("stages", str(name)), f"{what}, got {as_written(name)}")

    def _problem(
        self, key_path: KeyPath, what: str, hint: str | None = None, code: Exit = Exit.MISTAKE
    ) -> None:
        where = self.document.where(key_path)
        self.problems.append(UserError(what, where=where, hint=hint, code=code))

    def _add(self, key_path: KeyPath, subject: str, problems: Sequence[Problem]) -> None:
        """Report problems below a key, each at its own line; the subject may be empty."""
        for problem in problems:
            what = f"{subject}: {problem.what}" if subject else problem.what
            code = Exit.SOURCE_LOST if problem.kind == "no_file" else Exit.MISTAKE
            self._problem((*key_path, *problem.path), what, problem.hint, code)

    def _check_mapping(
        self,
        key_path: KeyPath,
        raw: Any,
        allowed: Mapping[str, Any],
        required: Sequence[str] = (),
    ) -> bool:
        """Whether `raw` is a mapping with allowed keys of the right types."""
        before = len(self.problems)
        subject = ".".join(key_path) or "the recipe"
        if not isinstance(raw, dict):
            self._problem(key_path, f"{subject} must be a mapping, got {raw!r}")
            return False
        names: list[Problem] = []
        for key, value in raw.items():
            below = (*key_path, str(key))
            if key not in allowed:
                hint = suggest(str(key), allowed)
                names.append(Problem((str(key),), f"unknown key {key!r}", hint, "unknown"))
            elif value is not None and not isinstance(value, allowed[key]):
                kinds = allowed[key] if isinstance(allowed[key], tuple) else (allowed[key],)
                expected = " or ".join(_TYPE_NAMES[kind] for kind in kinds)
                self._problem(below, f"{'.'.join(below)} must be {expected}, got {value!r}")
        for key in required:
            if raw.get(key) is None:
                names.append(Problem((key,), f"{subject} has no {key!r}", kind="missing"))
        self._add(key_path, "", merged(names))
        return len(self.problems) == before

    def _read_models(self, models: Any) -> None:
        for name, raw in (models if isinstance(models, dict) else {}).items():
            key_path = ("models", str(name))
            if not isinstance(raw, dict):
                what = f"model {name!r} must be a mapping with engine and model, got {raw!r}"
                self._problem(key_path, what)
                continue
            spec = dict(raw)
            maker = spec.pop("from", None)
            spec.pop("fallback", None)  # once all models are known
            if maker is not None:
                spec.setdefault("model", "")
                self._check_exists((*key_path, "from"), f"model {name!r} is from", str(maker))
            model, problems = build_model(spec, self.folder)
            if maker is None and spec.get("checkpoint") is not None:
                what = f"model {name!r} has a checkpoint, but no `from`"
                self._problem((*key_path, "checkpoint"), what, "name the step that trained it")
            if model is not None and maker is not None:
                model = replace(model, made_by=str(maker))
            self._add(key_path, f"model {name!r}", problems)
            self.models[str(name)] = model

    def _read_prices(self, prices: Any) -> None:
        currencies: dict[str, str] = {}
        for name, raw in (prices if isinstance(prices, dict) else {}).items():
            key_path = ("prices", str(name))
            price = self._limits(key_path, raw, Price)
            model = self.models.get(str(name))
            if str(name) not in self.models:
                hint = suggest(str(name), self.models)
                self._problem(key_path, f"there is no model {name!r}", hint)
            elif isinstance(model, Embedder):
                what = f"a price must be of a language model, got the embedder {name!r}"
                self._problem(key_path, what)
            elif price is not None and model is not None:
                self.models[str(name)] = replace(model, price=price)
            if price is not None:
                currencies.setdefault(price.currency, str(name))
        if len(currencies) > 1:
            uses = " and ".join(f"{code} ({name})" for code, name in currencies.items())
            what = f"all prices of a recipe must be in one currency, got {uses}"
            self._problem(("prices",), what, "convert them; `currency` is USD where it is left out")
        self.currency = next(iter(currencies), DEFAULT_CURRENCY)

    def _read_fallbacks(self, models: Any) -> None:
        """The model that each `fallback` names, with its own price."""
        named = {
            str(name): raw["fallback"]
            for name, raw in (models if isinstance(models, dict) else {}).items()
            if isinstance(raw, dict) and raw.get("fallback") is not None
        }
        before = dict(self.models)
        for name, second in named.items():
            key_path = ("models", name, "fallback")
            model, fallback = before.get(name), before.get(str(second))
            if not isinstance(second, str):
                self._problem(key_path, f"fallback must be the name of a model, got {second!r}")
            elif second not in before:
                hint = suggest(str(second), before)
                self._problem(key_path, f"there is no model {second!r}", hint)
            elif isinstance(model, Embedder) or isinstance(fallback, Embedder):
                what = "fallback must be of a language model and name another one"
                self._problem(key_path, f"{what}, got the embedder {second!r}")
            elif second == name or second in named:
                what = f"fallback must name another model without a fallback, got {second!r}"
                self._problem(key_path, what)
            elif model is not None and fallback is not None:
                self.models[name] = replace(model, fallback=fallback)

    def _budget(self, key_path: KeyPath, raw: Mapping[str, Any]) -> BudgetLimit:
        """The `budget` among these keys; without limits where there is none."""
        key_path = (*key_path, "budget")
        budget = self._limits(key_path, raw.get("budget") or {}, BudgetLimit) or BudgetLimit()
        if budget.per is not None and budget == BudgetLimit(per=budget.per):
            self._problem(
                (*key_path, "per"),
                "a budget must limit requests, tokens or money, got `per` alone",
                f"budget: {{requests: 1000, per: {budget.per}}}",
            )
        priceless = [
            name
            for name, model in self.models.items()
            if isinstance(model, LanguageModel) and model.base_url and model.price is None
        ]
        if budget.money is not None and priceless:
            self._problem(
                key_path,
                f"a budget in money needs prices, but the model {priceless[0]!r} has no price",
                f"prices: {{{priceless[0]}: {{prompt: 0.5, completion: 1.5}}}}, per million tokens",
            )
        return budget

    def _limits(self, key_path: KeyPath, raw: Any, kind: type[T]) -> T | None:
        """A mapping of numbers as the dataclass that it describes."""
        value, problems = limits(raw, kind)
        self._add(key_path, ".".join(key_path), problems)
        return value

    def _publish(self, raw: Any) -> Publish:
        if not isinstance(raw, dict):
            return Publish()
        section, problems = read_publish(raw, self.folder, [str(name) for name in self._stages()])
        self._add(("publish",), "publish", merged(problems))
        return section

    def _refresh(self, raw: Any) -> Refresh:
        section, problems = read_refresh(raw if isinstance(raw, dict) else None)
        self._add(("refresh",), "refresh", merged(problems))
        return section

    def _check_exists(self, key_path: KeyPath, subject: str, needed: str) -> None:
        names = [str(name) for name in self._stages()]
        if needed not in names:
            what = f"{subject} {needed!r}, which the recipe does not have"
            self._problem(key_path, what, suggest(needed, names))

    def _step(self, name: str, raw: Any) -> Step | None:
        key_path = ("stages", name)
        if not self._check_mapping(key_path, raw, STAGE_KEYS, ("uses",)):
            return None
        try:
            stage = find(raw["uses"])
        except UserError as error:
            where = self.document.where((*key_path, "uses"))
            why = ": ".join(filter(None, (error.where, error.why))) or None
            self.problems.append(UserError(error.what, where=where, why=why, hint=error.hint))
            return None
        options, problems = bind(stage, raw.get("with") or {}, self.models, self.folder)
        self._add((*key_path, "with"), f"{name} ({stage.name})", problems)
        self.budgets[name] = self._budget(key_path, raw)
        return Step(
            name=name,
            stage=stage,
            options=options,
            needs=self._needs(key_path, stage, raw.get("needs")),
            rename=self._rename(key_path, raw.get("as") or {}),
            where=self.document.where(key_path),
            locate=lambda keys: self.document.where((*key_path, *keys)),
        )

    def _rename(self, key_path: KeyPath, raw: Mapping[Any, Any]) -> dict[str, str]:
        for old, new in raw.items():
            if not isinstance(new, str) or not new:
                what = f"the new name of {old!r} must be a text, got {new!r}"
                self._problem((*key_path, "as", str(old)), what)
        return {str(old): str(new) for old, new in raw.items()}

    def _needs(self, key_path: KeyPath, stage: Stage, raw: Any) -> dict[str, list[str]]:
        """The connected steps by edge: a name or a list goes to the first edge."""
        edges = {edge.name: edge for edge in stage.edges}
        here = (*key_path, "needs")
        if isinstance(raw, str | list):
            if not edges:
                self._problem(here, f"{stage.name} takes no input")
                return {}
            raw = {stage.edges[0].name: raw}
        needs: dict[str, list[str]] = {}
        problems: list[Problem] = []
        for name, value in (raw or {}).items():
            names = [str(v) for v in value] if isinstance(value, list) else [str(value)]
            below = (*here, str(name))
            if name not in edges:
                what = f"{stage.name} has no edge {name!r}"
                hint = renamed_hint(stage.name, str(name)) or suggest(str(name), edges)
                problems.append(Problem((str(name),), what, hint, "unknown"))
                continue
            needs[name] = sorted({*names}) if edges[name].named else names
            if len(names) > 1 and not edges[name].many:
                what = f"{stage.name}: edge {name!r} must have one input, got {len(names)}"
                self._problem(below, what)
            for needed in names:
                self._check_exists(below, f"stage {key_path[-1]!r} needs", needed)
        for edge in edges.values():
            if not needs.get(edge.name) and not edge.optional:
                what = f"{stage.name} needs an input for {edge.name!r}"
                problems.append(Problem((edge.name,), what, kind="missing"))
        self._add(here, "", merged(problems))
        return needs
