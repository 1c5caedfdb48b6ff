"""From requests to completions by way of the journal, for every engine alike.

A request is rendered to the text that the model reads (or kept as messages, where a
server renders), keyed by its full payload and looked up in the journal. Only requests
without an answer are sent, equal ones once. Each batch of raw responses is durable
before anything is parsed; completions are read back from the journal, so the first
durable answer is the one that counts, in this run and in every later one.

Engines cut their batches from all requests, answered ones included, and then leave
those out: a resumed run sends the remaining requests in the same batches and order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import blake2b
from itertools import takewhile
from typing import Any, Final, TypeVar

from pipeline.models.api import DEFAULT_REASONING, Reasoning
from pipeline.models.base import (
    Completion,
    Decoding,
    EngineContext,
    Request,
)
from pipeline.models.journal.answers import answer_logprobs, answer_of
from pipeline.models.journal.charges import BYTES_PER_TOKEN, billed_tokens
from pipeline.models.journal.gate import UNBILLED, Billing, Gate
from pipeline.models.journal.journal import Journal, JournalEntry, parse_stored
from pipeline.models.journal.responses import ParsedResponse, RawResponse
from pipeline.models.journal.usage import TokenUsage
from pipeline.models.local.chat_template import (
    Unrenderable,
    chat_text,
    opened_user_turn,
    user_turn_stops,
)
from pipeline.models.local.literal_tokens import cover, stop_tokens, tokenize, uncovered
from pipeline.store.hashing import encode


@dataclass(frozen=True)
class Failure:
    """The reason why a request has no response.

    It is not written to the journal: the next run sends the request again.

    Args:
        why: The reason, for the row's `error`.
        billed: What is billed for it all the same; None for nothing.
    """

    why: str
    billed: TokenUsage | None = None


@dataclass(frozen=True)
class Discarded:
    """An answer that is billed and cannot be used; its request is not done with it.

    Args:
        billed: What it is billed.
    """

    billed: TokenUsage


@dataclass(frozen=True)
class PreparedRequest:
    """A request that is ready to be sent.

    Args:
        key: 32 hex digits: the digest of the payload.
        payload: Canonical JSON of everything that may change the answer.
        prompt: The rendered text, or messages that the server renders.
        tokens: The prompt's token ids; empty where only the server tokenizes.
        decoding: How the answer is sampled.
        error: Why it cannot be sent; None if it can.
        reasoning: How the model reasons: what its answer is parted by.
        resample: How often it was sampled anew.
        sent: What a server got beside the prompt, as JSON, in another spelling than the plain one.
        stop_tokens: The ids of control tokens among the decoding's stop texts.
    """

    key: str
    payload: str
    prompt: str | tuple[tuple[str, str], ...]
    tokens: tuple[int, ...]
    decoding: Decoding
    error: str | None = None
    reasoning: Reasoning = DEFAULT_REASONING
    resample: int = 0
    sent: str | None = None
    stop_tokens: tuple[int, ...] = ()

    @property
    def seed(self) -> int:
        """The request's own seed, for engines that sample by themselves: 31 bits of its key."""
        return int(self.key[:8], 16) >> 1

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the prompt, estimated where only the server tokenizes."""
        if self.tokens:
            return len(self.tokens)
        texts = [self.prompt] if isinstance(self.prompt, str) else [t for _, t in self.prompt]
        return sum(len(text.encode()) // BYTES_PER_TOKEN + 8 for text in texts)


Batch = list[tuple[PreparedRequest, RawResponse | Failure | Discarded]]
"""Requests, each with its response or the reason why there is none; and what was thrown away."""

Send = Callable[[list[PreparedRequest], Gate], Iterator[Batch]]
"""Sends those requests that the gate admits; yields each batch as soon as it is answered.

