"""From what a recipe writes to what a stage receives: typed, resolved, complete.

A stage's keyword annotations are its schema; pydantic checks them strictly (no
"200" for 200). Files are found here, models looked up by name.
"""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline import ROOT
from pipeline.hints import suggest
from pipeline.models.base import Embedder, LanguageModel
from pipeline.models.validation import mistakes
from pipeline.recipe.problems import (
    Problem,
    as_written,
    merged,
    names_in,
    option_groups,
    problems_in,
)
from pipeline.recipe.renamed import renamed_hint
from pipeline.remote.addresses import is_remote, mistake
from pipeline.stage import Option, Stage

T = TypeVar("T")

_adapters: dict[int, tuple[Any, TypeAdapter[Any]]] = {}
"""By the identity of an annotation, which is held so that it stays: those that compare equal may
differ, such as unions in another order."""


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    """What checks values of an annotation; building it takes milliseconds."""
    if id(annotation) not in _adapters:
        _adapters[id(annotation)] = annotation, TypeAdapter(annotation)
    return _adapters[id(annotation)][1]


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
    problems = [_unknown(stage, str(n), raw_options) for n in raw_options if n not in options]
    values: dict[str, Any] = {}
    for option in stage.options:
        if option.name in raw_options:
            values[option.name], wrong = _value(option, raw_options[option.name], models, folder)
            problems += wrong
        elif option.required:
            what = f"the option {option.name!r} is missing"
            problems.append(Problem((option.name,), what, kind="missing"))
            values[option.name] = None
        else:
            values[option.name] = option.default
    problems = [_hinted(p, stage, raw_options) for p in merged(problems)]
    return SimpleNamespace(**values), problems


def _unknown(stage: Stage, name: str, raw_options: Mapping[str, Any]) -> Problem:
    """An option that the stage does not have; it may be one of a method's own."""
    for option in stage.options:
        raw = raw_options.get(option.name, option.default)
        places = list(_places(name, option.name, raw, option.annotation))
        if places:
            chosen = next((place for place in places if place.chosen), None)
            methods = " or ".join(
                [chosen.method] if chosen else dict.fromkeys(p.method for p in places)
            )
            verb, example = ("move it into", chosen) if chosen else ("write", places[0])
            what = f"{name!r} is an option of {methods}"
            return Problem((name,), what, f"{verb} {example.example}", "unknown")
    hint = renamed_hint(stage.name, name) or suggest(name, (o.name for o in stage.options))
    return Problem((name,), f"unknown option {name!r}", hint, "unknown")


class _Place(NamedTuple):
    """A group that has an option.

    Attributes:
        method: The option of the stage that takes the group, and the group's name.
        example: How a recipe writes it.
        chosen: Whether the recipe, or the default, chooses this group.
    """

    method: str
    example: str
    chosen: bool


def _places(name: str, key: str, raw: Any, annotation: Any) -> Iterator[_Place]:
    """Where an option of this name is, in the groups that the option `key` takes."""
    tag = raw.get("name") if isinstance(raw, Mapping) else getattr(raw, "name", raw)
    groups = option_groups(annotation)
    for group_name, group in groups.items():
        fields_of = names_in(group)
        start = f"name: {group_name}, " if "name" in fields_of else ""
        chosen = tag == group_name or (not start and raw is not None)
        if name in fields_of and name != "name":
            yield _Place(f"{key}: {group_name}", f"{key}: {{{start}{name}: ...}}", chosen)
        hints = typing.get_type_hints(group, include_extras=True)
        for inner in fields_of:
            value = raw.get(inner) if isinstance(raw, Mapping) else None
            value = getattr(group, inner, None) if value is None else value
            for place in _places(name, inner, value, hints[inner]):
                example = f"{key}: {{{start}{place.example}}}"
                yield _Place(f"{key}.{place.method}", example, chosen and place.chosen)


