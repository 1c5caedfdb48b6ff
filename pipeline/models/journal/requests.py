"""From requests to completions by way of the journal, for every engine alike.

A request is rendered to the text that the model reads (or kept as messages, where a
server renders), keyed by its full payload and looked up. Only those without an
answer are sent, equal ones once. Each batch of raw responses is durable before
anything is parsed; what is returned is read back from the journal, so that the first
durable answer is the one that counts, in this run and in every later one.

Engines cut their batches from all requests, answered ones included, and then leave
those out: a resumed run asks what is left in the same order and company.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from itertools import takewhile
from typing import Any, Final, TypeVar

from pipeline.context import Context
from pipeline.models.base import Completion, Decoding, Price, Request
from pipeline.models.budget import Budget, Usage
from pipeline.models.journal.journal import Journal, JournalEntry
from pipeline.models.journal.responses import reading
from pipeline.store.hashing import encode

Response = dict[str, Any] | str
"""A raw response as a mapping, or as the JSON text that a server sent; see `responses.py`."""

BYTES: Final = 3
"""Bytes of a token, a low guess, to estimate what only the server tokenizes."""


@dataclass(frozen=True)
class Failure:
    """In place of a response: why there is none. It is not journalled; the next run asks again."""

    why: str


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be sent.

    prompt: the rendered text, or messages that the server renders. tokens: what the
    model reads, empty where only the server knows. error: why it cannot be sent.
    """

    key: str
    payload: str
    prompt: str | tuple[tuple[str, str], ...]
    tokens: tuple[int, ...]
    decoding: Decoding
    error: str | None = None

    @property
    def seed(self) -> int:
        """The request's own seed for engines that draw: 31 bits of its key."""
        return int(self.key[:8], 16) >> 1

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the prompt, or at least about as many."""
        if self.tokens:
            return len(self.tokens)
        texts = [self.prompt] if isinstance(self.prompt, str) else [t for _, t in self.prompt]
        return sum(len(text.encode()) // BYTES + 8 for text in texts)


Batch = list[tuple[Prepared, "Response | Failure"]]


@dataclass
class Gate:
    """Says which requests may be sent now: unanswered ones, within the budget.

    Several threads may ask. `admit` reserves the prompt and the longest answer, so a
    budget is never exceeded; `settle` gives back what was not used.
    """

    missing: frozenset[str]
    budget: Budget
    price: Price | None
    _held: dict[str, Usage] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, prepared: Prepared) -> bool:
        """Whether it may be sent now. If not: later, once others have settled, or never."""
        use = Usage.of(1, prepared.prompt_tokens, prepared.decoding.max_tokens, self.price)
        with self._lock:
            admitted = self.budget.reserve(use)
            if admitted:
                self._held[prepared.key] = use
        return admitted

    @property
    def idle(self) -> bool:
        """Whether nothing that was admitted is open: who is refused now is refused for good."""
        return not self._held

    def settle(self, prepared: Prepared, used: Usage) -> None:
        """A request has ended, with this use; it may have failed before it was admitted."""
        with self._lock:
            self.budget.settle(self._held.pop(prepared.key, Usage()), used)


Send = Callable[[list[Prepared], Gate], Iterator[Batch]]
"""Answers those of the requests that the gate admits; each batch is yielded as soon as it is there.

