"""How much an answer depends on the wording of its prompt.

Active instruction tuning: Improving Cross-Task Generalization by Training on Prompt Sensitive
Tasks (Kung et al. 2023, arXiv:2311.00288; PlusLabNLP/Active-IT).

As in the paper: the answer that the model gives to the original prompt is held fixed; each word of
the prompt is dropped with probability 0.2, 20 times; a task's prompt uncertainty is the mean
absolute difference of the answer's probability, over its rows and perturbed prompts, and tasks
with the highest are trained on. Together with the mean probability it gives the task map, of which
a low probability and a low uncertainty mean a task that is too difficult.

As in the authors' code: the probability is the exponential of the mean log-likelihood of the
answer's tokens; the same words are dropped for all rows of a task; the input of a row is left as
it is. The repository's runs take 10 rows of a task and 10 prompts (`num_prompts: 10`), and its
authors warn of large variance.

Ours: the words are those of the first user turn up to the row's input, in scripts without spaces
its characters; a prompt always keeps one word; demonstrations stand in the prompt, so that their
outputs lose words too; `answer: row` takes the row's own answer instead of the model's; other
comparisons (`exact`, `rouge`, `embedding`) let the model answer each perturbed prompt, greedily.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pipeline.models.base import LanguageModel
from pipeline.types import Count, Fraction, option_group
from schemas.records import digest
from stages.score.agreement.comparisons import Likelihood
from stages.score.agreement.likelihood import answer_probabilities
from stages.score.agreement.questions import Question, Sampler, Turns, answerable, vote_of

_WORD: Final = re.compile(
    r"\s*(?:[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
    r"|[^\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+)"
)
"""A word with the space before it, or a character of a script without spaces."""


@option_group
class Perturbed:
    """Prompts from which words were dropped (Active instruction tuning).

    Adds `agreement_uncertainty`, and `agreement_probability` under `likelihood`.

    Args:
        name: "perturbed".
        num_prompts: Perturbed prompts of each row.
        drop_rate: The probability with which a word is dropped.
        answer: The answer that is held fixed: `model`, what the model answers to the original
            prompt, greedily; or `row`, the row's own.
    """

    name: Literal["perturbed"] = "perturbed"
    num_prompts: Count = 20
    drop_rate: Fraction = 0.2
    answer: Literal["model", "row"] = "model"


@dataclass
class Uncertainty:
    """The probabilities of one row's answer.

    Attributes:
        original: Under the original prompt; None where it has none.
        perturbed: Under the perturbed ones.
    """

    original: float | None = None
    perturbed: list[float] = field(default_factory=list)

    @property
    def probability(self) -> float | None:
        """The mean under the perturbed prompts."""
        return sum(self.perturbed) / len(self.perturbed) if self.perturbed else None

    @property
    def uncertainty(self) -> float | None:
        """The mean absolute difference from the original prompt."""
        if self.original is None or not self.perturbed:
            return None
        return sum(abs(p - self.original) for p in self.perturbed) / len(self.perturbed)


def drop_words(text: str, rate: float, seed: int, number: int) -> str:
    """The text without some of its words; one always stays.

    What is dropped depends on the text, the seed and the number alone.

    Args:
        text: A prompt.
        rate: The probability with which a word is dropped.
        seed: The stage's seed.
        number: Which of the perturbed prompts it is.

    Example:
        >>> drop_words("Name a river in Spain.", 0.4, 0, 1)
        'a river in Spain.'
    """
    words = _WORD.findall(text)
    generator = random.Random(digest([seed, number, text]))
    kept = [word for word in words if generator.random() >= rate]
    if not kept and words:
        kept = [generator.choice(words)]
    return "".join(kept).strip() if rate else text


def perturbed_turns(question: Question, method: Perturbed, seed: int, number: int) -> Turns:
    """The turns of a row with one of its perturbed prompts.

    Args:
        question: The row.
        method: How often words are dropped.
        seed: The stage's seed.
        number: Which of the perturbed prompts it is.
    """
    turns = list(question.turns or ())
    first = next(i for i, (role, _) in enumerate(turns) if role == "user")
    text = turns[first][1]
    task = text[: question.task_end].removesuffix("\n\n")
    rest = text[len(task) :]
    turns[first] = ("user", drop_words(task, method.drop_rate, seed, number) + rest)
    return tuple(turns)


def fix_answers(sampler: Sampler, rows: Sequence[Question], model: LanguageModel) -> None:
    """Make the model's own answer to the original prompt the reference of each row.

    Args:
        sampler: Sends the requests.
        rows: Changed in place.
        model: Who answers.
    """
    asked = list(answerable(rows))
    completions = sampler.complete(model, [(question.turns or (), 0) for question in asked])
    for question, completion in zip(asked, completions, strict=True):
        question.journal.append(completion.key)
        if completion.finish_reason == "error":
            question.error = completion.error
        vote = vote_of(completion)
        question.reference = None if vote is None else vote.text


def add_perturbed(
    sampler: Sampler, rows: Sequence[Question], model: LanguageModel, method: Perturbed
) -> None:
    """Add what the model answers to the perturbed prompts to the votes of each row.

    Args:
        sampler: Sends the requests.
        rows: Changed in place.
        model: Who answers.
        method: How prompts are perturbed.
    """
    prompts = [
        (question, perturbed_turns(question, method, sampler.seed, number), 0)
        for question in answerable(rows)
        for number in range(method.num_prompts)
    ]
    sampler.add_votes([model], prompts)


def uncertainties(
    sampler: Sampler,
    rows: Sequence[Question],
    model: LanguageModel,
    method: Perturbed,
    compare: Likelihood,
) -> list[Uncertainty]:
    """The probabilities of each row's answer under its prompts.

    Args:
        sampler: Opens the model.
        rows: The rows; an error is noted in them.
        model: The model.
        method: How prompts are perturbed.
        compare: How likelihoods are computed.
    """
    results = [Uncertainty() for _ in rows]
    asked = [question for question in answerable(rows) if (question.reference or "").strip()]
    numbers = [None, *range(method.num_prompts)]
    scored = [(question, number) for question in asked for number in numbers]
    values = answer_probabilities(
        sampler.open(model),
        [
            (
                question.turns or ()
                if number is None
                else perturbed_turns(question, method, sampler.seed, number),
                question.reference or "",
            )
            for question, number in scored
        ],
        compare.max_length,
    )
    for (question, number), value in zip(scored, values, strict=True):
        result = results[question.row]
        if isinstance(value, str):
            question.error = question.error or value
        elif number is None:
            result.original = value
        elif value is not None:
            result.perturbed.append(value)
    return results
