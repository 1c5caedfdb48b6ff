"""How far an answer rests on what the user wrote: the attention that goes there.

Context-dependency: On the Loss of Context Awareness in General Instruction Fine-tuning (Wang et al.
2024, arXiv:2411.02688; YihanWang617/context_awareness).

As in the paper: a weak model, tuned on a few conversations, reads a row; for each token of an
answer, the attention of one middle layer to the user's words is summed and the head taken that
attends to them most; the mean over the answer's tokens is the answer's dependency on its context.
From 0.6 on a mark such as [IND] at the end of the user's turn says so in training, and is given or
left out at will afterwards.

As in the authors' code: layer 15 of TinyLlama's 22; the words of all user turns before the answer
count; line breaks and the template's tokens do not; a turn without words has no value.

Ours: the template's tokens are those that stand outside the words, for every template (they are
listed by hand in the code); the layer is 15/22 up in other models; a row with several answers has
the mean of theirs, and each in a list.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.models import LanguageModel
from pipeline.models.counting import is_counting
from pipeline.models.local.chat_template import Unrenderable
from pipeline.models.local.literal_tokens import cover
from pipeline.stage import Columns, Edges, Records, stage
from pipeline.types import NonNegativeInt
from schemas.records import Message
from stages._llm import likelihood_views as views
from stages._llm.likelihood_views import Rendering, Span
from stages._llm.rendered import RenderedText, render

LAYER = (15, 22)
"""How far up the layer lies, where none is named."""

_ADDS = {"context_attention": pl.Float32, "context_attentions": pl.List(pl.Float32)}


class Exchange(NamedTuple):
    """A conversation whose answers look at what the user wrote.

    Attributes:
        tokens: Token ids.
        answers: The answers that are not blank, in tokens.
        user: The positions of the tokens of the user's words.
    """

    tokens: tuple[int, ...]
    answers: tuple[Span, ...]
    user: tuple[int, ...]


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    del options, edges
    return _ADDS


@stage(version=2, scope="row", reads=["messages", "tools"], adds=_adds)
def context(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    layer: NonNegativeInt | None = None,
    max_length: Annotated[int, Field(ge=2)] = 2048,
) -> pl.DataFrame:
    """Measure how much the answers attend to the user's words.

    Adds `context_attention`, from 0 to 1, and `context_attentions`, one value per answer that is
    not blank. Both are null where there is no answer, or no word of a user before one, and for
    rows that are longer than `max_length` or than the model's context.

    Args:
        rows: Conversations.
        model: A small model, tuned on a few conversations; its weights are read in this process.
        layer: The layer, from 0; null for the one that lies as far up as layer 15 of 22.
        max_length: Tokens of a rendered conversation, at most.

    Raises:
        UserError: The engine only generates, the model has no such layer, or the chat template
            cannot render a conversation at all.

    Example:
        ```yaml
        measured: {uses: score.context, needs: pool, with: {model: weak}}
        marked:
          uses: rewrite.turns
          needs: measured
          with:
            user: "{{ instruction }}{% if context_attention >= 0.6 %} [IND]{% endif %}"
            assistant: "{{ response }}"
        ```
    """
    engine = ctx.open(model)
    limit = min(max_length, engine.context_tokens or max_length)
    rendering = views.rendering(engine.tokenizer, limit)
    results = [_exchange(rendering, *row) for row in rows.select("messages", "tools").iter_rows()]
    exchanges = {i: e for i, e in enumerate(results) if isinstance(e, Exchange)}
    errors = [e if isinstance(e, str) else None for e in results]
    lists = _attentions(ctx, engine, exchanges, layer)
    for i in [i for i, values in lists.items() if not np.isfinite(values).all()]:
        del lists[i]
        errors[i] = "the model gives no finite attention"
    means = [float(np.mean(lists[i])) if i in lists else None for i in range(len(rows))]
    return pl.DataFrame(
        {
            "context_attention": pl.Series(means, dtype=pl.Float32),
            "context_attentions": pl.Series(
                [lists.get(i) for i in range(len(rows))], dtype=pl.List(pl.Float32)
            ),
            "error": pl.Series(errors, dtype=pl.String),
        }
    )


def _attentions(
    ctx: Context, engine: Any, exchanges: dict[int, Exchange], layer: int | None
) -> dict[int, list[float]]:
    """The values of each row's answers."""
    from pipeline.models.local.attention import Attending, attention_mass

    if is_counting():
        return {}
    weights = engine.weights
    depth = weights.config.get_text_config().num_hidden_layers
    at = LAYER[0] * depth // LAYER[1] if layer is None else layer
    ctx.count(tokens=sum(len(e.tokens) for e in exchanges.values()))
    attending = [Attending(e.tokens, e.answers, e.user) for e in exchanges.values()]
    results: dict[int, list[float]] = {}
    for i, values in zip(exchanges, attention_mass(weights, attending, at), strict=True):
        results[i] = values
        ctx.progress(len(results), len(exchanges))
    return results


def _exchange(
    rendering: Rendering, messages: list[Message] | None, tools: str | None
) -> Exchange | str | None:
    """The conversation, why it cannot be rendered, or None where nothing is to be measured."""
    try:
        rendered = render(rendering.tokenizer, messages or [], tools)
    except Unrenderable as error:
        return str(error)
    tokens, offsets = views.tokens_of(rendering.tokenizer, rendered)
    answers = views.answer_tokens(rendering, rendered, tokens, offsets)
    said = _user_spans(rendered, cover(rendering.tokenizer, messages or []))
    inside = np.zeros(len(tokens), dtype=bool)
    for start, end in said:
        inside |= (offsets[:, 0] < end) & (offsets[:, 1] > start)
    user = [int(i) for i in np.flatnonzero(inside) if rendered.text[slice(*offsets[i])].strip()]
    answers = tuple(span for span in answers if user and user[0] < span[0])
    if not answers or len(tokens) > rendering.limit:
        return None
    return Exchange(tokens, answers, tuple(user))


def _user_spans(rendered: RenderedText, messages: list[Any]) -> list[Span]:
    """Where the user's words stand, in characters: each turn behind what precedes it.

    A turn is sought from the end of its stretch between two answers, since what stands before it
    there, a system prompt, may say the same.
    """
    spans: list[Span] = []
    ends = {answer.turn: answer for answer in rendered.answers}
    after = len(rendered.text)
    for number in range(len(messages) - 1, -1, -1):
        turn = messages[number]
        if turn["role"] == "assistant":
            after = ends[number].start
        text = (turn["content"] or "").strip()
        if turn["role"] != "user" or not text:
            continue
        start = rendered.text.rfind(text, 0, after)
        if start >= 0:
            spans.append((start, start + len(text)))
            after = start
    return spans
