"""The formulas of `score.loss`: what each compares, and the value that it has.

A formula sees arrays of one float64 per token, and no model: what is published of it can be
computed from published numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from stages._llm import likelihood_views as views
from stages._llm.likelihood_views import Floats, PartsOf, mean_loss, ratio_of_ppl

Formula = Literal[
    "ifd",
    "ifd_loss",
    "ifd_superfilter",
    "ic_ifd",
    "reversed_ifd",
    "loss",
    "ppl",
    "context_gap",
    "learning_percentage",
    "learning_percentage_approx",
    "learnability",
    "reducible_loss",
    "ds_weight",
    "degradation",
    "ies",
]

Model = Literal["model", "first", "last"]
"""Whose likelihoods: the model's, or those of the first or last checkpoint."""

Shown = Literal["row", "reversed", "without_input", "valid"]
"""What is read: the row, the row with question and answer swapped, the row without its input, or
the rows for validation, all of them."""


class Pass(NamedTuple):
    """Log-probabilities of the tokens of one view of a row, NaN where there is none.

    Attributes:
        view: The view.
        model: The model that reads it.
        shown: The conversation that it is a view of.
    """

    view: PartsOf
    model: Model = "model"
    shown: Shown = "row"


Fact = Literal["divergence", "cost"]
"""What is no likelihood: the divergences of two models at each token of an instruction, and the
square of its tokens and the answer's characters together."""


@dataclass(frozen=True)
class Definition:
    """A formula.

    Attributes:
        compares: The arrays that it needs; without one of them the score is null.
        score: The value, from these arrays. One that is not finite means null.
        checkpoints: How many checkpoints it needs, at least.
    """

    compares: tuple[Pass | Fact, ...]
    score: Callable[..., float]
    checkpoints: int = 0


def ppl(scores: Floats) -> float:
    """The perplexity.

    Args:
        scores: Log-probabilities.
    """
    return float(np.exp(mean_loss(scores)))


def ratio_of_loss(conditional: Floats, alone: Floats) -> float:
    """The loss of an answer behind its prompt in terms of that without it.

    Args:
        conditional: Log-probabilities of the answer's tokens behind the prompt.
        alone: The same without the prompt.
    """
    return mean_loss(conditional) / mean_loss(alone) if mean_loss(alone) else np.nan


def corrected_ratio(conditional: Floats, alone: Floats, question: Floats) -> float:
    """Losses 0.8, 1.6 and 2.0 give an IFD of 0.5, and 0.25 corrected.

    Args:
        conditional: Log-probabilities of the answer's tokens behind the prompt.
        alone: The same without the prompt.
        question: Those of the question.

    Example:
        >>> conditional, alone, question = (-np.array([loss]) for loss in (0.8, 1.6, 2.0))
        >>> corrected_ratio(conditional, alone, question)
        0.25
    """
    surprise = mean_loss(question)
    return ratio_of_loss(conditional, alone) / surprise if surprise else np.nan


def learning_percentage(before: float, early: float, late: float) -> float:
    """The part of the fall of a row's perplexity that came with the first epoch.

    Args:
        before: Its perplexity before the training.
        early: After the first epoch.
        late: After the last one.

    Returns:
        0 where nothing fell; below 0 or above 1 where an epoch made it worse.

    Example:
        >>> learning_percentage(9.0, 3.0, 1.0), learning_percentage(2.0, 2.0, 2.0)
        (0.75, 0.0)
    """
    return (before - early) / (before - late) if before != late else 0.0


def learnability(before: float, after: float) -> float:
    """The part of a row's loss that a training took away.

    Args:
        before: Its loss before the training.
        after: After it. At 0 the row is known by heart, which says nothing: NaN.

    Example:
        >>> learnability(2.0, 1.5), learnability(2.0, 0.0)
        (0.25, nan)
    """
    return (before - after) / before if before > 0 and after > 0 else np.nan


def ds_weight(valid: float, loss: float) -> float:
    """How far a row lies from the rows for validation, to either side; 1 is the smallest.

    Args:
        valid: The mean loss of the rows for validation.
        loss: That of the row.

    Example:
        >>> [ds_weight(1.0, loss) for loss in (0.5, 1.0, 2.0, 4.0, 10.0, 0.0)]
        [2.0, 1.0, 2.0, 4.0, 5.0, 5.0]
    """
    if not (np.isfinite(loss) and np.isfinite(valid)):
        return np.nan
    weight = min(max(valid / loss, 0.0), 2.0) if loss > 0 and valid > 0 else 0.0
    return max(weight, min(1 / weight, 5.0)) if weight else 5.0


def efficiency(divergences: Floats, cost: Floats) -> float:
    """PASER's individual efficiency score.

    Args:
        divergences: At each token of the instruction.
        cost: The square of its tokens and the answer's characters, one number.

    Example:
        >>> round(efficiency(np.array([0.2, 0.4]), np.array([100.0])), 6)
        0.065144
    """
    return float(np.mean(divergences) / np.log(cost[0])) if cost[0] > 1 else np.nan


_CONDITIONAL: Final = Pass(views.conditional)
_FIRST: Final = Pass(views.conditional, "first")
_LAST: Final = Pass(views.conditional, "last")
_UNTEMPLATED: Final = (Pass(views.untemplated), Pass(views.untemplated_alone))

FORMULAS: Final[dict[str, Definition]] = {
    "loss": Definition((_CONDITIONAL,), mean_loss),
    "ppl": Definition((_CONDITIONAL,), ppl),
    "ifd": Definition((_CONDITIONAL, Pass(views.alone)), ratio_of_ppl),
    "ifd_loss": Definition((_CONDITIONAL, Pass(views.alone)), ratio_of_loss),
    "ifd_superfilter": Definition(_UNTEMPLATED, ratio_of_ppl),
    "ic_ifd": Definition((*_UNTEMPLATED, Pass(views.untemplated_question)), corrected_ratio),
    "reversed_ifd": Definition(
        (Pass(views.conditional, shown="reversed"), Pass(views.alone, shown="reversed")),
        ratio_of_ppl,
    ),
    "context_gap": Definition(
        (Pass(views.conditional, shown="without_input"), _CONDITIONAL),
        lambda without, behind: mean_loss(without) - mean_loss(behind),
    ),
    "learning_percentage": Definition(
        (_CONDITIONAL, _FIRST, _LAST),
        lambda *passes: learning_percentage(*map(ppl, passes)),
        checkpoints=2,
    ),
    "learning_percentage_approx": Definition(
        (_CONDITIONAL, _FIRST),
        lambda before, after: learning_percentage(ppl(before), ppl(after), 0.0),
        checkpoints=1,
    ),
    "learnability": Definition(
        (_CONDITIONAL, _LAST),
        lambda *passes: learnability(*map(mean_loss, passes)),
        checkpoints=1,
    ),
    "reducible_loss": Definition(
        (_CONDITIONAL, _LAST),
        lambda before, after: mean_loss(before) - mean_loss(after),
        checkpoints=1,
    ),
    "ds_weight": Definition(
        (Pass(views.whole, shown="valid"), Pass(views.whole)),
        lambda *passes: ds_weight(*map(mean_loss, passes)),
    ),
    "degradation": Definition(("divergence",), lambda values: float(np.mean(values))),
    "ies": Definition(("divergence", "cost"), efficiency),
}

assert set(FORMULAS) == set(get_args(Formula))
