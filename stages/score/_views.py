"""The views of a conversation whose likelihoods the formulas of `score.loss` compare.

A view says which token sequences a model reads and which of their tokens are the
answer's. The tokens of an answer come from one place, the whole conversation as
the model's chat template renders it; the view that shows the answer without its
prompt reuses these ids, so that both speak of the same tokens even where the
answer alone would be cut into others.

The answer's tokens are those that a training on the answers alone would learn:
every token that covers at least one character of it and, directly behind, the
special token with which the template ends it, if it writes one.

Where the answers lie is found by rendering the conversation a second time with a
mark in place of each answer: this needs neither generation marks in the template
nor one that renders the beginning of a conversation as the beginning of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.models import Scored
from schemas.records import Message

MARK: Final = "\ufffcanswer\ufffc"

Span = tuple[int, int]
Floats = NDArray[np.float64]


class Part(NamedTuple):
    """One sequence that the model reads, and the spans of it whose tokens are wanted."""

    tokens: tuple[int, ...]
    spans: tuple[Span, ...]

    def scored(self) -> Scored:
        """What to ask of the engine; the first token of a sequence has no likelihood."""
        end = max(end for _, end in self.spans)
        return Scored(self.tokens[:end], max(1, min(start for start, _ in self.spans)))

    def wanted(self, scores: NDArray[np.float32]) -> Floats:
        """Log-probabilities of the wanted tokens, NaN for a token without one."""
        request = self.scored()
        whole = np.full(len(request.tokens), np.nan)
        whole[request.start :] = scores
        return np.concatenate([whole[start:end] for start, end in self.spans])


@dataclass(frozen=True)
class Conversation:
    """A rendered conversation: its token ids, and where its answers' tokens are.

    texts: prompt and answer of the last exchange without any template, or None.
    """

    tokens: tuple[int, ...]
    answers: tuple[Span, ...]
    texts: tuple[str, str] | None


class Setting(NamedTuple):
    """What is common to all rows.

    limit: how many tokens the model may read. opening: what the template writes in
    front of an answer that nothing precedes: the beginning-of-sequence token, if it
    writes one at all, and the header of an assistant's turn. special: the tokenizer's
    special tokens.
    """

    tokenizer: Any
    limit: int
    opening: tuple[int, ...]
    special: frozenset[int]


View = Callable[[Conversation, Setting], list[Part]]
"""The parts that show a conversation's answers in one way; none if it cannot be shown so."""


class Unreadable(ValueError):
    """A conversation that the chat template cannot render, or renders changed."""


def conversation(
    setting: Setting, messages: Sequence[Message], input_start: int | None
) -> Conversation:
    """Render and tokenize a conversation. Raises Unreadable with the template's reason."""
    spans, text = _render(setting.tokenizer, messages)
    encoded = setting.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    tokens = tuple(encoded["input_ids"])
    told = [_covering(offsets, (start, end)) for start, end in spans if text[start:end].strip()]
    return Conversation(
        tokens=tokens,
        answers=tuple(_ended(span, tokens, setting.special) for span in told),
        texts=_plain_texts(messages, input_start),
    )


def conditional(talk: Conversation, setting: Setting) -> list[Part]:
    """Every answer within its conversation."""
    if not talk.answers or len(talk.tokens) > setting.limit:
        return []
    return [Part(talk.tokens, talk.answers)]


def alone(talk: Conversation, setting: Setting) -> list[Part]:
    """Every answer behind nothing but what opens it; for the rows that `conditional` shows."""
    if not conditional(talk, setting):
        return []
    answers = [talk.tokens[start:end] for start, end in talk.answers]
    place = len(setting.opening)
    parts = [Part(setting.opening + tokens, ((place, place + len(tokens)),)) for tokens in answers]
    return parts if all(len(part.tokens) <= setting.limit for part in parts) else []


