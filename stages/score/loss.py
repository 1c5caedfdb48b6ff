"""Likelihood scores: what a causal language model finds easy, hard or helped by the instruction.

Let L(A|Q) be the mean negative log-likelihood of the answer's tokens (natural
logarithm, nats per token) after the prompt, L(A) that of the same tokens without
it, and PPL = exp(L). A row with several assistant turns counts all their tokens
as one answer: each turn after all that precedes it in L(A|Q), on its own in L(A).
The answer's tokens are those that a training on the answers alone would learn (see
`stages/_llm/likelihood_views.py`), and L(A) shows them behind nothing but the header
that opens an answer: so both count the same tokens, the first one included.

- `loss`: L(A|Q). `ppl`: exp(L(A|Q)).
- `ifd`: instruction-following difficulty, PPL(A|Q) / PPL(A), as the paper defines it
  (Li et al. 2023, arXiv:2308.12032). Near 1 the prompt does not help, above 1 it
  misleads. The paper's formula has no header in front of A; its code has one
  ("### Response:"), and so has this: without it a chat model is mostly surprised
  that there is an answer at all, and hardly any row reaches 1.
- `ifd_loss`: L(A|Q) / L(A), which is what the authors' code computes. A ratio of losses
  is not monotone in the ratio of perplexities: the two forms order rows differently.
- `ifd_superfilter`: PPL(A|Q) / PPL(A) as the code of Superfiltering computes it (Li et
  al. 2024, arXiv:2402.00530): no template (instruction, input and answer, one a line),
  only the last answer, no end mark, and these peculiarities. In L(A) nothing stands in
  front unless the tokenizer adds it, so the first token counts in L(A|Q) alone. What
  exceeds `max_length` is cut: prompt and answer there, the answer alone at max_length -
  prompt + 1. The answer begins where the prompt, tokenized alone, ends. One difference: what
  the code scores 0 after an exception is null here.
- `ic_ifd`: L(A|Q) / (L(Q) L(A)), IFD corrected for how surprising the instruction itself is
  (Hua et al. 2024, "Smaller Language Models Are Better Instruction Evolvers",
  arXiv:2412.11231). As in the authors' code (HypherX/Evolution-Analysis): mean losses and not
  perplexities, no template (instruction, input and answer, one a line), only the last answer,
  and whatever the tokenizer puts in front of a text. Ours: the line break before the answer
  belongs to the question (in the code it is scored with the answer), and texts are cut as in
  `ifd_superfilter`, where the code cuts nothing.

Null means not scored, never a bad score: no answer or an empty one, no token with a
likelihood, or, except in `ifd_superfilter` and `ic_ifd`, a conversation longer than `max_length` or
than the model's context (nothing is cut; the authors' code drops such rows). A row that
the chat template refuses, or whose answer it rewrites, is a failed row.

Dropping what is above 1 or keeping the highest is for a later stage to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.models import Engine, LanguageModel
from pipeline.models.local.chat_template import Unrenderable
from pipeline.stage import Records, stage
from pipeline.types import NonEmpty
from schemas.turns import View
from stages._common.option_types import Distinct
from stages._llm import likelihood_views as views
from stages._llm.likelihood_views import (
    Floats,
    PartsOf,
    RenderedConversation,
    Rendering,
    mean_loss,
    ratio_of_ppl,
)

Formula = Literal["ifd", "ifd_loss", "ifd_superfilter", "ic_ifd", "loss", "ppl"]


class Definition(NamedTuple):
    """A formula over log-probabilities.

    Attributes:
        views: What it compares.
        score: The value, from one float64 array per view with an element for each answer
            token, NaN where there is no likelihood. A value that is not finite means null.
    """

    views: tuple[PartsOf, ...]
    score: Callable[..., float]


def _ppl(scores: Floats) -> float:
    return float(np.exp(mean_loss(scores)))


def _ratio_of_loss(conditional: Floats, alone: Floats) -> float:
    return mean_loss(conditional) / mean_loss(alone) if mean_loss(alone) else np.nan


def _corrected_ratio(conditional: Floats, alone: Floats, question: Floats) -> float:
    """Losses 0.8, 1.6 and 2.0 give an IFD of 0.5, and 0.25 corrected.

    >>> conditional, alone, question = (-np.array([loss]) for loss in (0.8, 1.6, 2.0))
    >>> _corrected_ratio(conditional, alone, question)
    0.25
    """
    surprise = mean_loss(question)
    return _ratio_of_loss(conditional, alone) / surprise if surprise else np.nan


FORMULAS: Final[dict[str, Definition]] = {
    "loss": Definition((views.conditional,), mean_loss),
    "ppl": Definition((views.conditional,), _ppl),
    "ifd": Definition((views.conditional, views.alone), ratio_of_ppl),
    "ifd_loss": Definition((views.conditional, views.alone), _ratio_of_loss),
    "ic_ifd": Definition(
        (views.untemplated, views.untemplated_alone, views.untemplated_question), _corrected_ratio
    ),
    "ifd_superfilter": Definition((views.untemplated, views.untemplated_alone), ratio_of_ppl),
}


@stage(
    version=2,
    scope="row",
    reads=["messages", "tools", "input_start"],
    adds=lambda options, _: {
        **dict.fromkeys(options.formulas, pl.Float32),
        "tokens": pl.Int32,
    },
)
def loss(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    formulas: Annotated[tuple[Formula, ...], NonEmpty, Distinct] = ("ifd",),
    max_length: Annotated[int, Field(ge=2)] = 2048,
    view: View = "all",
) -> pl.DataFrame:
    """Score every row's answers with a causal language model.

    Args:
        rows: Conversations.
        model: The model whose likelihoods are measured.
        formulas: The columns to add; they are defined at the head of the module.
        max_length: Tokens. Rows that are longer, as the chat template renders them, stay
            null; so do rows that are longer than the model's context.
        view: What of an answer is scored, as the chat template renders it: its content, the
            tool calls too, or all: the reasoning as well, where the template shows it.

    Returns:
        One Float32 column per formula, and `tokens` (Int32), the length of the rendered
        conversation.

    Raises:
        UserError: The model's chat template cannot render a conversation at all.

    Example:
        ```yaml
        scored: {uses: score.loss, needs: pool, with: {model: base, formulas: [ppl, ifd]}}
        hard:   {uses: select.top, needs: scored, with: {score: ifd, budget: 1000}}
        ```
    """
    engine = ctx.open(model)
    limit = min(max_length, engine.context_tokens or max_length)
    rendering = views.rendering(engine.tokenizer, limit, view)
    rendered = [
        _render(rendering, *row)
        for row in rows.select("messages", "input_start", "tools").iter_rows()
    ]
    readable = [c if isinstance(c, RenderedConversation) else None for c in rendered]
    errors = [c if isinstance(c, str) else None for c in rendered]
    scores = _scores(engine, rendering, readable, formulas)
    return pl.DataFrame(
        {
            **{name: pl.Series(values, dtype=pl.Float32) for name, values in scores.items()},
            "tokens": pl.Series([c and len(c.tokens) for c in readable], dtype=pl.Int32),
            "error": pl.Series(errors, dtype=pl.String),
        }
    )


def _render(
    rendering: Rendering, messages: Any, input_start: int | None, tools: str | None
) -> RenderedConversation | str:
    """The conversation, or why it cannot be rendered."""
    try:
        return views.conversation(rendering, messages or [], input_start, tools)
    except Unrenderable as error:
        return str(error)


def _scores(
    engine: Engine,
    rendering: Rendering,
    conversations: list[RenderedConversation | None],
    formulas: tuple[str, ...],
) -> dict[str, list[float | None]]:
    """The formulas' values for each conversation."""
    needed = dict.fromkeys(view for name in formulas for view in FORMULAS[name].views)
    parts = {
        (view, i): view(conversation, rendering)
        for view in needed
        for i, conversation in enumerate(conversations)
        if conversation is not None
    }
    log_probs = views.log_probs(engine, parts)
    rows = range(len(conversations))
    return {name: [_score(FORMULAS[name], log_probs, i) for i in rows] for name in formulas}


def _score(
    definition: Definition, log_probs: dict[tuple[PartsOf, int], Floats], i: int
) -> float | None:
    keys = [(view, i) for view in definition.views]
    if not all(key in log_probs for key in keys):
        return None
    value = definition.score(*(log_probs[key] for key in keys))
    return value if np.isfinite(value) else None
