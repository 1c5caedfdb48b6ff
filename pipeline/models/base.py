"""What a language model and an embedder are to a stage, whatever engine runs them.

A `LanguageModel` or an `Embedder` is configuration: it is an option of a stage, and its identity
enters the fingerprint. `Context.open` turns it into an `Engine` or an `Encoder`, which is execution
and is never hashed. Every request is keyed by its full payload, and its raw response is durable in
the journal before anything parses it (see `pipeline.models.journal`); stages see `Completion`s and
never the journal.

The text of an answer is data. Nothing here or in a stage takes it as a template, a path or code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.models.api import (
    DEFAULT_LIMITS,
    DEFAULT_REASONING,
    PLAIN_API,
    Api,
    Batching,
    BatchOption,
    Limits,
    Reasoning,
)
from pipeline.models.budget import Budget, Price
from pipeline.types import Count
from schemas.records import Message

PLAIN: Final = "plain"
"""The name of the chat template for models without one; see `local/chat_template.py`."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, as a recipe names it.

    Its identity is made of `model`, `id`, `revision`, `dtype`, `chat_template`, `lora`,
    `tokenizer` and those `engine_options` that may change an answer (quantization does,
    parallelism does not). The other fields say how to run it: an answer from one engine
    serves all.

    Args:
        model: A folder with weights, a name on the hub, or the name under which the
            server at `base_url` knows it.
        engine: What runs it. `transformers`: weights in this process, on a CPU or a GPU. `vllm`:
            vLLM offline, in a process of its own. `openai`: an OpenAI-compatible server, by
            `base_url` or vLLM's own, started by `serve`. `replay`: answers of the journal alone.
        id: An identity chosen by the user, which replaces the digest of the weights.
        revision: Branch, tag or commit of a name on the hub.
        dtype: Number format of the weights.
        chat_template: A file that replaces the model's own template, or "plain".
        device: Device of torch, such as "cuda:1"; None for a GPU where there is one.
        devices: How many processes train it, each on a device of its own, with the same rows in
            each step: a number, or "auto" for as many GPUs as share a step evenly.
        accelerate: The file of `accelerate config` with their FSDP or DeepSpeed settings.
        lora: A folder with a LoRA adapter.
        tokenizer: A folder or a name on the hub, for a served model whose weights are
            elsewhere. Prompts are then rendered here instead of by the server.
        engine_options: Arguments of vLLM under their own names (tensor_parallel_size,
            quantization, enable_prefix_caching, gpu_memory_utilization, ...).
        base_url: Address of a running server, up to and with `/v1`.
        api_key_env: The NAME of the environment variable that holds the server's key.
        served_name: What the server calls the model, where that is not `model`.
        serve: Start vLLM's server for as long as a stage needs it.
        python: The interpreter of another environment, which has vLLM.
        guided: Whether a server is asked for answers by `Decoding`'s choice and json_schema alone.
        limits: How fast requests are sent to a server.
        api: Which interface a server has, and which parameters it takes.
        batch: Whether requests go to the provider's batches, which are answered within a day for
            about half the price: true, or how. A preview (`--limit`) asks one by one.
        reasoning: How it reasons before it answers.
        resample: How often an answer that cannot be read is sampled anew.
        fallback: The model, by its name in the recipe, that is asked for what this one refuses
            or fails; see `pipeline.models.ask`. It has no fallback itself.
        price: From the recipe's `prices`; never written in the model itself.
        made_by: The step that trained the weights, from the recipe's `from`.
        checkpoint: With `from`, the weights that the training kept, such as "epoch-1".
    """

    model: str
    engine: Literal["transformers", "vllm", "openai", "replay"] = "transformers"
    id: str | None = None
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None
    device: str | None = None
    devices: Count | Literal["auto"] = 1
    accelerate: str | None = None
    lora: str | None = None
    tokenizer: str | None = None
    engine_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    base_url: str | None = None
    api_key_env: str | None = None
    served_name: str | None = None
    serve: bool = False
    python: str | None = None
    guided: bool = True
    limits: Limits = DEFAULT_LIMITS
    api: Api = PLAIN_API
    batch: BatchOption = False
    reasoning: Reasoning = DEFAULT_REASONING
    resample: int = 2
    fallback: LanguageModel | None = None
    price: Price | None = None
    made_by: str | None = None
    checkpoint: str | None = None

    @property
    def short_name(self) -> str:
        """What rows call it: its id, what its server calls it, or the end of its path."""
        trained = self.made_by and "-".join(filter(None, (self.made_by, self.checkpoint)))
        name = self.id or self.served_name or trained
        return name or self.model.rstrip("/").split("/")[-1]

    @property
    def batching(self) -> Batching | None:
        """How requests go to the provider's batches; None where they are sent one by one."""
        return Batching() if self.batch is True else self.batch or None

    @property
    def price_as_sent(self) -> Price | None:
        """The price of its requests, in batches where they are sent so."""
        return self.price.in_batches() if self.price and self.batching else self.price


