"""From what a recipe writes to what a stage receives: typed, resolved, complete.

A stage's keyword annotations are its schema; pydantic checks them strictly (no
"200" for 200). Files are found here, models looked up by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.models.base import Embedder, LanguageModel
from pipeline.models.validation import mistakes
from pipeline.recipe.problems import Problem, names_in, option_groups, problems_in, suggest
from pipeline.stage import ROOT, Option, Stage

T = TypeVar("T")


def bind(
    stage: Stage, raw_options: Mapping[str, Any], models: Mapping[str, Any], folder: Path
) -> tuple[SimpleNamespace, list[Problem]]:
    """The stage's options with defaults, and all that is wrong with those in the recipe.

    Args:
        stage: The stage whose keywords are the schema.
        raw_options: The options as the recipe writes them.
        models: The recipe's models by name.
        folder: Where relative paths are looked for first; then in the repository.

    Returns:
        The options, complete where nothing is wrong, and the problems.
    """
    options = {option.name: option for option in stage.options}
    problems = [_unknown(str(name), options) for name in raw_options if name not in options]
    values: dict[str, Any] = {}
    for option in stage.options:
        if option.name in raw_options:
            values[option.name], wrong = _value(option, raw_options[option.name], models, folder)
            problems += wrong
        elif option.required:
            problems.append(Problem((option.name,), f"the option {option.name!r} is missing"))
            values[option.name] = None
        else:
            values[option.name] = option.default
    return SimpleNamespace(**values), problems


def _unknown(name: str, options: Mapping[str, Option]) -> Problem:
    """An option that the stage does not have; it may be one of a method's own."""
    for option in options.values():
        owners = [n for n, g in option_groups(option.annotation).items() if name in names_in(g)]
        if owners:
            example = f"{option.name}: {{name: {owners[0]}, {name}: ...}}"
            what = f"{name!r} is an option of {option.name}: {' or '.join(owners)}"
            return Problem((name,), what, f"write {example}")
    return Problem((name,), f"unknown option {name!r}", suggest(name, options))


def _value(
    option: Option, raw: Any, models: Mapping[str, Any], folder: Path
) -> tuple[Any, list[Problem]]:
    if option.is_model and isinstance(raw, str):
        model, wrong = _model(option, raw, models)
        return (model,) if option.takes_models else model, wrong
    if option.takes_models and isinstance(raw, list) and all(isinstance(n, str) for n in raw):
        results = [_model(option, name, models) for name in raw]
        return tuple(m for m, _ in results), [p for _, wrong in results for p in wrong]
    if option.names_files and raw is not None:
        paths, missing = resolve(raw, folder)
        return paths, [Problem((option.name,), missing)] if missing else []
    return _typed(option, raw)


def _model(option: Option, name: str, models: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
    """The model of this name in the recipe."""
    if name not in models:
        what = f"there is no model {name!r}"
        return None, [Problem((option.name,), what, suggest(name, models))]
    model = models[name]
    kind = LanguageModel if option.takes_models else type(model)
    matches = isinstance(model, kind) and (option.takes_models or option.accepts(kind))
    if model is not None and not matches:
        what = f"{option.name} must be a model of another kind, got {name!r}"
        hint = "language models have an engine such as vllm, embedders sentence-transformers"
        return None, [Problem((option.name,), what, hint)]
    return model, []


def _typed(option: Option, raw: Any) -> tuple[Any, list[Problem]]:
    """A value checked against the option's annotation; pydantic is strict: no "200" for 200."""
    if isinstance(raw, str) and raw in option_groups(option.annotation):
        raw = {"name": raw}  # `method: kmeans` is short for `method: {name: kmeans}`
    try:
        # Through JSON, so that strictness still lets a YAML list be a tuple.
        text = json.dumps(raw, allow_nan=False)
        return TypeAdapter(option.annotation).validate_json(text, strict=True), []
    except ValidationError as error:
        return None, problems_in(option.name, raw, option.annotation, error)
    except (TypeError, ValueError):
        what = f"{option.name} must be a plain, finite value, got {raw!r}"
        return None, [Problem((option.name,), what)]


def resolve(raw: Any, folder: Path) -> tuple[tuple[str, ...], str | None]:
    """The existing files that paths and glob patterns name, and the first that is missing."""
    patterns = [raw] if isinstance(raw, str) else raw
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        return (), f"{raw!r} is neither a path nor a list of paths"
    found: list[str] = []
    for pattern in patterns:
        matches = next((m for base in (folder, ROOT) if (m := _matches(base, pattern))), [])
        if not matches:
            return (
                (),
                f"there is no file {pattern!r} (looked beside the recipe and in the repository)",
            )
        if folders := [m for m in matches if m.is_dir()]:
            return (), f"{str(folders[0])!r} is a folder; name files, or a pattern: {pattern}/*"
        found += [str(path) for path in matches]
    return tuple(found), None


def _matches(base: Path, pattern: str) -> list[Path]:
    path = base / pattern
    if path.exists():
        return [_absolute(path)]
    if Path(pattern).is_absolute():
        base, pattern = Path(path.anchor), str(path.relative_to(path.anchor))
    try:
        return sorted(_absolute(p) for p in base.glob(pattern) if p.is_file())
    except ValueError:
        # No pattern at all, such as a**b: nothing is found by it.
        return []


def _absolute(path: Path) -> Path:
    # Links are not followed: a cache's blob behind one has no name that tells its format.
    return Path(os.path.abspath(path))


def build_model(spec: dict[str, Any], folder: Path) -> tuple[Any, list[str]]:
    """A `LanguageModel` or `Embedder` from a recipe's mapping; its engine says which."""
    engine = spec.get("engine", "transformers")
    kind = Embedder if engine == "sentence-transformers" else LanguageModel
    names = [f.name for f in fields(kind) if f.name != "made_by"]
    unknown = [f"unknown key {k!r}; {suggest(str(k), names)}" for k in spec if k not in names]
    if unknown:
        return None, unknown
    for key in ("model", "chat_template", "lora", "tokenizer"):
        if isinstance(spec.get(key), str):
            spec[key] = _existing(spec[key], folder)
    try:
        model = TypeAdapter(kind).validate_json(json.dumps(spec), strict=True)
        return model, mistakes(model) if isinstance(model, LanguageModel) else []
    except ValidationError as error:
        return None, [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]


def numbers(raw: Any, kind: type[T]) -> tuple[T | None, list[str]]:
    """A dataclass of numbers that are not negative, from a recipe's mapping."""
    try:
        text = json.dumps(raw, allow_nan=False)
        found = TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        return None, [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    except (TypeError, ValueError):
        return None, [f"{raw!r} are no plain, finite numbers"]
    negative = [k for k, value in vars(found).items() if value is not None and value < 0]
    return found, [f"{name} is below 0" for name in negative]


def _existing(name: str, folder: Path) -> str:
    """The path beside the recipe or in the repository, or the name itself (a hub's)."""
    return next(
        (str((b / name).resolve()) for b in (folder, ROOT) if name and (b / name).exists()), name
    )
