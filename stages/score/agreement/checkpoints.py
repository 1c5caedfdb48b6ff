"""How probable an answer is to several checkpoints of a training, or to several models.

SFTMix: Elevating Language Model Instruction Tuning with Mixup Recipe (Xiao et al. 2024,
arXiv:2410.05248).

As in the paper: a row's confidence is a mean over checkpoints of how well each predicts the row's
answer, and rows of high and of low confidence are two groups.

Ours: the probability per token in the place of the negative perplexity, so that the mean lies
between 0 and 1, and the spread over the checkpoints beside it. The paper's mixup of the two
groups in training is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.models.base import LanguageModel
from pipeline.types import option_group
from stages.score.agreement.comparisons import Likelihood
from stages.score.agreement.likelihood import answer_probabilities
from stages.score.agreement.questions import Question, Sampler, answerable


@option_group
class Checkpoints:
    """The probability of the row's answer to each model (SFTMix).

    Adds `agreement`, its mean over the models, `agreement_variability`, its standard deviation,
    and `agreement_probabilities`, in the order of the models, null for one to which the
    conversation is too long.

    Args:
        name: "checkpoints".
    """

    name: Literal["checkpoints"] = "checkpoints"


def checkpoint_probabilities(
    sampler: Sampler,
    rows: Sequence[Question],
    models: Sequence[LanguageModel],
    compare: Likelihood,
) -> list[list[float | None]]:
    """For each row the probability of its answer to each model.

    Args:
        sampler: Opens the models.
        rows: The rows; an error is noted in them.
        models: The models.
        compare: How likelihoods are computed.
    """
    results: list[list[float | None]] = [[None] * len(models) for _ in rows]
    asked = [question for question in answerable(rows) if (question.reference or "").strip()]
    exchanges = [(question.turns or (), question.reference or "") for question in asked]
    for place, model in enumerate(models):
        values = answer_probabilities(sampler.open(model), exchanges, compare.max_length)
        for question, value in zip(asked, values, strict=True):
            if isinstance(value, str):
                question.error = question.error or value
            else:
                results[question.row][place] = value
    return results