It ends early when the gate refuses while it is idle. What was yielded is reconciled
before the generator continues.
"""
Group = TypeVar("Group")


def in_batches(
    batches: Iterable[tuple[Group, list[PreparedRequest]]],
    gate: Gate,
    answer: Callable[[Group, list[PreparedRequest]], Batch],
) -> Iterator[Batch]:
    """Send for an engine that answers one batch at a time.

    Args:
        batches: (group, requests), cut from all requests, answered ones included.
        gate: Decides which of them may be sent.
        answer: Answers the admitted requests of one batch.
    """
    for group, requests in batches:
        remaining = [request for request in requests if request.key in gate.missing]
        while remaining:
            admitted = list(takewhile(gate.admit, remaining))
            if not admitted:
                return
            yield answer(group, admitted)
            remaining = remaining[len(admitted) :]


def prepare(
    request: Request,
    identity: dict[str, Any],
    tokenizer: Any,
    context_tokens: int | None,
    reasoning: Reasoning = DEFAULT_REASONING,
    instead_of: Mapping[str, Any] | None = None,
) -> PreparedRequest:
    """Render a request, tokenize it and compute its key.

    A text goes to the tokenizer as it is, with the special tokens that the tokenizer
    adds; messages go through the chat template, which writes its own. Control tokens that a
    message mentions are encoded as text. Messages that the template refuses make the request
    one with an `error`.

    Args:
        request: The request of a stage.
        identity: The identity of the model, which is part of the key.
        tokenizer: The model's tokenizer; None leaves rendering and tokenizing to the server.
        context_tokens: The model's context; longer requests get an `error`.
        reasoning: How the model reasons.
        instead_of: The identity of the model in whose place this one answers.

    Example:
        >>> prepared = prepare(Request("2 + 2 ="), {"weights": {"id": "m"}}, None, None)
        >>> prepared.key
        'f14bd01dfb3e17d6013f0dba654208f8'
    """
    is_text = isinstance(request.prompt, str)
    decoding = request.decoding
    if request.role == "assistant":
        decoding = _with_room(decoding, reasoning)
    prompt: str | tuple[tuple[str, str], ...] = request.prompt
    error: str | None = None
    rendered: str | None = None
    if not isinstance(prompt, str) and tokenizer is not None:
        try:
            rendered = _rendered(tokenizer, prompt, request.role)
            if request.role == "user":
                decoding = replace(decoding, stop=(*decoding.stop, *user_turn_stops(tokenizer)))
            prompt = uncovered(tokenizer, rendered)
        except Unrenderable as refusal:
            error = str(refusal)
    elif request.role == "user":
        error = "a user's turn can only be written where the model's chat template is at hand"
    payload = encode(
        {
            "model": identity,
            "prompt" if isinstance(prompt, str) else "messages": prompt,
            "special_tokens": is_text,
            "decoding": _decoding_payload(decoding),
            "seed": request.seed,
            "sample": request.sample,
            **({"resample": request.resample} if request.resample else {}),
            **({"instead_of": instead_of} if instead_of else {}),
            # Other tokens of the same text: control tokens that a turn mentions.
            **({"literal": True} if rendered not in (None, prompt) else {}),
        }
    )
    tokens: tuple[int, ...] = ()
    if tokenizer is not None and error is None:
        tokens = tuple(
            tokenizer(prompt, add_special_tokens=is_text)["input_ids"]
            if rendered in (None, prompt)
            else tokenize(tokenizer, rendered)[0]
        )
    size = len(tokens) if tokenizer is not None else len(prompt)
    limit = context_tokens if tokens else None
    return PreparedRequest(
        key=blake2b(payload, digest_size=16).hexdigest(),
        payload=payload.decode("utf-8"),
        prompt=prompt,
        tokens=tokens,
        decoding=decoding,
        error=error or _length_error(size, decoding.max_tokens, limit),
        reasoning=reasoning,
        resample=request.resample,
        stop_tokens=stop_tokens(tokenizer, decoding.stop),
    )


def _with_room(decoding: Decoding, reasoning: Reasoning) -> Decoding:
    """The decoding of a request to a model that reasons: with room for it, and its effort."""
    return replace(
        decoding,
        max_tokens=decoding.max_tokens + reasoning.max_tokens,
        reasoning_effort=decoding.reasoning_effort or reasoning.effort,
    )


def _rendered(tokenizer: Any, prompt: Sequence[tuple[str, str]], role: str) -> str:
    """Messages as the chat template renders them, covered, ready for the next turn of a role.

    Raises:
        Unrenderable: The template refuses them.
    """
    messages = cover(tokenizer, [{"role": r, "content": content} for r, content in prompt])
    if role == "user":
        return opened_user_turn(tokenizer, messages)
    return chat_text(tokenizer, messages, add_generation_prompt=True)


def complete(
    prepared: Sequence[PreparedRequest],
    journal: Journal,
    send: Send,
    ctx: EngineContext,
    billing: Billing = UNBILLED,
) -> list[Completion]:
    """Complete requests: from the journal, or by sending them; see the module's docstring.

    Args:
        prepared: The requests, of one model.
        journal: Where answers are looked up and made durable, with what they are billed.
        send: How the engine sends what has no answer.
        ctx: The stage's budget, counters and progress.
        billing: Who bills the requests.

    Returns:
        One completion for each request, in order.

    Raises:
        UserError: The budget is exhausted before all are answered (exit code 5). In a partial
            run these requests have an error instead.
    """
    unique = {p.key: p for p in prepared if p.error is None}
    responses = journal.get_many(list(unique))
    missing = frozenset(unique.keys() - responses.keys())
    gate = Gate.of(missing, ctx.budget, billing, journal)
    ctx.count(cached=len(responses))
    failures: dict[str, str] = {}
    ended: set[str] = set()
    try:
        for batch in send(list(unique.values()), gate) if gate.missing else ():
            responses |= _store(batch, journal, gate, ctx)
            failures |= {p.key: r.why for p, r in batch if isinstance(r, Failure)}
            ended.update(p.key for p, r in batch if not isinstance(r, Discarded))
            if len(ended) < len(gate.missing):
                ctx.progress(len(unique) - len(gate.missing) + len(ended), len(unique))
    finally:
        gate.close()
    if remaining := gate.missing - ended:
        if not ctx.budget.partial:
            raise ctx.budget.exhausted(len(remaining))
        failures |= dict.fromkeys(remaining, ctx.budget.leave_out(len(remaining)))
        ctx.count(not_asked=len(remaining))
    return [completion_of(p, _parsed(journal, p, responses), failures.get(p.key)) for p in prepared]


def _store(
    batch: Batch, journal: Journal, gate: Gate, ctx: EngineContext
) -> dict[str, dict[str, Any]]:
    """Make the answers of a batch durable, with what all of it is billed, and count that.

    Returns:
        The responses by key, as the journal has them.
    """
    entries = [
        JournalEntry(p.key, p.payload, result, p.sent)
        for p, result in batch
        if not isinstance(result, Failure | Discarded)
    ]
    billed = [_billed(prepared, result) for prepared, result in batch]
    charge = gate.billing.charge(ctx.budget, [tokens for tokens in billed if tokens is not None])
    ended = [prepared.key for prepared, _ in batch]
    journal.put_many(entries, charge, (gate.batch, ended) if gate.batch else None)
    ctx.count(**(charge.counters() if charge else {}))
    if failed := sum(isinstance(r, Failure) for _, r in batch):
        ctx.count(unanswered=failed)
    for (request, result), tokens in zip(batch, billed, strict=True):
        # What was thrown away is reconciled already: its request is sent again meanwhile.
        if not isinstance(result, Discarded):
            gate.reconcile(request, tokens)
    return journal.get_many([entry.key for entry in entries])


def _billed(
    prepared: PreparedRequest, result: RawResponse | Failure | Discarded
) -> TokenUsage | None:
    """What a result is billed; None for nothing."""
    if isinstance(result, Failure | Discarded):
        return result.billed
    return billed_tokens(result, prepared.prompt_tokens)


def _parsed(
    journal: Journal, prepared: PreparedRequest, responses: Mapping[str, dict[str, Any]]
) -> ParsedResponse | None:
    """The stored response to a request, None where there is none."""
    response = responses.get(prepared.key)
    return None if response is None else parse_stored(journal.path, prepared.key, response)


def completion_of(
    prepared: PreparedRequest, parsed: ParsedResponse | None, failure: str | None = None
) -> Completion:
    """What a stage gets for a request.

    Args:
        prepared: The request.
        parsed: Its response; None where there is none.
        failure: Why there is none, if it was sent.
    """
    if parsed is None:
        tokens = len(prepared.tokens)
        why = prepared.error or failure or "it was not answered"
        unsent = prepared.error is not None
        return Completion(prepared.key, "", "error", tokens, 0, why, unsent=unsent)
    answer = answer_of(parsed, prepared.prompt, prepared.decoding, prepared.reasoning)
    reason = "withheld" if parsed.error else parsed.finish_reason
    return Completion(
        key=prepared.key,
        text=answer.answer,
        finish_reason="reasoning_unclosed" if answer.unclosed and not parsed.error else reason,
        prompt_tokens=parsed.prompt_tokens,
        completion_tokens=parsed.completion_tokens,
        error=parsed.error,
        logprobs=answer_logprobs(parsed.logprobs, answer, prepared.reasoning),
        reasoning=answer.reasoning,
    )


ALWAYS_ENCODED: Final = frozenset(
    {"max_tokens", "temperature", "top_p", "presence_penalty", "stop"}
)
"""Fields of Decoding that are in every payload; the others only if they are not the default."""
_DEFAULTS: Final = {f.name: f.default for f in fields(Decoding)}


def _decoding_payload(decoding: Decoding) -> dict[str, Any]:
    """The fields of a payload. Integers become floats where floats are meant: 1 equals 1.0."""
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
    values = asdict(decoding) | {name: float(getattr(decoding, name)) for name in names}
    return {k: v for k, v in values.items() if k in ALWAYS_ENCODED or v != _DEFAULTS[k]}


def _length_error(prompt: int, answer: int, context: int | None) -> str | None:
    """Why a request is not sent. Truncating the prompt would make it another request."""
    if prompt == 0:
        return "the prompt has no tokens"
    if context is not None and prompt + answer > context:
        return (
            f"the prompt has {prompt} tokens; with max_tokens={answer} that exceeds "
            f"the model's context of {context}"
        )
    return None
