"""What a language model and an embedder are to a stage, whatever engine runs them.

A `LanguageModel` or `Embedder` is configuration: it stands in a stage's options
and its identity enters the fingerprint. `Context.open` turns it into an engine,
which is execution and is never hashed. Every request is keyed by its full
payload, and its raw response is durable in the journal before anything parses
it (see `journal.py`); stages see `Completion`s and never the journal.

What a model writes is data. Nothing here or in a stage evaluates it as a
template, a path or code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.records import Message

PLAIN: Final = "plain"
"""The name of the template for models that have none of their own; see `templates.py`."""
KEYS: Final = frozenset({"hf_token", "api_key"})
"""What vLLM also takes as an option, where it would reach journal and manifest."""
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


@dataclass(frozen=True)
class Limits:
    """How hard a server may be pressed. Execution only: no answer depends on it.

    concurrency: most requests in flight; how many really are is found out while sending.
    requests_per_minute, tokens_per_minute: caps (tokens: prompt and longest answer).
    timeout: seconds for one attempt. attempts: how often a request is tried before
    its row fails. patience: seconds without any answer after which nothing more is sent;
    a server that asks to wait longer than that is not waited for.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    concurrency: int = 256
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 600.0
    attempts: int = 8
    patience: float = 300.0


@dataclass(frozen=True)
class Price:
    """Money per million tokens, in whatever currency the budget is in."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    prompt: float
    completion: float


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, as a recipe names it.

    Identity: model, id, revision, dtype, chat_template, lora, tokenizer, and those
    engine_options that may change an answer (quantisation does, parallelism does not).
    All the rest says how to run it, and an answer from one engine is an answer.

    model: a folder with weights, a hub name (with `revision`), or the name under
        which the server at `base_url` knows it.
    id: an identity chosen by the user, instead of the digest of the weights.
    chat_template: a file that replaces the model's own template, or "plain".
    lora: a folder with an adapter.
    tokenizer: a folder or hub name, for a served model whose weights are elsewhere;
        prompts are then rendered here instead of by the server.
    engine_options: handed to vLLM under its own names (tensor_parallel_size,
        quantization, enable_prefix_caching, gpu_memory_utilization, ...).

    engine `transformers`: local weights, CPU or GPU. `vllm`: offline, in a process of
    its own; python: another environment's interpreter for it. `openai`: attach to
    base_url, or serve: true to start vLLM's server; api_key_env: the NAME of the
    environment variable that holds the key; served_name: what the server calls the
    model; guided: whether it is asked to hold answers to `choice` and `json_schema`.
    `replay`: the journal alone.
    price: from the recipe's `prices`, not written here. made_by: the step whose weights
    it has, from the recipe's `from`.
    """

    model: str
    engine: Literal["transformers", "vllm", "openai", "replay"] = "transformers"
    id: str | None = None
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None
    device: str | None = None
    lora: str | None = None
    tokenizer: str | None = None
    engine_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    base_url: str | None = None
    api_key_env: str | None = None
    served_name: str | None = None
    serve: bool = False
    python: str | None = None
    guided: bool = True
    limits: Limits = Limits()
    price: Price | None = None
    made_by: str | None = None


@dataclass(frozen=True)
class Embedder:
    """A sentence encoder, as a recipe names it."""

    model: str
    engine: Literal["sentence-transformers"] = "sentence-transformers"
    id: str | None = None
    revision: str | None = None
    device: str | None = None
    made_by: str | None = None


