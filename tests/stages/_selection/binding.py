"""What a recipe's reader sees of a stage's options: the problems, or none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.errors import OptionError
from pipeline.models import Embedder
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind

MODELS = {"potion": Embedder(model="data/models/potion-base-4m")}


def bound(stage: str, **raw_options: Any) -> SimpleNamespace:
    """The options as the recipe's reader makes them; there must be no problem."""
    options, problems = bind(find(stage), raw_options, MODELS, Path())
    assert not problems, problems
    return options


def problems_of(stage: str, **raw_options: Any) -> list[str]:
    """The problems of a recipe's options, each as "key.path: message"; none if all is well."""
    declared = find(stage)
    options, problems = bind(declared, raw_options, MODELS, Path())
    if problems:
        return [f"{'.'.join(problem.path)}: {problem.what}" for problem in problems]
    try:
        if declared.check:
            declared.check(options)
    except OptionError as error:
        return [f"{error.option}: {error.what}"]
    return []
