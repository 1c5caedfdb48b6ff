"""Which options go together, and what a method takes where a recipe says nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

from pipeline.errors import OptionError
from stages._selection.budget import check_unused
from stages.score.agreement.checkpoints import Checkpoints
from stages.score.agreement.comparisons import Compare, Embedding, Exact, Likelihood
from stages.score.agreement.confidence import Confidence
from stages.score.agreement.knowledge import Knowledge
from stages.score.agreement.perturbed import Perturbed
from stages.score.agreement.questions import RESPONSE
from stages.score.agreement.rows import Rows
from stages.score.agreement.samples import Samples

SAMPLING: Final = {"temperature": None, "top_p": 1.0, "max_tokens": 256}
"""Options of sampling with their defaults."""


def default_comparison(method: Any) -> Compare:
    """The comparison of a method where the recipe names none.

    Args:
        method: The options of the method.
    """
    if isinstance(method, Perturbed | Checkpoints):
        return Likelihood()
    return Embedding() if isinstance(method, Knowledge) else Exact()


def default_temperature(method: Any) -> float:
    """The temperature of a method's samples where the recipe names none.

    Args:
        method: The options of the method.
    """
    return {"samples": 0.7, "confidence": 1.0}.get(method.name, 0.0)


def check(options: SimpleNamespace) -> None:
    """Refuse options that do not go together.

    Args:
        options: The stage's options.

    Raises:
        OptionError: Some do not.
    """
    _check_models(options)
    _check_comparison(options)
    method = options.method
    if options.task is not None and not isinstance(method, Perturbed):
        raise OptionError("task", f"must be left out with method: {method.name}")
    fixed = isinstance(method, Rows) or (isinstance(method, Perturbed) and method.answer == "model")
    if fixed and options.reference != RESPONSE:
        raise OptionError(
            *("reference", f"must be left out with method: {method.name}, got {options.reference}"),
            why="the votes are compared with an answer of its own",
            hint="method: {name: perturbed, answer: row}"
            if isinstance(method, Perturbed)
            else None,
        )
    _check_sampling(options)
    many = isinstance(method, Samples | Confidence) and method.num_samples > 1
    if many and options.temperature == 0:
        raise OptionError(
            *("temperature", f"must be above 0 for {method.num_samples} samples, got 0"),
            why="without sampling all of them are the same answer",
            hint="method: {name: samples, num_samples: 1}",
        )


def _check_sampling(options: SimpleNamespace) -> None:
    """Refuse options of sampling where nothing is sampled."""
    method = options.method
    samples = not isinstance(method, Rows | Checkpoints)
    if not samples:
        check_unused(options, "ending", None, f"with method: {method.name}, which asks nothing")
    if isinstance(method, Perturbed) and method.answer == "row":
        samples = not isinstance(options.compare or default_comparison(method), Likelihood)
    for name, default in ({} if samples else SAMPLING).items():
        check_unused(options, name, default, f"with method: {method.name}, which samples nothing")


def _check_models(options: SimpleNamespace) -> None:
    name, number = options.method.name, len(options.models)
    if isinstance(options.method, Rows):
        if number:
            raise OptionError("models", f"must be left out with method: rows, got {number}")
    elif not number:
        raise OptionError("models", "must name at least one model, got []", hint="models: [NAME]")
    elif number > 1 and not isinstance(options.method, Samples | Checkpoints):
        raise OptionError("models", f"must name one model with method: {name}, got {number}")


def _check_comparison(options: SimpleNamespace) -> None:
    method = options.method
    compare = options.compare or default_comparison(method)
    likelihood = isinstance(compare, Likelihood)
    if likelihood and not isinstance(method, Perturbed | Checkpoints):
        raise OptionError(
            *("compare", f"must not be likelihood with method: {method.name}"),
            why="its votes are texts",
            hint="method: checkpoints, or perturbed",
        )
    if isinstance(method, Checkpoints) and not likelihood:
        raise OptionError(
            *("compare", f"must be likelihood with method: checkpoints, got {compare.name}"),
            hint="method: samples, with several models",
        )
    if isinstance(compare, Embedding) != (options.embedder is not None):
        needed = isinstance(compare, Embedding)
        raise OptionError(
            *("embedder", "must be given with compare: embedding, and with no other"),
            hint="embedder: NAME" if needed else "compare: embedding, or leave embedder out",
        )
