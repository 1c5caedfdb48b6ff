"""The views of a conversation whose likelihoods are compared: answers with their prompt, and alone.

A view says which token sequences a model reads and which of their tokens are the
answer's. The tokens of an answer always come from the conversation as the model's chat
template renders it; the view that shows the answer without its prompt reuses these ids,
so that both score the same tokens even where the answer alone would be tokenized
differently.

The answer's tokens are those that a training on the answers alone would learn:
every token that covers at least one character of it and, directly behind, the
special token with which the template ends it, if it writes one. To an answer belong its
reasoning, its content and its tool calls, as the template shows them (`stages._llm.rendered`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.models import Engine, Scored
from pipeline.models.local.chat_template import Unrenderable
from pipeline.models.local.literal_tokens import tokenize
from schemas.records import Message
from schemas.turns import View, turn_text
from stages._llm.rendered import RenderedText, render, rendered_text

Span = tuple[int, int]
Floats = NDArray[np.float64]

NOT_FINITE: Final = "the model gives no finite likelihood"
"""Why a row fails."""

Key = TypeVar("Key", bound=Hashable)


class Part(NamedTuple):
    """One sequence that the model reads, and the spans of it whose tokens are scored.

    Attributes:
        tokens: Token ids.
        spans: Start and end of each span, in tokens.
    """

    tokens: tuple[int, ...]
    spans: tuple[Span, ...]

    def request(self) -> Scored:
        """The request to the engine; the first token of a sequence has no likelihood."""
        end = max(end for _, end in self.spans)
        return Scored(self.tokens[:end], max(1, min(start for start, _ in self.spans)))

    def in_spans(self, scores: NDArray[np.float32]) -> Floats:
        """The log-probabilities of the spans' tokens, NaN for a token without one."""
        request = self.request()
        all_tokens = np.full(len(request.tokens), np.nan)
        all_tokens[request.start :] = scores
        return np.concatenate([all_tokens[start:end] for start, end in self.spans])


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation as the chat template renders it.

    Attributes:
        tokens: Token ids.
        answers: Start and end of each answer, in tokens.
        texts: Prompt and answer of the last exchange without any template, or None.
    """

    tokens: tuple[int, ...]
    answers: tuple[Span, ...]
    texts: tuple[str, str] | None


class Rendering(NamedTuple):
    """What is common to all rows.

    Attributes:
        tokenizer: The model's tokenizer.
        limit: How many tokens the model may read.
        opening: What the template writes in front of an answer that nothing precedes: the
            beginning-of-sequence token, if it writes one at all, and the header of an
            assistant's turn.
        special: The tokenizer's special tokens.
        turn: What of an answer is scored.
    """

    tokenizer: Any
    limit: int
    opening: tuple[int, ...]
    special: frozenset[int]
    turn: View = "all"


PartsOf = Callable[[RenderedConversation, Rendering], list[Part]]
"""The sequences that show a conversation's answers; none where the view does not apply."""


def conversation(
    rendering: Rendering,
    messages: Sequence[Message],
    input_start: int | None,
    tools: str | None = None,
) -> RenderedConversation:
    """Render and tokenize a conversation.

    Args:
        rendering: What is common to all rows.
        messages: The turns.
        input_start: Where a separate input begins in the first user turn, in characters.
        tools: The definitions of the tools, as JSON text.

    Raises:
        Unrenderable: The template refuses the conversation, or changes it.
    """
    rendered = render(rendering.tokenizer, messages, tools)
    tokens, offsets = tokens_of(rendering.tokenizer, rendered)
    return RenderedConversation(
        tokens=tokens,
        answers=answer_tokens(rendering, rendered, tokens, offsets),
        texts=_untemplated_texts(messages, input_start, rendering.turn),
    )