@dataclass(frozen=True)
class Embedder:
    """A sentence encoder, as a recipe names it.

    Args:
        model: A folder or a name on the hub.
        engine: What runs it.
        id: An identity chosen by the user, which replaces the digest of the weights.
        revision: Branch, tag or commit of a name on the hub.
        device: Device of torch, such as "cuda:1"; None for a GPU where there is one.
        made_by: The step that trained the weights, from the recipe's `from`.
    """

    model: str
    engine: Literal["sentence-transformers"] = "sentence-transformers"
    id: str | None = None
    revision: str | None = None
    device: str | None = None
    made_by: str | None = None


@dataclass(frozen=True)
class Decoding:
    """How an answer is sampled. Every field is part of a request's key.

    Args:
        max_tokens: Longest answer in tokens; a longer one is cut there.
        temperature: Divides the logits; 0 is greedy.
        top_p: Nucleus sampling: the smallest set of most probable tokens with at least
            this probability; 1 for all tokens.
        presence_penalty: Subtracted once from the logit of every token that the answer
            already contains (OpenAI's definition).
        stop: Texts that end the answer and are cut from it; a control token ends it as well.
        top_k: Sample among this many most probable tokens; None for all.
        frequency_penalty: Subtracted for each time that the answer contains it (likewise).
        choice: The answer is one of these texts.
        json_schema: The answer is JSON that matches this schema (itself a JSON text).
        logprobs: Number of most probable tokens to report for each token of the answer.
        reasoning_effort: How much a server's model reasons, such as "low"; None leaves it to
            the server.

    Engines that can restrict the sampling do so for `choice` and `json_schema`. The answer
    must be checked either way: `pipeline.models.ask.ask` does that and asks for one repair.

    Example:
        >>> Decoding(max_tokens=8, temperature=0.7, stop=("\\n",)).top_p
        1.0
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    top_k: int | None = None
    frequency_penalty: float = 0.0
    choice: tuple[str, ...] = ()
    json_schema: str | None = None
    logprobs: int = 0
    reasoning_effort: str | None = None


@dataclass(frozen=True)
class Request:
    """One request to a language model.

    `seed` and `sample` enter the key, and with it the random numbers of the sampling:
    the same request gives the same answer, in whatever batch it is sent.

    Args:
        prompt: A text to continue, or (role, content) pairs for the chat template.
        decoding: How the answer is sampled.
        seed: Seed of the stage.
        sample: Number of the answer, where several are requested for one prompt: 0, 1, 2, ...
        resample: How often it was sampled anew, because its answers could not be read.
        role: Whose turn follows. For "user" the prompt is rendered up to where a user's words
            begin, and its template's end of a turn is a stop: the template must be at hand here.

    Example:
        >>> question = chat([{"role": "user", "content": "Name a sea."}])
        >>> warm = Decoding(max_tokens=8, temperature=1.0)
        >>> requests = [Request(question, warm, seed=1, sample=i) for i in range(3)]
        >>> len(set(requests)), requests[0].prompt
        (3, (('user', 'Name a sea.'),))
    """

    prompt: str | tuple[tuple[str, str], ...]
    decoding: Decoding = Decoding()
    seed: int = 0
    sample: int = 0
    resample: int = 0
    role: Literal["assistant", "user"] = "assistant"


@dataclass(frozen=True)
class TokenLogprobs:
    """The log-probability of one token of an answer, before temperature and penalties.

    Args:
        token: The token as text.
        logprob: Its natural-log probability.
        top: The most probable tokens there with their natural-log probabilities, best first.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Completion:
    """The answer to one request.

    Args:
        key: The request's key in the journal: 32 hex digits.
        text: The answer, without the text that stopped it and without reasoning.
        finish_reason: "stop" for a complete answer, "length" for one that was cut at
            `max_tokens`, "reasoning_unclosed" for reasoning that did not come to an answer,
            "withheld" for one that the provider's filter took away, "error" for none.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Those of the answer.
        error: Why there is no answer and will be none; None where there is one.
        logprobs: One entry for each token of the answer, if the request asked for them.
        reasoning: What the model reasoned before it; empty where it did not.
        unsent: Whether the request cannot be sent at all: no later run will get an answer.
    """

    key: str
    text: str
    finish_reason: Literal["stop", "length", "reasoning_unclosed", "withheld", "error"]
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    reasoning: str = ""
    unsent: bool = False


