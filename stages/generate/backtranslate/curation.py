"""Self-curation: a pair of instruction and answer rated from 1 to 5 by a model.

Li et al. 2023, arXiv:2308.06259; see `stages._llm.humback` for the question, which the method
`humback` of `score.judge` asks of rows that exist. As in the paper: the rating is read from the
model's reasoned text, and the pairs of 5 are kept. Ours: `min_score` as an option (the paper
compares 4 and 5), and the expectation under the likelihoods, for models too weak to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.models.base import Decoding, Engine, Scored
from pipeline.types import Count, Fraction, option_group
from stages._llm.drafts import Draft, filter_drafts, generate_field, user
from stages._llm.humback import LEVELS, REASONS_MAX_TOKENS, Form, rating_question
from stages._llm.ratings import rating
from stages._llm.rows import Rejection

MinScore = Annotated[float, Field(ge=1, le=5)]


@option_group
class TextRating:
    """The rating is "Score: n" in the model's own text, as in the paper.

    Args:
        name: "text".
        min_score: The lowest score of a kept pair; null keeps any.
        strict: The last rating that begins a line or ends the response counts. Otherwise the
            first one anywhere does, as in the unofficial code.
        max_tokens: Limit of the response in tokens.
    """

    name: Literal["text"] = "text"
    min_score: MinScore | None = 5
    strict: bool = True
    max_tokens: Count = REASONS_MAX_TOKENS


@option_group
class LikelihoodRating:
    """The mean rating under the probabilities of "Score: 1" to "Score: 5"; it has fractions.

    Args:
        name: "likelihood".
        min_score: The lowest score of a kept pair; null keeps any.
        min_mass: The least probability that the five must have together after "Score: "; with
            less the pair is dropped as `unreadable`. 0: whatever a weak model would rather write.
    """

    name: Literal["likelihood"] = "likelihood"
    min_score: MinScore | None = 5
    min_mass: Fraction = 0.0


Curation = Annotated[TextRating | LikelihoodRating, Field(discriminator="name")]
"""How the pairs are rated, and which are kept."""


def curate(engine: Engine, drafts: Sequence[Draft], curation: Curation, seed: int) -> None:
    """Set `curation_score` of all active drafts and drop low ones as `low_score`.

    Args:
        engine: The model that rates.
        drafts: Pairs of `instruction` and `passage`.
        curation: How they are rated, and which are kept.
        seed: Seed of the requests.
    """
    if isinstance(curation, TextRating):
        curate_by_text(engine, drafts, curation, seed)
    else:
        curate_by_likelihood(engine, drafts, curation.min_mass)

    def rejection(draft: Draft) -> Rejection | None:
        value = draft["curation_score"]
        if curation.min_score is None or value >= curation.min_score:
            return None
        return "low_score", {"score": value, "min_score": curation.min_score}

    filter_drafts(drafts, rejection)


def curate_by_text(
    engine: Engine, drafts: Sequence[Draft], curation: TextRating, seed: int
) -> None:
    """Set `curation_score` to the n of "Score: n" in the model's text.

    Args:
        engine: The model that rates.
        drafts: Pairs of `instruction` and `passage`.
        curation: How the text is read, and its limit.
        seed: Seed of the requests.
    """
    generate_field(
        *(engine, drafts, "score", lambda draft: user(_question(draft, "reasons"))),
        Decoding(curation.max_tokens),
        seed=seed,
        parse=lambda text: rating(text, curation.strict),
        keep_cut=True,
    )
    for draft in drafts:
        if draft.active:
            draft.fields["curation_score"] = float(draft["score"])


def curate_by_likelihood(engine: Engine, drafts: Sequence[Draft], min_mass: float = 0) -> None:
    """Set `curation_score` to sum n p(n), p the softmax of the five log-likelihoods.

    Args:
        engine: The model that rates.
        drafts: Pairs of `instruction` and `passage`.
        min_mass: The least probability of the five together; with less a pair is dropped.
    """
    pairs = [draft for draft in drafts if draft.active]
    sequences = [s for draft in pairs for s in ratings(engine, draft)]
    totals = [float(values.sum()) for values in engine.loglikelihood(sequences)]
    logits = np.array(totals, np.float64).reshape(len(pairs), len(LEVELS))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    means = weights @ np.array(LEVELS) / weights.sum(axis=1)
    masses = np.exp(logits).sum(axis=1)
    for draft, mean, mass in zip(pairs, means.tolist(), masses.tolist(), strict=True):
        draft.fields["curation_score"] = mean
        if mass < min_mass:
            draft.reject("unreadable", mass=mass, min_mass=min_mass)


def ratings(engine: Engine, draft: Draft) -> list[Scored]:
    """The prompt with each of the five answers, to be scored from where they differ."""
    messages = [{"role": "user", "content": _question(draft, "label")}]
    before: str = engine.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    texts = [f"{before}Score: {rating}" for rating in LEVELS]
    tokens = engine.tokenizer(texts, add_special_tokens=False)["input_ids"]
    start = next(i for i, column in enumerate(zip(*tokens, strict=False)) if len({*column}) > 1)
    return [Scored(tuple(ids), start) for ids in tokens]


def _question(draft: Draft, form: Form) -> str:
    return rating_question(draft["instruction"], draft["passage"], form)