@dataclass(frozen=True)
class Decoding:
    """How an answer is sampled. temperature 0 is greedy; lengths in tokens.

    presence_penalty is subtracted once from the logit of every token that the
    answer already contains, frequency_penalty once for each time that it does
    (OpenAI's definitions). stop: texts that end the answer and are cut from it.
    top_k: sample among so many of the most probable tokens (None: all).

    choice: the answer is one of these texts. json_schema: the answer is JSON that
    fits this schema (a JSON text). Engines that can guide the sampling do; those
    that cannot send the request as it is, so the answer must be checked either way:
    `asking.ask` does that and asks for one repair.
    logprobs: for each token of the answer, so many of the most probable tokens.
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


@dataclass(frozen=True)
class Request:
    """One request. prompt: a text to continue, or messages for the chat template.

    seed and sample enter the key and the noise of the sampling: the same request
    gives the same answer, in whatever batch it is sent. Several answers to one
    prompt are requests with sample 0, 1, 2, ...
    """

    prompt: str | tuple[tuple[str, str], ...]
    decoding: Decoding = Decoding()
    seed: int = 0
    sample: int = 0


@dataclass(frozen=True)
class TokenLogprobs:
    """One token of an answer: natural-log probabilities before temperature and penalties.

    top: the most probable tokens at its place, best first, with theirs.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Completion:
    """The answer to one request. `error` is set when there is none for good.

    finish_reason: "length" says that the answer was cut at max_tokens.
    logprobs: one entry a token of the answer where the request asked for them.
    """

    key: str
    text: str
    finish_reason: Literal["stop", "length", "error"]
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Scored:
    """Token ids of which those from `start` on are to be scored (start >= 1)."""

    tokens: tuple[int, ...]
    start: int


class Engine(Protocol):
    """A language model that is running.

    tokenizer: asked of an engine that has none (a server's), it raises a UserError
        that says how to give one.
    context_tokens: how many tokens of prompt and answer it can read, if that is known.
    """

    @property
    def tokenizer(self) -> Any: ...

    @property
    def context_tokens(self) -> int | None: ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions, in the order of the requests. Answered ones are not sent again.

        A request that fails for good gives a completion with `error`: its row is failed.
        """
        ...

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """Natural-log probabilities of tokens start..end of each sequence, given what precedes.

        Raises UserError for an engine that only generates.
        """
        ...


class Encoder(Protocol):
    """An embedder that is running."""

    dimensions: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimensions); a row depends on its text alone."""
        ...


def chat(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    """Messages as the hashable prompt of a `Request`."""
    return tuple((message["role"], message["content"]) for message in messages)


def local_folder(model: str) -> Path | None:
    """The folder that the model's name points to, if it is one."""
    path = Path(model)
    return path if path.is_dir() else None


def mistakes(model: LanguageModel) -> list[str]:
    """What does not go together in a model's description; never shows what may be a key."""
    serving = model.engine in ("openai", "replay")
    rules = {
        "engine openai needs base_url, or serve: true": model.engine == "openai"
        and (model.base_url is None) != model.serve,
        f"base_url and serve are not for the engine {model.engine}": not serving
        and (model.base_url is not None or model.serve),
        "api_key_env is the NAME of an environment variable, never a key itself": model.api_key_env
        is not None
        and not _VARIABLE.fullmatch(model.api_key_env),
        "base_url holds a name, a password or a query; a key comes from the environment, "
        "by api_key_env": any(mark in (model.base_url or "") for mark in "@?#"),
        "engine_options hold a key; it comes from the environment (HF_TOKEN)": any(
            name in KEYS for name in model.engine_options
        ),
        "engine_options are vLLM's; the engine transformers takes none": model.engine
        == "transformers"
        and bool(model.engine_options),
        "a chat_template in a file needs a tokenizer: give tokenizer: FOLDER": model.base_url
        is not None
        and model.chat_template not in (None, PLAIN)
        and model.tokenizer is None
        and local_folder(model.model) is None,
        "price is not given here but in the recipe's `prices`": model.price is not None,
        "limits must be above zero": min(_numbers(model.limits)) <= 0,
    }
    return [told for told, wrong in rules.items() if wrong]


def _numbers(limits: Limits) -> list[float]:
    return [value for value in vars(limits).values() if value is not None]