def tokens_of(tokenizer: Any, rendered: RenderedText) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """The tokens of a rendered conversation, and the characters that each covers.

    Args:
        tokenizer: The model's tokenizer.
        rendered: The conversation.

    Returns:
        Token ids, and starts and ends of shape (tokens, 2).
    """
    ids, places = tokenize(tokenizer, rendered.text)
    return tuple(ids), np.array(places, dtype=np.int64).reshape(-1, 2)


def answer_tokens(
    rendering: Rendering,
    rendered: RenderedText,
    tokens: tuple[int, ...],
    offsets: NDArray[np.int64],
) -> tuple[Span, ...]:
    """The answers that are not blank, in tokens, each with the special token that ends it.

    Args:
        rendering: What is common to all rows.
        rendered: The conversation.
        tokens: Its token ids.
        offsets: The characters that each covers.
    """
    spans = [answer.span(rendering.turn) for answer in rendered.answers]
    said = [span for span in spans if rendered.text[slice(*span)].strip()]
    return tuple(_ended(_covering(offsets, s), tokens, rendering.special) for s in said)


def conditional(conversation: RenderedConversation, rendering: Rendering) -> list[Part]:
    """Every answer within its conversation."""
    if not conversation.answers or len(conversation.tokens) > rendering.limit:
        return []
    return [Part(conversation.tokens, conversation.answers)]


def whole(conversation: RenderedConversation, rendering: Rendering) -> list[Part]:
    """All tokens of a conversation that has an answer, prompt and template included."""
    if not conditional(conversation, rendering):
        return []
    return [Part(conversation.tokens, ((0, len(conversation.tokens)),))]


def alone(conversation: RenderedConversation, rendering: Rendering) -> list[Part]:
    """Every answer behind its header alone; for the rows that `conditional` shows."""
    if not conditional(conversation, rendering):
        return []
    answers = [conversation.tokens[start:end] for start, end in conversation.answers]
    start = len(rendering.opening)
    parts = [
        Part(rendering.opening + tokens, ((start, start + len(tokens)),)) for tokens in answers
    ]
    return parts if all(len(part.tokens) <= rendering.limit for part in parts) else []


def untemplated(conversation: RenderedConversation, rendering: Rendering) -> list[Part]:
    """Superfiltering's text without a template, cut at the limit; see `score.loss`."""
    if conversation.texts is None:
        return []
    prompt, answer = conversation.texts
    # `encode` with the tokenizer's own special tokens, as the reference calls it.
    tokens = rendering.tokenizer.encode(prompt + answer)[: rendering.limit]
    boundary = len(rendering.tokenizer.encode(prompt))
    return [Part(tuple(tokens), ((boundary, len(tokens)),))] if boundary < len(tokens) else []


def untemplated_alone(conversation: RenderedConversation, rendering: Rendering) -> list[Part]:
    """Superfiltering's answer alone, cut at the limit less the prompt plus 1."""
    if conversation.texts is None:
        return []
    prompt, answer = conversation.texts
    remaining = rendering.limit - len(rendering.tokenizer.encode(prompt)) + 1
    tokens = rendering.tokenizer.encode(answer)[: max(remaining, 0)]
    return [Part(tuple(tokens), ((0, len(tokens)),))] if len(tokens) > 1 else []


def untemplated_question(conversation: RenderedConversation, rendering: Rendering) -> list[Part]:
    """What stands before the last answer, by itself and without a template, cut at the limit."""
    if conversation.texts is None:
        return []
    question = conversation.texts[0].removesuffix("\n")
    tokens = rendering.tokenizer.encode(question)[: rendering.limit]
    return [Part(tuple(tokens), ((0, len(tokens)),))] if len(tokens) > 1 else []


