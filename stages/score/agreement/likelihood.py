"""The probability of an answer after its prompt: the exponential of its mean log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.models.base import Engine
from pipeline.models.local.chat_template import Unrenderable
from schemas.records import Message
from stages._llm.likelihood_views import (
    NOT_FINITE,
    Part,
    Rendering,
    conversation,
    lacks_numbers,
    rendering,
)
from stages.score.agreement.questions import Turns


def answer_probabilities(
    engine: Engine, exchanges: Sequence[tuple[Turns, str]], max_length: int
) -> list[float | str | None]:
    """The probability of each answer, as a mean over its tokens.

    Args:
        engine: A model with likelihoods.
        exchanges: The turns before an answer, and the answer.
        max_length: Tokens of the longest conversation.

    Returns:
        From 0 to 1; None for a conversation that is too long, or has no token with a
        likelihood; a text that says why the chat template refuses it, or that the model gives NaN.

    Raises:
        UserError: The engine only generates.
    """
    if not exchanges:
        return []
    limit = min(max_length, engine.context_tokens or max_length)
    shared = rendering(engine.tokenizer, limit, "content")
    parts = [_part(shared, turns, answer) for turns, answer in exchanges]
    scored = iter(engine.loglikelihood([p.request() for p in parts if isinstance(p, Part)]))
    return [_mean(part, next(scored)) if isinstance(part, Part) else part for part in parts]


def _part(shared: Rendering, turns: Turns, answer: str) -> Part | str | None:
    """The tokens of the conversation, of which those of its last answer are scored."""
    messages = [Message(role=role, content=text) for role, text in turns]
    messages.append(Message(role="assistant", content=answer))
    try:
        rendered = conversation(shared, messages, None)
    except Unrenderable as error:
        return str(error)
    if not rendered.answers or len(rendered.tokens) > shared.limit:
        return None
    return Part(rendered.tokens, rendered.answers[-1:])


def _mean(part: Part, scores: np.ndarray) -> float | str | None:
    values = part.in_spans(scores)
    if lacks_numbers([part], values):
        return NOT_FINITE
    known = values[~np.isnan(values)]
    return float(np.exp(known.mean())) if len(known) else None
