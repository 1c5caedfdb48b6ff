"""Counting the requests of a stage by running it against engines that send nothing.

`plan` says what requests a stage will send before its first run. Nothing says it
twice: the stage's own steps are run on a sample of its rows, every request is counted, and
is answered at once with a sample of a good answer, so that the steps behind it are counted
too. Filters on content are off meanwhile (`is_counting`), since a sample says nothing about
how many real answers pass: an estimate is as if nothing were dropped on the way.

Of a stage that was stopped the journal knows the first answers. It is then given these, with
its filters on, until it asks what the journal does not know: so it goes the way that it went,
and what is counted is what is left to send.

The sample of an answer stands beside the prompt, as `<name>.answer.jinja`, where a parser
needs a form; it is rendered with the prompt's own values, and `{n}` in it becomes a number
of its own for each request. Prompts without one are answered with a numbered list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.models.base import Completion, LanguageModel, Request, Scored

CHARACTERS_PER_TOKEN: Final = 4
"""About: English prose under the usual vocabularies."""

TEMPLATE_TOKENS: Final = 8
"""What a chat template puts around a prompt, about."""

TEMPLATE_LIMIT: Final = 64
"""The same at most: some put a system prompt of their own there."""

REPAIR_TOKENS: Final = 1000
"""What asks a model to repair its answer, at most: a sentence with what is wrong with it."""

DIMENSIONS: Final = 16
_FILLER: Final = (
    "A numbered answer.\n1. The first part {n}?\n2. The second part {n}?\n3. The third {n}?"
)
MAX_TEXTS: Final = 50
"""Texts that are rendered of one prompt file."""


@dataclass
class _Count:
    """One count.

    Attributes:
        replays: Whether the journal's answers are used.
        only_known: Whether all answers so far were such.
        rendering: Whether a prompt is being rendered.
        filters_off: Whether a filter let everything pass.
        texts: Rendered prompts by file.
        samples: Answers by prompt.
    """

    replays: bool
    only_known: bool
    rendering: bool = False
    filters_off: bool = False
    texts: dict[str, list[str]] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)


_count: ContextVar[_Count | None] = ContextVar("count", default=None)


def is_counting() -> bool:
    """Whether requests are only counted: filters on what was answered let everything pass."""
    count = _count.get()
    if count is None or (count.only_known and not count.rendering):
        return False
    # Samples are noted with every prompt, whatever the filters do.
    count.filters_off = count.filters_off or not count.rendering
    return True


def assumes_nothing_dropped() -> bool:
    """Whether a filter has let everything pass in the count that is under way."""
    count = _count.get()
    return count is not None and count.filters_off


def note_sample(prompt: str, answer: str) -> None:
    """Remember what a prompt may be answered with, while requests are counted."""
    count = _count.get()
    if count is not None:
        count.samples[prompt.strip()] = answer


def rendered(prompt_file: str, render: Callable[[], str]) -> str:
    """A prompt's text; while requests are counted, one of the first texts of its file again.

    The length of a prompt is known well enough from these, and rendering tens of thousands
    would take minutes. Where the journal's answers are used, each text is itself: it is what
    they are found by.

    Args:
        prompt_file: What the texts are kept under.
        render: Renders the prompt.
    """
    count = _count.get()
    if count is None:
        return render()
    kept = count.texts.setdefault(prompt_file, [])
    if count.replays or len(kept) < MAX_TEXTS:
        count.rendering = True
        try:
            text = render()
        finally:
            count.rendering = False
        kept.append(text)
        return text
    kept.append(kept.pop(0))
    return kept[-1]


@contextmanager
def counting(replays: bool = False) -> Iterator[None]:
    """Within it, `is_counting` is true and samples of answers are noted.

    Args:
        replays: Whether engines have answers of the journal: `is_counting` is true once one of
            them had to make an answer up.
    """
    token = _count.set(_Count(replays, only_known=replays))
    try:
        yield
    finally:
        _count.reset(token)


KnownAnswers = Callable[[Sequence[Request]], list[Completion | None]]
"""The journal's answers to requests; None for those that it does not have."""


