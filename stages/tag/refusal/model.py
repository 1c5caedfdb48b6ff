"""What answers are, as a language model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipeline.models.base import Decoding, Engine, Request
from stages._llm.label_scores import TOP_LOGPROBS, LabelAnswer, ask_labels, warn_of_written_labels
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

LABELS: Final = {
    "refusal": "refusal",
    "partial": "partial",
    "moralising": "moralising",
    "safety": "safety_note",
    "capability": "capability",
    "unknown": "epistemic",
    "none": "none",
}
"""The words of the prompt, of which no two begin alike, and the kinds that they stand for."""


def ask_kinds(
    engine: Engine,
    exchanges: Sequence[tuple[str, str]],
    *,
    max_tokens: int,
    min_mass: float,
    samples: int,
    seed: int,
) -> list[LabelAnswer]:
    """What each answer is, by the probabilities of the labels.

    Args:
        engine: The tagger.
        exchanges: What was said before each answer, and the answer.
        max_tokens: Limit of a completion in tokens.
        min_mass: The least probability of all labels together.
        samples: Completions that are sampled where there are no probabilities.
        seed: Enters the requests' keys.
    """
    decoding = Decoding(max_tokens, choice=tuple(LABELS), logprobs=TOP_LOGPROBS)
    prompts = [
        PROMPTS.render("kind", message=message, answer=answer, labels=[*LABELS])
        for message, answer in exchanges
    ]
    requests = [Request((("user", prompt),), decoding, seed) for prompt in prompts]
    values = dict.fromkeys(LABELS, 0.0)
    labelled = ask_labels(engine, requests, values, min_mass=min_mass, samples=samples)
    readable = [answer for answer in labelled if answer.value is not None]
    written = sum(not answer.from_logprobs for answer in readable)
    warn_of_written_labels("tag.refusal", written, len(readable))
    return labelled


def most_probable(answer: LabelAnswer) -> tuple[str, float]:
    """The kind that has the highest probability, and that; of equal ones the first.

    Args:
        answer: A readable answer.
    """
    label = max(LABELS, key=lambda name: answer.probabilities.get(name, 0.0))
    return LABELS[label], answer.probabilities.get(label, 0.0)