def _hinted(problem: Problem, stage: Stage, raw_options: Mapping[str, Any]) -> Problem:
    """The problem, with a better hint where a group has a name that is known elsewhere."""
    if problem.kind != "unknown" or len(problem.path) < 2:
        return problem
    top, name = problem.path[0], problem.path[-1]
    options = {option.name: option for option in stage.options}
    places = _places(name, top, raw_options[top], options[top].annotation)
    chosen = next((place for place in places if place.chosen), None)
    if name in options:
        hint: str | None = f"write {name!r} beside {top!r}, not inside it"
    elif chosen:
        hint = f"move it into {chosen.example}"
    else:
        hint = renamed_hint(stage.name, name)
    return problem._replace(hint=hint or problem.hint)


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
        paths, mistake = resolve(raw, folder)
        what = f"{option.name} {mistake}" if str(mistake).startswith("must") else str(mistake)
        kind: Literal["value", "no_file"] = "value" if what.startswith(option.name) else "no_file"
        return paths, [Problem((option.name,), what, kind=kind)] if mistake else []
    if option.names_data_set and isinstance(raw, str):
        raw = existing(raw, folder)
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
    raw = _spelled_out(raw, option.annotation)
    try:
        # Through JSON, so that strictness still lets a YAML list be a tuple.
        text = json.dumps(raw, allow_nan=False)
        return _adapter(option.annotation).validate_json(text, strict=True), []
    except ValidationError as error:
        return None, problems_in(option.name, raw, option.annotation, error)
    except (TypeError, ValueError) as error:
        what = f"{option.name} must be a plain, finite value, got {as_written(raw)}"
        return None, [Problem((option.name,), what, _quote(error))]


def _spelled_out(raw: Any, annotation: Any) -> Any:
    """The value with `method: kmeans` written as `method: {name: kmeans}`, in groups too."""
    groups = option_groups(annotation)
    if isinstance(raw, str) and "name" in names_in(groups.get(raw)):
        return {"name": raw}
    group = groups.get(str(raw.get("name"))) if isinstance(raw, Mapping) else None
    if group is None:
        return raw
    hints = typing.get_type_hints(group, include_extras=True)
    return {key: _spelled_out(value, hints.get(key)) for key, value in raw.items()}


def resolve(raw: Any, folder: Path) -> tuple[tuple[str, ...], str | None]:
    """Resolve paths and glob patterns to existing files.

    Args:
        raw: A path, a glob pattern or a list of these, as the recipe writes them.
        folder: Where relative paths are looked for first; then in the repository.

    Returns:
        Absolute paths, in sorted order for each pattern, addresses of files elsewhere as they are,
        and the mistake if there is one.
    """
    patterns = [raw] if isinstance(raw, str) else raw
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        return (), f"must be a path or a list of paths, got {raw!r}"
    files: list[str] = []
    for pattern in patterns:
        if is_remote(pattern):
            if wrong := mistake(pattern):
                return (), wrong
            files.append(pattern)
            continue
        matches = next((m for base in (folder, ROOT) if (m := _matches(base, pattern))), [])
        if not matches:
            return (
                (),
                f"there is no file {pattern!r} (looked beside the recipe and in the repository)",
            )
        if folders := [m for m in matches if m.is_dir()]:
            hint = f"a pattern such as {pattern}/*"
            return (), f"must be a file, got the folder {str(folders[0])!r}; write {hint}"
        files += [str(path) for path in matches]
    return tuple(files), None


def _matches(base: Path, pattern: str) -> list[Path]:
    path = base / pattern
    if os.path.exists(path):  # False for a name that is too long; Path.exists raises
        return [_absolute(path)]
    if Path(pattern).is_absolute():
        base, pattern = Path(path.anchor), str(path.relative_to(path.anchor))
    try:
        return sorted(_absolute(p) for p in base.glob(pattern) if p.is_file())
    except (ValueError, OSError, RecursionError):
        # No pattern at all, such as a**b, or one that is too long: nothing is found by it.
        return []


def _absolute(path: Path) -> Path:
    # Links are not followed: a cache's blob behind one has no name that shows its format.
    return Path(os.path.abspath(path))