@dataclass
class RequestCount:
    """Requests to one model so far, with their tokens.

    Args:
        requests: Requests that would be sent.
        prompt_tokens: Tokens of their prompts.
        answer_tokens: Tokens of their answers, as long as answers are known to be.
        most_requests: Requests that may be sent, if answers must be requested again.
        most_prompt: The most tokens of the prompts of all these.
        limit_tokens: Tokens of their answers, as long as they may be.
        known: Requests that the journal answers; they are in no other number.
    """

    requests: int = 0
    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0
    most_requests: int = 0
    most_prompt: float = 0.0
    limit_tokens: float = 0.0
    known: int = 0

    def may_send(self, prompt: int, answer: int) -> None:
        """Count a request that may be sent, in the numbers of all that may.

        Args:
            prompt: The most tokens of its prompt.
            answer: The most tokens of its answer.
        """
        self.most_requests += 1
        self.most_prompt += prompt
        self.limit_tokens += answer


@dataclass
class CountingEngine:
    """Answers requests with samples, and counts them; see `pipeline.models.base.Engine`.

    Args:
        model: The model that it stands in for.
        mean_answer: Tokens of an answer where they are known from earlier requests;
            None takes every answer for as long as its limit allows.
        beyond: The most by which an answer was billed beyond its limit; likewise.
        count: The requests so far.
        context_tokens: The longest sequence; None for any.
        answers: Looks answers up in the journal; None where it has none of the model.
        made_up: The keys of the answers that are samples.
        fallback: What is counted of its fallback; None where it has none.
        tokenizer: The model's tokenizer; a stand-in by default: whoever counts needs no
            vocabulary.
        weights: None: nothing is loaded.

    Example:
        >>> with counting():
        ...     engine = CountingEngine(LanguageModel(model="any"))
        ...     (answer,) = engine.generate([Request("Why?")])
        >>> engine.count.requests, answer.finish_reason
        (1, 'stop')
    """

    model: LanguageModel
    mean_answer: float | None = None
    beyond: int = 0
    count: RequestCount = field(default_factory=RequestCount)
    context_tokens: int | None = None
    answers: KnownAnswers | None = None
    made_up: set[str] = field(default_factory=set)
    fallback: CountingEngine | None = None
    tokenizer: Any = field(default_factory=lambda: _Tokenizer())

    @property
    def resample(self) -> int:
        """Nothing is sampled anew but what the journal knows to be unreadable."""
        return self.model.resample if self.answers else 0

    @property
    def name(self) -> str:
        """What rows call the model."""
        return self.model.short_name

    def known(self, requests: Sequence[Request]) -> list[bool]:
        """Which of the requests the journal answers."""
        answers = self.answers(requests) if self.answers else [None] * len(requests)
        return [answer is not None for answer in answers]

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The journal's answer to each request, or a sample of one."""
        known = self.answers(requests) if self.answers else [None] * len(requests)
        self.count.known += sum(answer is not None for answer in known)
        if None in known and (count := _count.get()):
            count.only_known = False
        return [a or self._answer(request) for a, request in zip(known, requests, strict=True)]

    @property
    def weights(self) -> Any:
        """None: what measures something else sends no requests, and does nothing here."""
        return None

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """Zeros: scoring sends no requests."""
        return [np.zeros(len(s.tokens) - s.start, np.float32) for s in sequences]

    def _answer(self, request: Request) -> Completion:
        prompt, decoding = request.prompt, request.decoding
        texts = [prompt] if isinstance(prompt, str) else [text for _, text in prompt]
        limit = self._limit(decoding.max_tokens)
        tokens = limit if self.mean_answer is None else min(limit, self.mean_answer)
        self.count.requests += 1
        self.count.prompt_tokens += TEMPLATE_TOKENS + sum(map(len, texts)) / CHARACTERS_PER_TOKEN
        self.count.answer_tokens += tokens
        self.count.may_send(most_tokens(prompt), limit)
        sample = self._sample(texts)
        if decoding.choice:
            text = sample if sample in decoding.choice else decoding.choice[0]
        elif decoding.json_schema is not None:
            text = sample or json.dumps(_smallest(json.loads(decoding.json_schema)))
        else:
            text = sample or _padded(_FILLER, tokens)
        number = str(self.count.requests)
        key = blake2b(f"{id(self)} {number}".encode(), digest_size=16).hexdigest()
        self.made_up.add(key)
        return Completion(key, text.replace("{n}", number), "stop", 0, 0)

    def _limit(self, max_tokens: int) -> int:
        """The most tokens that an answer is billed, with its reasoning."""
        return max_tokens + self.model.reasoning.max_tokens + self.beyond

    def may_repeat(
        self, request: Request, limits: Sequence[int], *, repair: bool, resample: bool
    ) -> None:
        """Count what may be sent after a request, if its answers are of no use.

        Args:
            request: The request.
            limits: The limits with which a truncated answer is requested again.
            repair: Whether an answer may be shown to the model for a better one.
            resample: Whether it may be sampled anew.
        """
        prompt, first = most_tokens(request.prompt), request.decoding.max_tokens
        larger = [limit for limit in limits if limit > first]
        for limit in larger:
            self.count.may_send(prompt, self._limit(limit))
        last = self._limit(max([first, *larger]))
        if repair:
            self.count.may_send(prompt + last + REPAIR_TOKENS, last)
        for _ in range(self.model.resample * resample):
            self.count.may_send(prompt, last)
        if self.fallback is not None:
            self.fallback.count.may_send(prompt, self.fallback._limit(first))
            self.fallback.may_repeat(request, limits, repair=repair, resample=resample)

    def _sample(self, texts: Sequence[str]) -> str | None:
        """The sample noted for the prompt file that was rendered into the request."""
        count = _count.get()
        samples = count.samples if count else {}
        for text in reversed(texts):
            exact = samples.get(text.strip())
            if exact is not None:
                return exact
            inside = [prompt for prompt in samples if prompt and prompt in text]
            if inside:
                return samples[max(inside, key=len)]
        return None


