"""From what a recipe writes to what a stage receives: typed, resolved, complete.

A stage's keyword annotations are its schema; pydantic checks them strictly (no
"200" for 200). Files are found here, models looked up by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.models.base import Embedder, LanguageModel, mistakes
from pipeline.stage import ROOT, Option, Stage

Kind = TypeVar("Kind")
Problem = tuple[str, str, str | None]
"""Option, what is wrong, hint."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A "did you mean" for a name, or the names there are."""
    names = [str(k) for k in known]
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "there are: " + ", ".join(names) if names else None


def bind(
    stage: Stage, given: Mapping[str, Any], models: Mapping[str, Any], folder: Path
) -> tuple[SimpleNamespace, list[Problem]]:
    """The stage's options with defaults, and what is wrong with the given ones.

    folder: where relative paths are looked for first; then in the repository.
    """
    known = {option.name: option for option in stage.options}
    problems: list[Problem] = [
        (str(name), f"unknown option {name!r}", nearest(str(name), known))
        for name in given
        if name not in known
    ]
    values: dict[str, Any] = {}
    for option in stage.options:
        if option.name in given:
            values[option.name], problem = _value(option, given[option.name], models, folder)
            problems += [problem] if problem else []
        elif option.required:
            problems.append((option.name, f"the option {option.name!r} is missing", None))
            values[option.name] = None
        else:
            values[option.name] = option.default
    return SimpleNamespace(**values), problems


def _value(
    option: Option, raw: Any, models: Mapping[str, Any], folder: Path
) -> tuple[Any, Problem | None]:
    if option.is_model and isinstance(raw, str):
        found, problem = _model(option, raw, models)
        return (found,) if option.takes_models else found, problem
    if option.takes_models and isinstance(raw, list) and all(isinstance(n, str) for n in raw):
        each = [_model(option, name, models) for name in raw]
        return tuple(m for m, _ in each), next((problem for _, problem in each if problem), None)
    if option.names_files and raw is not None:
        found, missing = resolve(raw, folder)
        if missing:
            return (), (option.name, missing, None)
        return found, None
    return _typed(option, raw)


def _model(option: Option, name: str, models: Mapping[str, Any]) -> tuple[Any, Problem | None]:
    """The model of this name in the recipe."""
    if name not in models:
        return None, (option.name, f"there is no model {name!r}", nearest(name, models))
    model = models[name]
    fits = isinstance(model, LanguageModel) if option.takes_models else option.accepts(type(model))
    if model is not None and not fits:
        return None, (option.name, f"model {name!r} is of the wrong kind for {option.name}", None)
    return model, None


def _typed(option: Option, raw: Any) -> tuple[Any, Problem | None]:
    try:
        # Through JSON, so that strictness still lets a YAML list be a tuple.
        text = json.dumps(raw, allow_nan=False)
        value = TypeAdapter(option.annotation).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part!r}]" for part in first["loc"] if isinstance(part, int))
        what = f"{option.name}{where} = {first['input']!r}: {first['msg']}"
        return None, (option.name, what, None)
    except (TypeError, ValueError):
        return None, (option.name, f"{option.name} = {raw!r} is no plain, finite value", None)
    return value, None


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
    unknown = [f"unknown key {k!r}; {nearest(str(k), names)}" for k in spec if k not in names]
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


def numbers(raw: Any, kind: type[Kind]) -> tuple[Kind | None, list[str]]:
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