def build_model(raw: Mapping[str, Any], folder: Path) -> tuple[Any, list[Problem]]:
    """A `LanguageModel` or `Embedder` from a recipe's mapping; its engine says which.

    Args:
        raw: The mapping under `models: NAME:`, without `from`.
        folder: Where relative paths are looked for first; then in the repository.

    Returns:
        The model, None where something is wrong with it, and the problems.
    """
    engine = raw.get("engine", "transformers")
    kind = Embedder if engine == "sentence-transformers" else LanguageModel
    names = [f.name for f in fields(kind) if f.name not in ("made_by", "price")]
    unknown = [str(k) for k in raw if k not in names]
    if unknown:
        prices = "prices stand beside models: prices: {MODEL: {prompt: ..., completion: ...}}"
        hints = [prices if k in ("price", "prices") else suggest(k, names) for k in unknown]
        return None, [
            Problem((key,), f"unknown key {key!r}", hint, "unknown")
            for key, hint in zip(unknown, hints, strict=True)
        ]
    paths = ("model", "chat_template", "lora", "tokenizer", "accelerate")
    spec = {
        key: existing(value, folder) if key in paths and isinstance(value, str) else value
        for key, value in raw.items()
    }
    if engine == "openai" and os.path.isfile(str(spec.get("model"))):
        spec["model"] = raw["model"]  # weights are a folder; a server's name may be any file's
    model, problems = checked_dataclass(spec, kind)
    if isinstance(model, LanguageModel):
        problems = [Problem((), what) for what in mistakes(model)]
        if model.accelerate is not None and not os.path.isfile(model.accelerate):
            what = f"accelerate must be a file, and there is none at {model.accelerate!r}"
            problems.append(Problem(("accelerate",), what, "write it by: accelerate config"))
    return model, problems


def limits(raw: Any, kind: type[T]) -> tuple[T | None, list[Problem]]:
    """A dataclass of numbers that are not negative, from a recipe's mapping.

    Args:
        raw: The mapping: a budget or a price.
        kind: The dataclass.

    Returns:
        The dataclass, None where something is wrong with it, and the problems.
    """
    value, problems = checked_dataclass(raw, kind)
    return value, [*problems, *_negative(value)]


def _negative(value: Any, *path: str) -> Iterator[Problem]:
    """The negative numbers in a dataclass and in those that it holds."""
    for name, field in vars(value).items() if is_dataclass(value) else ():
        here = (*path, name)
        if isinstance(field, int | float) and field < 0:
            yield Problem(here, f"{'.'.join(here)} must be at least 0, got {field}")
        yield from _negative(field, *here)


def checked_dataclass(raw: Any, kind: type[T]) -> tuple[T | None, list[Problem]]:
    """A recipe's mapping as a dataclass, checked strictly; None and problems where it is wrong."""
    try:
        text = json.dumps(raw, allow_nan=False, default=_written_date)
        return _adapter(kind).validate_json(text, strict=True), []
    except ValidationError as error:
        return None, problems_in("", raw, kind, error)
    except (TypeError, ValueError) as error:
        what = f"every value must be plain and finite, got {raw!r}"
        return None, [Problem((), what, _quote(error))]


def _quote(error: Exception) -> str | None:
    """How to write what JSON has no type for; other values are infinite or no numbers."""
    quoted = 'YAML reads dates and times as such; a text is quoted: "2024-10-21"'
    return quoted if isinstance(error, TypeError) else None


def _written_date(value: Any) -> str:
    """A date of YAML as it is written: versions of interfaces and models are dates."""
    if type(value) is not date:
        raise TypeError(f"{value!r} is no date")
    return value.isoformat()


def existing(name: str, folder: Path) -> str:
    """The path beside the recipe or in the repository, or the name itself (a hub's).

    Args:
        name: What the recipe says.
        folder: Where relative paths are looked for first; then in the repository.
    """
    paths = [base / name for base in (folder, ROOT) if name and os.path.exists(base / name)]
    return str(paths[0].resolve()) if paths else name
