"""From requests to completions by way of the journal, for every engine alike.

A request is rendered to the text that the model reads, keyed by its full payload
and looked up. Only those without an answer are sent, equal ones once. Each batch
of raw responses is durable before the next is sent and before anything is parsed;
what is returned is read back from the journal, so that the first durable answer
is the one that counts, in this run and in every later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from pipeline.canonical import encode
from pipeline.context import Context
from pipeline.models.base import Completion, Decoding, Request
from pipeline.models.journal import Answer, Journal

Response = dict[str, Any]
"""A raw response: `text`, `finish_reason` (stop | length) and `usage`
(`prompt_tokens`, `completion_tokens`), as an OpenAI-compatible server gives them."""


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be sent. tokens: what the model reads."""

    key: str
    payload: str
    tokens: tuple[int, ...]
    decoding: Decoding
    error: str | None


Send = Callable[[list[Prepared]], Iterator[list[tuple[Prepared, Response]]]]
"""Answers requests in batches; each batch is yielded as soon as it is there."""


def prepare(
    request: Request, identity: dict[str, Any], tokenizer: Any, context_tokens: int | None
) -> Prepared:
    """Render a request, tokenize it and key it.

    A text is given to the tokenizer as it is, with the special tokens that the
    tokenizer adds; messages go through the chat template, which writes its own.
    """
    is_text = isinstance(request.prompt, str)
    if isinstance(request.prompt, str):
        text = request.prompt
    else:
        messages = [{"role": role, "content": content} for role, content in request.prompt]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    payload = encode(
        {
            "model": identity,
            "prompt": text,
            "special_tokens": is_text,
            "decoding": _decoding(request.decoding),
            "seed": request.seed,
            "sample": request.sample,
        }
    )
    tokens = tuple(tokenizer(text, add_special_tokens=is_text)["input_ids"])
    return Prepared(
        key=blake2b(payload, digest_size=16).hexdigest(),
        payload=payload.decode("utf-8"),
        tokens=tokens,
        decoding=request.decoding,
        error=_refusal(len(tokens), request.decoding.max_tokens, context_tokens),
    )


def complete(
    prepared: Sequence[Prepared], journal: Journal, send: Send, ctx: Context
) -> list[Completion]:
    """The completions of these requests, in order; see the module's docstring."""
    unique = {p.key: p for p in prepared if p.error is None}
    known = journal.get_many(list(unique))
    missing = [p for p in unique.values() if p.key not in known]
    ctx.count(requests=len(missing), cached=len(known))
    done = 0
    for batch in send(missing):
        journal.put_many(Answer(p.key, p.payload, response) for p, response in batch)
        usage = [response["usage"] for _, response in batch]
        ctx.count(
            prompt_tokens=sum(u["prompt_tokens"] for u in usage),
            completion_tokens=sum(u["completion_tokens"] for u in usage),
        )
        done += len(batch)
        if len(batch) < len(missing):
            ctx.progress(len(known) + done, len(unique))
    known |= journal.get_many([p.key for p in missing])
    return [_completion(p, known.get(p.key)) for p in prepared]


def _completion(prepared: Prepared, response: Response | None) -> Completion:
    if response is None:
        tokens = len(prepared.tokens)
        return Completion(prepared.key, "", "error", tokens, 0, prepared.error)
    usage = response["usage"]
    return Completion(
        key=prepared.key,
        text=response["text"],
        finish_reason=response["finish_reason"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
    )


def _decoding(decoding: Decoding) -> dict[str, Any]:
    """Whole numbers become floats where a float is meant: 1 and 1.0 are one request."""
    names = ("temperature", "top_p", "presence_penalty")
    return asdict(decoding) | {name: float(getattr(decoding, name)) for name in names}


def _refusal(prompt: int, answer: int, context: int | None) -> str | None:
    """Why a request is not sent. A prompt that was cut in silence would be another request."""
    if prompt == 0:
        return "the prompt has no tokens"
    if context is not None and prompt + answer > context:
        return (
            f"the prompt has {prompt} tokens; with max_tokens={answer} that exceeds "
            f"the model's context of {context}"
        )
    return None
