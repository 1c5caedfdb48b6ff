"""What a language model and an embedder are to a stage, whatever engine runs them.

A `LanguageModel` or `Embedder` is configuration: it stands in a stage's options
and its identity enters the fingerprint. `Context.open` turns it into an engine,
which is execution and is never hashed. Every request is keyed by its full
payload, and its raw response is durable in the journal before anything parses
it (see `journal.py`); stages see `Completion`s and never the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.records import Message


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, as a recipe names it.

    engine and device say how to run it and are no part of its identity.
    model: a folder with weights, or a hub name (with `revision`).
    id: an identity chosen by the user, instead of the digest of the weights.
    chat_template: a file that replaces the model's own template.
    """

    model: str
    engine: Literal["transformers"] = "transformers"
    id: str | None = None
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Embedder:
    """A sentence encoder, as a recipe names it."""

    model: str
    engine: Literal["sentence-transformers"] = "sentence-transformers"
    id: str | None = None
    revision: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Decoding:
    """How an answer is sampled. temperature 0 is greedy; lengths in tokens.

    presence_penalty is subtracted once from the logit of every token that the
    answer already contains (OpenAI's definition). stop: texts that end the
    answer and are cut from it.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One request. prompt: a text to continue, or messages for the chat template.

    seed and sample enter the key and the noise of the sampling: the same request
    gives the same answer, in whatever batch it is sent.
    """

    prompt: str | tuple[tuple[str, str], ...]
    decoding: Decoding = Decoding()
    seed: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Completion:
    """The answer to one request. `error` is set when there is none for good."""

    key: str
    text: str
    finish_reason: Literal["stop", "length", "error"]
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None


@dataclass(frozen=True)
class Scored:
    """Token ids of which those from `start` on are to be scored (start >= 1)."""

    tokens: tuple[int, ...]
    start: int


class Engine(Protocol):
    """A language model that is running.

    context_tokens: how many tokens of prompt and answer it can read, if that is limited.
    """

    tokenizer: Any
    context_tokens: int | None

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions, in the order of the requests. Answered ones are not sent again."""
        ...

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """Natural-log probabilities of tokens start..end of each sequence, given what precedes."""
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