It ends early when the gate refuses while it is idle. The gate settles what was
yielded before the generator goes on.
"""

Group = TypeVar("Group")


def in_batches(
    batches: Iterable[tuple[Group, list[Prepared]]],
    gate: Gate,
    answer: Callable[[Group, list[Prepared]], Batch],
) -> Iterator[Batch]:
    """Send for engines that answer a batch at a time. batches: cut from all requests."""
    for group, rows in batches:
        left = [row for row in rows if row.key in gate.missing]
        while left:
            admitted = list(takewhile(gate.admit, left))
            if not admitted:
                return
            yield answer(group, admitted)
            left = left[len(admitted) :]


def prepare(
    request: Request, identity: dict[str, Any], tokenizer: Any, context_tokens: int | None
) -> Prepared:
    """Render a request, tokenize it and key it.

    A text is given to the tokenizer as it is, with the special tokens that the
    tokenizer adds; messages go through the chat template, which writes its own.
    Without a tokenizer (None) both are left to the server.
    """
    is_text = isinstance(request.prompt, str)
    prompt: str | tuple[tuple[str, str], ...] = request.prompt
    if not isinstance(prompt, str) and tokenizer is not None:
        messages = [{"role": role, "content": content} for role, content in prompt]
        prompt = str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    read = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
    payload = encode(
        {
            "model": identity,
            **read,
            "special_tokens": is_text,
            "decoding": _decoding(request.decoding),
            "seed": request.seed,
            "sample": request.sample,
        }
    )
    tokens: tuple[int, ...] = ()
    if tokenizer is not None:
        tokens = tuple(tokenizer(prompt, add_special_tokens=is_text)["input_ids"])
    size = len(tokens) if tokenizer is not None else len(prompt)
    return Prepared(
        key=blake2b(payload, digest_size=16).hexdigest(),
        payload=payload.decode("utf-8"),
        prompt=prompt,
        tokens=tokens,
        decoding=request.decoding,
        error=_refusal(size, request.decoding.max_tokens, context_tokens if tokens else None),
    )


def complete(
    prepared: Sequence[Prepared],
    journal: Journal,
    send: Send,
    ctx: Context,
    price: Price | None = None,
) -> list[Completion]:
    """The completions of these requests, in order; see the module's docstring.

    Raises UserError (exit code 5) when the budget is reached before all are answered.
    """
    unique = {p.key: p for p in prepared if p.error is None}
    known = journal.get_many(list(unique))
    gate = Gate(frozenset(unique.keys() - known.keys()), ctx.budget, price)
    ctx.count(cached=len(known))
    failures: dict[str, str] = {}
    done = 0
    for batch in send(list(unique.values()), gate) if gate.missing else ():
        answers = [(p, r) for p, r in batch if not isinstance(r, Failure)]
        journal.put_many(JournalEntry(p.key, p.payload, response) for p, response in answers)
        stored = journal.get_many([p.key for p, _ in answers])
        known |= stored
        failures |= {p.key: r.why for p, r in batch if isinstance(r, Failure)}
        for one, _ in batch:
            gate.settle(one, _used(one, stored.get(one.key), ctx, price))
        done += len(batch)
        if len(batch) < len(gate.missing):
            ctx.progress(len(unique) - len(gate.missing) + done, len(unique))
    if done < len(gate.missing):
        raise ctx.budget.reached(len(gate.missing) - done)
    return [_completion(p, known.get(p.key), failures.get(p.key)) for p in prepared]


def _used(
    prepared: Prepared, response: dict[str, Any] | None, ctx: Context, price: Price | None
) -> Usage:
    """What a request took, counted; nothing where it has no answer.

    Where a server does not say how many tokens there were, they are estimated, so that a
    budget holds there too.
    """
    if response is None:
        return Usage()
    found = reading(response)
    prompt = found.prompt_tokens or prepared.prompt_tokens
    completion = found.completion_tokens or -(-len(found.text.encode()) // BYTES)
    ctx.count(requests=1, prompt_tokens=prompt, completion_tokens=completion)
    return Usage.of(1, prompt, completion, price)


def _completion(
    prepared: Prepared, response: dict[str, Any] | None, failure: str | None
) -> Completion:
    if response is None:
        tokens = len(prepared.tokens)
        why = prepared.error or failure or "it was not answered"
        return Completion(prepared.key, "", "error", tokens, 0, why)
    found = reading(response)
    return Completion(
        key=prepared.key,
        text=found.text,
        finish_reason="error" if found.error else found.finish_reason,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        error=found.error,
        logprobs=found.logprobs,
    )


ALWAYS: Final = frozenset({"max_tokens", "temperature", "top_p", "presence_penalty", "stop"})
"""Fields of Decoding that stand in every payload; the others only where they say something."""
_DEFAULTS: Final = {f.name: f.default for f in fields(Decoding)}


def _decoding(decoding: Decoding) -> dict[str, Any]:
    """Whole numbers become floats where a float is meant: 1 and 1.0 are one request."""
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
    given = asdict(decoding) | {name: float(getattr(decoding, name)) for name in names}
    return {k: v for k, v in given.items() if k in ALWAYS or v != _DEFAULTS[k]}


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
