"""The engine for weights in this process: transformers, on a CPU or a GPU.

A row's floats depend on that row alone, on one kind of machine. Matrix products round
differently for other shapes, so the shape of a batch is a function of the request's own
length: prompts are padded on the left to a power of two, the number of rows is fixed for
each width, and copies of the first row fill a batch that is not full. The number of
threads is that of the machine's cores, whatever the environment says, so that it does
not depend on the number of workers either.
"""

# mypy: allow-untyped-calls
# (transformers leaves many of its constructors without annotations)

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer
from transformers.utils.logging import disable_progress_bar

from pipeline.errors import UserError
from pipeline.models.base import EngineContext, LanguageModel, Scored
from pipeline.models.engines.journaled import JournaledEngine, scored_tokens
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.requests import Batch, PreparedRequest, in_batches
from pipeline.models.local.chat_template import load_tokenizer, smallest, source
from pipeline.models.local.likelihood import Likelihoods
from pipeline.models.local.rendering import Rendering
from pipeline.models.local.sampling import Answers, Choices, Sampler
from pipeline.models.local.shared_prefix import PrefixedLikelihoods
from pipeline.models.local.threads import fix_threads

MIN_WIDTH: Final = 64
"""Tokens of the narrowest batch."""
MAX_ROWS: Final = {"cpu": 32, "cuda": 128}
"""Most rows of a batch, by kind of device."""
MAX_PROMPT_TOKENS: Final = {"cpu": 16_384, "cuda": 131_072}
"""Most tokens of all prompts of a batch, padding included, by kind of device."""


