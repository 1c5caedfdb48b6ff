"""A stage's options as a recipe gives them: what binding and the stage's check say of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pipeline.errors import UserError
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from pipeline.recipe.options import bind
from pipeline.stage import ROOT

NO_MODEL = LanguageModel(model="none")


def options_of(stage: Callable[..., Any], **options: Any) -> SimpleNamespace:
    """The keywords of a stage function as its check gets them: with the defaults of the rest."""
    parameters = inspect.signature(stage).parameters.values()
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return SimpleNamespace(**{p.name: options.get(p.name, p.default) for p in keywords})


def problems(name: str, /, model: LanguageModel = NO_MODEL, **raw_options: Any) -> list[str]:
    """All that is wrong with a stage's options in a recipe, as its reader sees it.

    model: what the recipe's `model` is, where the stage takes one.
    """
    stage = find(name)
    named = {o.name: "model" for o in stage.options if o.name == "model" and o.is_model}
    options, wrong = bind(stage, named | raw_options, {"model": model}, ROOT)
    if wrong:
        return [problem.what for problem in wrong]
    try:
        if stage.check:
            stage.check(options)
    except UserError as error:
        return [error.what]
    return []