def most_tokens(prompt: str | Sequence[tuple[str, str]]) -> int:
    """The most tokens that a prompt can have: a token stands for one byte at least.

    Args:
        prompt: A text, or messages.

    Example:
        >>> most_tokens("Why?")
        68
    """
    texts = [prompt] if isinstance(prompt, str) else [text for _, text in prompt]
    template = TEMPLATE_LIMIT + 2 * TEMPLATE_TOKENS * max(0, len(texts) - 1)
    return template + sum(len(text.encode()) for text in texts)


class CountingEncoder:
    """Gives every text a vector that is like no other; nothing is loaded."""

    dimensions = DIMENSIONS

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), 16), a function of each text."""
        seeds = [int.from_bytes(blake2b(t.encode(), digest_size=8).digest(), "big") for t in texts]
        rows = [np.random.default_rng(seed).standard_normal(DIMENSIONS) for seed in seeds]
        return np.array(rows, np.float32).reshape(len(texts), DIMENSIONS)


class _Tokenizer:
    """Words as tokens, in the part of the interface that stages use."""

    bos_token = ""
    bos_token_id: int | None = None
    all_special_ids: tuple[int, ...] = ()

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = False,
        **_: Any,
    ) -> str:
        turns = [f"<{m['role']}>{m['content']}" for m in messages]
        return "".join(turns) + "<assistant>" * add_generation_prompt

    def __call__(self, text: str | Sequence[str], **_: Any) -> dict[str, Any]:
        if isinstance(text, str):
            spans = [word.span() for word in re.finditer(r"\S+", text)] or [(0, 0)]
            return {"input_ids": self.encode(text), "offset_mapping": spans}
        return {"input_ids": [self.encode(one) for one in text]}

    def encode(self, text: str, **_: Any) -> list[int]:
        return [hash(word) & 0xFFFF for word in text.split()] or [0]


def _padded(text: str, tokens: float) -> str:
    """The text, made about as long as an answer: later prompts may show it."""
    missing = int(tokens * CHARACTERS_PER_TOKEN) - len(text)
    return text + " word" * max(0, missing // 5)


def _smallest(schema: Mapping[str, Any]) -> Any:
    """The smallest value of a JSON schema, of the kinds that stages ask for."""
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _smallest(schema["anyOf"][0])
    kind = schema.get("type")
    if kind == "object":
        return {name: _smallest(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_smallest(schema.get("items", {}))] * max(1, schema.get("minItems", 1))
    if kind in ("integer", "number"):
        return schema.get("maximum", schema.get("minimum", 1))
    return True if kind == "boolean" else "word {n}"