@dataclass(frozen=True)
class Scored:
    """A token sequence of which a part is scored.

    Args:
        tokens: Token ids.
        start: Index of the first token to be scored, at least 1: the first has no context.
        prefix: Token ids before `tokens`, computed once for all sequences of a call with them.
    """

    tokens: tuple[int, ...]
    start: int
    prefix: tuple[int, ...] = ()

    def joined(self) -> Scored:
        """The sequence behind its prefix as one: what its likelihoods are defined by."""
        return Scored(self.prefix + self.tokens, len(self.prefix) + self.start)


class Engine(Protocol):
    """A running language model, as a stage sees it.

    Attributes:
        tokenizer: That of transformers; a UserError where only the server has it.
        context_tokens: Tokens of prompt and answer together; None where that is not known.
        weights: The model of transformers, in evaluation mode, not to be changed; a UserError
            where it is not in this process, None where requests are only counted.
        resample: How often an answer that cannot be read is sampled anew.
        fallback: What is asked for what this one refuses or fails; None for nothing.
        name: What rows call it.
    """

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> Any: ...

    @property
    def resample(self) -> int: ...

    @property
    def fallback(self) -> Engine | None: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def context_tokens(self) -> int | None: ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer requests; those that the journal already answers are not sent again.

        Returns:
            One completion for each request, in order. A request that fails for good has
            one with `error`: its row is failed.

        Raises:
            UserError: The budget is exhausted, or no request can be answered (a wrong
                key, a server that is not there).
        """
        ...

    def known(self, requests: Sequence[Request]) -> list[bool]:
        """Which of the requests the journal answers."""
        ...

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """Score token sequences.

        Returns:
            For each sequence log p of its tokens from `start` on, each given all tokens before
            it: float32 of shape (len(tokens) - start,).

        Raises:
            UserError: The engine only generates.
        """
        ...


class Encoder(Protocol):
    """A running embedder, as a stage sees it.

    Attributes:
        dimensions: Length of a vector.
    """

    dimensions: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimensions); a row depends on its text alone."""
        ...


class EngineContext(Protocol):
    """What an engine needs of the stage that uses it; `pipeline.context.Context` has it.

    Attributes:
        work: A folder for log files.
        store: The folder of the store, in which the journal is.
        budget: What may be sent.
    """

    work: Path
    store: Path
    budget: Budget

    def count(self, **used: int) -> None:
        """Add to the stage's counters, such as `requests` or `tokens`."""
        ...

    def progress(self, done: float, total: float | None = None) -> None:
        """Report progress in requests or sequences."""
        ...


def chat(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    """Messages as the hashable prompt of a `Request`.

    Example:
        >>> chat([{"role": "user", "content": "Hello"}])
        (('user', 'Hello'),)
    """
    return tuple((message["role"], message["content"] or "") for message in messages)


def local_folder(model: str) -> Path | None:
    """The folder that a model's name points to, or None if it is not a folder."""
    return Path(model) if os.path.isdir(model) else None  # False for a name that is too long
