"""A recipe for a preview: `run --limit N` asks language models about the first N rows alone.

The limit applies where a model is asked, and nowhere else. All before it runs whole, costs no
request and is reused by the whole run; of the rows that reach a stage with a language model
the first N go in: the first ones of each source before the second ones. A stage that decides
itself how many rows it makes (`num_rows`, `num_challenges`) makes at most N of them, by at most
N prompts where it counts these (`max_requests`); what it is shown, such as seed tasks, is not
cut. Its requests are the first of those of the whole run, which the journal then answers.

It asks one by one, also where a model is asked in a provider's batches: nobody waits a day for a
preview.

Stages that make files alone (training, reports) run only where they are named. What was limited,
and all that is made from it, carries the limit in its fingerprint, and is never released.
"""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from types import SimpleNamespace
from typing import Any, Final

from pipeline.models.base import LanguageModel
from pipeline.recipe.graph import Step
from pipeline.recipe.recipe import Recipe

SIZES: Final = ("num_rows", "num_challenges", "max_requests")
"""Options that say how much a stage makes, or how often it asks at most."""


def preview(recipe: Recipe, limit: int) -> Recipe:
    """The recipe with the limit at every stage that asks a language model.

    Args:
        recipe: The recipe.
        limit: How many rows each of these stages gets, or makes.
    """
    steps = {
        name: replace(step, options=_one_by_one(step, _limited(step.options, limit)), limit=limit)
        if step.asks_model
        else step
        for name, step in recipe.steps.items()
    }
    return replace(recipe, steps=steps, limit=limit)


def _limited(options: SimpleNamespace, limit: int) -> SimpleNamespace:
    """The options with sizes of at most the limit, those of its method among them."""
    values = {name: _size(name, value, limit) for name, value in vars(options).items()}
    for name, value in values.items():
        if is_dataclass(value) and not isinstance(value, type):
            sizes: dict[str, Any] = {
                size: _size(size, getattr(value, size), limit)
                for size in SIZES
                if hasattr(value, size)
            }
            values[name] = replace(value, **sizes) if sizes else value
    return SimpleNamespace(**values)


def _one_by_one(step: Step, options: SimpleNamespace) -> SimpleNamespace:
    """The options with models that are asked without batches."""

    def without_batches(model: Any) -> Any:
        if not isinstance(model, LanguageModel):
            return model
        second = None if model.fallback is None else without_batches(model.fallback)
        return replace(model, batch=False, fallback=second)

    values = vars(options)
    changed = {
        option.name: option.each(values[option.name], without_batches)
        for option in step.stage.options
        if option.is_model
    }
    return SimpleNamespace(**{**values, **changed})


def _size(name: str, value: Any, limit: int) -> Any:
    """An option's value; of a size at most the limit, which null leaves open."""
    if name not in SIZES or not isinstance(value, int | None):
        return value
    return limit if value is None else min(value, limit)