class Transformers:
    """A language model in memory.

    Args:
        model: The model.

    Attributes:
        device: Where the weights are.
        tokenizer: The tokenizer with its chat template.
        model: The model of transformers.
        eos: The ids of all tokens that end an answer.
        rendering: How prompts are rendered.
        likelihoods: Scores token sequences.
        prefixed: Scores those that share a prefix, and others by `likelihoods`.

    Raises:
        UserError: The tokenizer cannot be loaded.
        OSError: The weights cannot be read.
        ValueError: The weights are of no known architecture.
    """

    process = False

    def __init__(self, model: LanguageModel) -> None:
        fix_threads()
        disable_progress_bar()
        # It warns of widths beyond the context; they include padding, positions do not.
        logging.getLogger("transformers.generation.stopping_criteria").setLevel(logging.ERROR)
        self.device = torch.device(model.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tokenizer = load_tokenizer(model)
        weights: Any = AutoModelForCausalLM.from_pretrained(
            **source(model), dtype=getattr(torch, model.dtype)
        )
        if model.lora is not None:
            from peft import PeftModel

            weights = PeftModel.from_pretrained(weights, model.lora).merge_and_unload()
        self.model = weights.to(self.device).eval()
        self.eos = _end_tokens(self.model, self.tokenizer)
        # The folder's defaults for decoding would be merged into every request; decoding
        # is what the request says, and no more.
        self.model.generation_config = GenerationConfig()
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.rendering = Rendering(model, smallest(positions, self.tokenizer), self.tokenizer)
        self.likelihoods = Likelihoods(self.model)
        self.prefixed = PrefixedLikelihoods(self.likelihoods)

    def bind(
        self, model: LanguageModel, identity: dict[str, Any], ctx: EngineContext
    ) -> TransformersEngine:
        """The engine for one stage; see `registry.Loaded`."""
        return TransformersEngine(self, model, identity, ctx)

    def close(self) -> None:
        """Nothing is running."""


class TransformersEngine(JournaledEngine):
    """A language model in memory as one stage sees it.

    Args:
        loaded: The weights and the tokenizer.
        model: The model, as the stage names it.
        identity: The identity of the model.
        ctx: The store, the budget and the counters of the stage.
    """

    def __init__(
        self,
        loaded: Transformers,
        model: LanguageModel,
        identity: dict[str, Any],
        ctx: EngineContext,
    ) -> None:
        super().__init__(loaded.rendering, model, identity, ctx)
        self._loaded = loaded

    @property
    def weights(self) -> Any:
        """The model of transformers; see `pipeline.models.base.Engine`."""
        return self._loaded.model

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """See `pipeline.models.local.likelihood` and, behind a prefix, `shared_prefix`."""
        self._ctx.count(tokens=scored_tokens(sequences))
        return self._loaded.prefixed.score(sequences, self._ctx.progress)

    def _send(self, prepared: list[PreparedRequest], gate: Gate) -> Iterator[Batch]:
        def answer(width: int, rows: list[PreparedRequest]) -> Batch:
            return _answer(self._loaded, width, rows)

        return in_batches(batches(prepared, self._loaded.device.type), gate, answer)


def load(model: LanguageModel) -> Transformers:
    """Load a model.

    Raises:
        UserError: The folder or the name has no model that can be loaded.
    """
    try:
        return Transformers(model)
    except (OSError, ValueError) as error:
        raise UserError(
            "the language model cannot be loaded",
            where=model.model,
            why=str(error).strip().splitlines()[0],
        ) from error


def width_of(tokens: int) -> int:
    """The width that a prompt is padded to: a power of two.

    Example:
        >>> [width_of(tokens) for tokens in (1, 64, 65, 2000)]
        [64, 64, 128, 2048]
    """
    return max(MIN_WIDTH, 1 << (tokens - 1).bit_length())


def rows_of(width: int, device: str) -> int:
    """The number of rows of a batch of this width, fixed for a kind of device.

    Example:
        >>> [rows_of(width, "cpu") for width in (64, 512, 1024, 16_384)]
        [32, 32, 16, 4]
    """
    limit = MAX_PROMPT_TOKENS.get(device, 16_384)
    return max(4, min(MAX_ROWS.get(device, 32), limit // width))


def batches(
    prepared: Sequence[PreparedRequest], device: str
) -> Iterator[tuple[int, list[PreparedRequest]]]:
    """Batches as (width, requests).

    Requests with similar max_tokens are in one batch, since the longest decides how long it
    takes.
    """
    by_width: dict[int, list[PreparedRequest]] = {}
    for row in sorted(prepared, key=lambda p: p.decoding.max_tokens):
        by_width.setdefault(width_of(len(row.tokens)), []).append(row)
    for width, rows in sorted(by_width.items()):
        size = rows_of(width, device)
        for start in range(0, len(rows), size):
            yield width, rows[start : start + size]


@torch.inference_mode()
def _answer(loaded: Transformers, width: int, rows: list[PreparedRequest]) -> Batch:
    size = rows_of(width, loaded.device.type)
    steps = max(row.decoding.max_tokens for row in rows)
    filled = rows + [rows[0]] * (size - len(rows))
    tokens = torch.zeros(size, width, dtype=torch.long)
    mask = torch.zeros(size, width, dtype=torch.long)
    for i, row in enumerate(filled):
        tokens[i, width - len(row.tokens) :] = torch.tensor(row.tokens)
        mask[i, width - len(row.tokens) :] = 1
    choices = _choices(loaded, rows)
    answers = Answers(rows, size, loaded.eos, loaded.tokenizer, choices)
    sampler = Sampler(filled, steps, loaded.device, choices)
    loaded.model.generate(
        input_ids=tokens.to(loaded.device),
        attention_mask=mask.to(loaded.device),
        generation_config=GenerationConfig(max_new_tokens=steps, do_sample=False),
        logits_processor=LogitsProcessorList([sampler]),
        stopping_criteria=StoppingCriteriaList([answers]),
        past_key_values=_cache(loaded.model.config),
    )
    return [(row, answers.response(i, sampler.record.get(i))) for i, row in enumerate(rows)]


def _choices(loaded: Transformers, rows: Sequence[PreparedRequest]) -> list[Choices | None]:
    of_texts = cache(lambda texts, limit: Choices(texts, loaded.tokenizer, loaded.eos, limit))
    decodings = [row.decoding for row in rows]
    return [of_texts(d.choice, d.max_tokens) if d.choice else None for d in decodings]


class PreallocatedLayer(DynamicLayer):
    """A cache layer that is allocated for 256 more tokens each time it is full.

    DynamicLayer copies all keys and values for each new token, which is more than half of
    the time of a small model on a CPU; this one copies every 256 tokens.
    """

    extra_tokens = 256

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers: list[torch.Tensor] = []
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.buffers or end > self.buffers[0].shape[-2]:
            self.buffers = [self._allocate(new, end) for new in (key_states, value_states)]
            for buffer, old in zip(self.buffers, (self.keys, self.values), strict=True):
                if start and old is not None:
                    buffer[:, :, :start] = old
        self.buffers[0][:, :, start:end] = key_states
        self.buffers[1][:, :, start:end] = value_states
        keys, values = (buffer[:, :, :end] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values

    def _allocate(self, states: torch.Tensor, end: int) -> torch.Tensor:
        batch, heads, _, width = states.shape
        return states.new_empty(batch, heads, end + self.extra_tokens, width)


def _cache(config: Any) -> DynamicCache | None:
    """A preallocated cache, for models that keep all keys and values; None for others."""
    cache = DynamicCache(config=config)
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [PreallocatedLayer() for _ in cache.layers]
    return cache


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The ids of all tokens that end an answer: the model's (one or a list) and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    tokens = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    return {int(token) for token in tokens if token is not None}