def rendering(tokenizer: Any, limit: int, turn: View = "all") -> Rendering:
    """What the views of all rows share.

    Args:
        tokenizer: The model's tokenizer.
        limit: How many tokens the model may read.
        turn: What of an answer is scored.

    Raises:
        UserError: The chat template refuses a question.
    """
    probe = [Message(role="user", content="?")]
    try:
        before = rendered_text(tokenizer, probe)
        header = rendered_text(tokenizer, probe, add_generation_prompt=True).removeprefix(before)
    except Unrenderable as error:
        raise UserError(str(error), hint="give the model another `chat_template`") from error
    first = tokenizer(before, add_special_tokens=False)["input_ids"][:1]
    opening = tokenizer(header, add_special_tokens=False)["input_ids"]
    if first == [tokenizer.bos_token_id]:
        opening = first + opening
    return Rendering(tokenizer, limit, tuple(opening), frozenset(tokenizer.all_special_ids), turn)


def log_probs(engine: Engine, parts: Mapping[Key, Sequence[Part]]) -> dict[Key, Floats]:
    """The log-probabilities of the answers' tokens in each view that applies.

    All views of all rows go to the engine together, so that short ones fill the packs of
    long ones.

    Args:
        engine: The model whose likelihoods are measured.
        parts: The sequences of each view; a view without one is left out.

    Returns:
        One element for each token, NaN where there is no likelihood.
    """
    requests = [part.request() for each in parts.values() for part in each]
    results = iter(engine.loglikelihood(requests))
    return {
        key: np.concatenate([part.in_spans(next(results)) for part in each])
        for key, each in parts.items()
        if each
    }


def lacks_numbers(parts: Sequence[Part], scores: Floats) -> bool:
    """Whether the model gave NaN for a token; only the first of a sequence has no likelihood.

    Args:
        parts: The sequences of a view.
        scores: The log-probabilities of their tokens.

    Example:
        >>> part = Part((5, 6, 7), ((0, 3),))
        >>> first, later = np.array([np.nan, -1.0, -2.0]), np.array([np.nan, -1.0, np.nan])
        >>> lacks_numbers([part], first), lacks_numbers([part], later)
        (False, True)
    """
    first = sum(start == 0 for part in parts for start, _ in part.spans)
    return int(np.isnan(scores).sum()) > first


def mean_loss(scores: Floats) -> float:
    """The mean negative log-likelihood over the tokens that have one; NaN without any.

    Args:
        scores: Log-probabilities, NaN where there is none.
    """
    scored = scores[~np.isnan(scores)]
    return -float(scored.mean()) if len(scored) else np.nan


def ratio_of_ppl(conditional: Floats, alone: Floats) -> float:
    """Perplexity of an answer with its prompt in terms of that without it.

    Args:
        conditional: Log-probabilities of the answer's tokens behind the prompt.
        alone: The same without the prompt.
    """
    return float(np.exp(mean_loss(conditional) - mean_loss(alone)))


def _covering(offsets: NDArray[np.int64], span: Span) -> Span:
    """The tokens that cover a span of characters that is not blank, as positions."""
    inside = np.flatnonzero((offsets[:, 0] < span[1]) & (offsets[:, 1] > span[0]))
    return int(inside[0]), int(inside[-1]) + 1


def _ended(span: Span, tokens: tuple[int, ...], special: frozenset[int]) -> Span:
    """The span with the special token that stands directly behind it, if there is one."""
    start, end = span
    return (start, end + 1) if end < len(tokens) and tokens[end] in special else span


def _untemplated_texts(
    messages: Sequence[Message], input_start: int | None, view: View
) -> tuple[str, str] | None:
    """Prompt and last answer, one turn or input a line, as Superfiltering writes them."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
    turns = [turn_text(m, view) for m in messages[:last]]
    answer = turn_text(messages[last], view) if messages else ""
    if not turns or not answer.strip():
        return None
    if input_start is not None:
        first = next(i for i, m in enumerate(messages) if m["role"] == "user")
        text = turns[first]
        turns[first] = text[:input_start].removesuffix("\n\n") + "\n" + text[input_start:]
    return "\n".join(turns) + "\n", answer