def plain(talk: Conversation, setting: Setting) -> list[Part]:
    """Superfiltering's text without a template, cut at the limit; see `score.loss`."""
    if talk.texts is None:
        return []
    prompt, answer = talk.texts
    # `encode` with the tokenizer's own special tokens, as the reference calls it.
    tokens = setting.tokenizer.encode(prompt + answer)[: setting.limit]
    boundary = len(setting.tokenizer.encode(prompt))
    return [Part(tuple(tokens), ((boundary, len(tokens)),))] if boundary < len(tokens) else []


def plain_alone(talk: Conversation, setting: Setting) -> list[Part]:
    """Superfiltering's answer alone, cut at the limit less the prompt plus 1."""
    if talk.texts is None:
        return []
    prompt, answer = talk.texts
    left = setting.limit - len(setting.tokenizer.encode(prompt)) + 1
    tokens = setting.tokenizer.encode(answer)[: max(left, 0)]
    return [Part(tuple(tokens), ((0, len(tokens)),))] if len(tokens) > 1 else []


def setting(tokenizer: Any, limit: int) -> Setting:
    """What the views of all rows share. Raises UserError if the template refuses a question."""
    probe = [Message(role="user", content="?")]
    try:
        before = _rendered(tokenizer, probe)
        header = _rendered(tokenizer, probe, add_generation_prompt=True).removeprefix(before)
    except Unreadable as error:
        raise UserError(str(error), hint="give the model another `chat_template`") from error
    first = tokenizer(before, add_special_tokens=False)["input_ids"][:1]
    opening = tokenizer(header, add_special_tokens=False)["input_ids"]
    if first == [tokenizer.bos_token_id]:
        opening = first + opening
    return Setting(tokenizer, limit, tuple(opening), frozenset(tokenizer.all_special_ids))


def _render(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[Span], str]:
    """Where each answer lies in the rendered text, in characters, and the text."""
    marked = [
        Message(role=m["role"], content=MARK) if m["role"] == "assistant" else m for m in messages
    ]
    text = _rendered(tokenizer, messages)
    pieces = _rendered(tokenizer, marked).split(MARK)
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    spans: list[Span] = []
    rest = text.removeprefix(pieces[0])
    for answer, piece in zip(answers, pieces[1:], strict=len(pieces) == len(answers) + 1):
        # Some templates strip what they are given.
        shown = answer if rest.startswith(answer + piece) else answer.strip()
        start = len(text) - len(rest)
        spans.append((start, start + len(shown)))
        rest = rest.removeprefix(shown + piece)
    if rest or len(pieces) != len(answers) + 1:
        raise Unreadable("the chat template changes the text of an answer, so it cannot be found")
    return spans, text


def _rendered(tokenizer: Any, messages: Sequence[Message], **options: bool) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except (TemplateError, TypeError, ValueError) as error:
        raise Unreadable(f"the chat template refuses the conversation: {error}") from error
    return str(text)


def _covering(offsets: NDArray[np.int64], span: Span) -> Span:
    """The tokens that cover a span of characters that is not blank, as positions."""
    inside = np.flatnonzero((offsets[:, 0] < span[1]) & (offsets[:, 1] > span[0]))
    return int(inside[0]), int(inside[-1]) + 1


def _ended(span: Span, tokens: tuple[int, ...], special: frozenset[int]) -> Span:
    """The span with the special token that stands directly behind it, if there is one."""
    start, end = span
    return (start, end + 1) if end < len(tokens) and tokens[end] in special else span


def _plain_texts(messages: Sequence[Message], input_start: int | None) -> tuple[str, str] | None:
    """Prompt and last answer, one turn or input a line, as Superfiltering writes them."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
    lines = [m["content"] for m in messages[:last]]
    if not lines or not messages[last]["content"].strip():
        return None
    if input_start is not None:
        first = next(i for i, m in enumerate(messages) if m["role"] == "user")
        whole = lines[first]
        lines[first] = whole[:input_start].removesuffix("\n\n") + "\n" + whole[input_start:]
    return "\n".join(lines) + "\n", messages[last]["content"]
