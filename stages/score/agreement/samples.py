"""Votes that are samples: of one model or of several, as they answer the row's own request.

R-Tuning: Instructing Large Language Models to Say 'I Don't Know' (Zhang et al. 2023,
arXiv:2311.09677; shizhediao/R-Tuning).

As in the paper: the model that will be tuned answers each question; a question is certain where
the answer is the gold one (`num_samples: 1`, `temperature: 0`), or, without gold answers, where
several samples have a low entropy (`num_samples: 5`). `rewrite.refusal_aware` marks the rows.

As in the authors' code: 15 tokens at most, of which those up to the first full stop count
(`compare: {name: exact, first_sentence: true, contained: true}`, `max_tokens: 15`); five samples
at temperature 0.7.

Ours: whole words are compared, in one form of numbers, where the code takes a substring (so that
the gold answer 1 would be in every 10); a choice is compared by its letter, in the code by the
most probable of four; an answer without a full stop is taken whole, of one that was cut all but
the last word, where the code takes off the last letter; entropy is divided by the logarithm of
the number of votes.

LMSI: Large Language Models Can Self-Improve (Huang et al. 2022, arXiv:2210.11610).

As in the paper: many samples of a question (32, temperature 0.7), their most frequent answer, and
its share as confidence. No code was released.

Ours: with `method: rows` the samples are rows (`generate.respond`), and those with the majority's
answer are kept; the paper mixes formats with and without reasoning steps, which here are
stages of their own.

Ensemble-Instruct: Generating Instruction-Tuning Data with a Heterogeneous Mixture of LMs (Lee et
al. 2023, arXiv:2310.13961; IBM/ensemble-instruct).

As in the paper: several models answer an instruction, and ROUGE-L says how far they agree
(`models: [one, another]`, `compare: rouge`).

Ours: the agreement is a column; the paper's own choice among the answers is that of
`select.response` with `method: consensus`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.models.base import LanguageModel
from pipeline.types import Count, option_group
from stages.score.agreement.questions import Question, Sampler, answerable


@option_group
class Samples:
    """Samples of each model as votes: R-Tuning, LMSI, several models, checkpoints, gold answers.

    Args:
        name: "samples".
        num_samples: Samples of each model.
    """

    name: Literal["samples"] = "samples"
    num_samples: Count = 5


def add_samples(
    sampler: Sampler, rows: Sequence[Question], models: Sequence[LanguageModel], num_samples: int
) -> None:
    """Add the samples of each model to the votes of each row.

    Args:
        sampler: Sends the requests.
        rows: Changed in place.
        models: Who answers.
        num_samples: Samples of each model.
    """
    prompts = [
        (question, question.turns or (), number)
        for question in answerable(rows)
        for number in range(num_samples)
    ]
    sampler.add_votes(models, prompts)
