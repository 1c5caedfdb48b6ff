"""Self-curation: a pair of instruction and answer rated from 1 to 5 by a model.

Li et al. 2023, arXiv:2308.06259. The rating is read from the model's words, as in the
paper, or is the expectation under its likelihoods, for models too weak to say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pipeline.models.base import Decoding, Engine, Scored
from stages._llm.drafts import Draft, filter_drafts, generate_field, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate._parsing.lists import score

PROMPTS: Final = Prompts(__file__)

RATINGS: Final = (1, 2, 3, 4, 5)


def curate_by_text(
    engine: Engine, drafts: Sequence[Draft], decoding: Decoding, seed: int, strict: bool
) -> None:
    """`curation_score` from "Score: n" in the model's answer; strict: at its end."""
    generate_field(
        *(engine, drafts, "score", lambda draft: _question(draft, True), decoding),
        seed=seed,
        parse=lambda text: score(text, strict),
        keep_cut=True,
    )
    for draft in drafts:
        if draft.active:
            draft.fields["curation_score"] = float(draft["score"])


def curate_by_likelihood(engine: Engine, drafts: Sequence[Draft]) -> None:
    """`curation_score` = sum of n p(n), p the softmax of the five log-likelihoods."""
    pairs = [draft for draft in drafts if draft.active]
    sequences = [s for draft in pairs for s in ratings(engine, draft)]
    totals = [float(values.sum()) for values in engine.loglikelihood(sequences)]
    logits = np.array(totals, np.float64).reshape(len(pairs), len(RATINGS))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    means = weights @ np.array(RATINGS) / weights.sum(axis=1)
    for draft, mean in zip(pairs, means.tolist(), strict=True):
        draft.fields["curation_score"] = mean


def keep_best(drafts: Sequence[Draft], least: float | None) -> None:
    """Drop as `low_score` what has less than the least score."""

    def judged(draft: Draft) -> Rejection | None:
        found = draft["curation_score"]
        if least is None or found >= least:
            return None
        return "low_score", {"score": found, "min_score": least}

    filter_drafts(drafts, judged)


def ratings(engine: Engine, draft: Draft) -> list[Scored]:
    """The five possible answers behind the prompt, to be scored from where they differ."""
    messages = [{"role": role, "content": text} for role, text in _question(draft, False)]
    before: str = engine.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    texts = [f"{before}Score: {rating}" for rating in RATINGS]
    tokens = engine.tokenizer(texts, add_special_tokens=False)["input_ids"]
    start = next(i for i, column in enumerate(zip(*tokens, strict=False)) if len({*column}) > 1)
    return [Scored(tuple(ids), start) for ids in tokens]


def _question(draft: Draft, reasoning: bool) -> Any:
    return user(
        PROMPTS.render(
            "rating",
            instruction=draft["instruction"],
            passage=draft["passage"],
            reasoning=reasoning,
        )
    )
