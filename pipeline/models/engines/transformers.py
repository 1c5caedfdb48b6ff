"""The engine that is always there: transformers, on a CPU or a GPU.

A row's floats depend on that row alone, on one kind of machine. Matrix products
round differently for other shapes, so the shape of a batch is a function of the
request's own length: prompts are padded on the left to a power of two, the number
of rows is fixed for each width, and rows that only fill the batch take the places
left over. The number of threads is that of the machine's cores, whatever the
environment says, so that it does not follow the number of workers either.
"""

# mypy: allow-untyped-calls
# (transformers leaves many of its constructors without annotations)

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
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

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Completion, LanguageModel, Request, Scored
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.requests import Batch, Gate, Prepared, complete, in_batches, prepare
from pipeline.models.local.chat_template import load_tokenizer, smallest, source
from pipeline.models.local.likelihood import Likelihoods
from pipeline.models.local.sampling import Answers, Choices, Sampler
from pipeline.models.local.threads import fix_threads

NARROWEST: Final = 64
ROWS: Final = {"cpu": 32, "cuda": 128}
PROMPT_TOKENS: Final = {"cpu": 16_384, "cuda": 131_072}
"""Rows of a batch at most, and tokens of its prompts at most, by kind of device."""


class Transformers:
    """The weights, tokenizer and limits of a language model in memory."""

    process = False

    def __init__(self, model: LanguageModel) -> None:
        fix_threads()
        disable_progress_bar()
        # It warns of widths beyond the context; padding counts in them, positions do not.
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
        # What the folder recommends for decoding would be merged into every request
        # that does not say otherwise; decoding is what the request says, and no more.
        self.model.generation_config = GenerationConfig()
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.context_tokens = smallest(positions, self.tokenizer)
        self.likelihoods = Likelihoods(self.model)

    def bind(
        self, model: LanguageModel, identity: dict[str, Any], ctx: Context
    ) -> TransformersEngine:
        return TransformersEngine(self, model, identity, ctx)

    def close(self) -> None:
        """Nothing is running."""


class TransformersEngine:
    """A language model as one stage sees it: bound to a journal and to counters."""

    def __init__(
        self, loaded: Transformers, model: LanguageModel, identity: dict[str, Any], ctx: Context
    ) -> None:
        self.tokenizer = loaded.tokenizer
        self.context_tokens = loaded.context_tokens
        self._loaded, self._identity, self._ctx = loaded, identity, ctx
        self._price = model.price

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self._ctx.store / "journal")

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions, in the order of the requests; see `pipeline.models.journal.requests`."""
        prepared = [
            prepare(r, self._identity, self.tokenizer, self.context_tokens) for r in requests
        ]
        return complete(prepared, self._journal, self._send, self._ctx, self._price)

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """See `pipeline.models.local.likelihood`."""
        self._ctx.count(tokens=sum(len(s.tokens) for s in sequences))
        return self._loaded.likelihoods.score(sequences, self._ctx.progress)

    def _send(self, prepared: list[Prepared], gate: Gate) -> Iterator[Batch]:
        def answer(width: int, rows: list[Prepared]) -> Batch:
            return _answer(self._loaded, width, rows)

        return in_batches(batches(prepared, self._loaded.device.type), gate, answer)


def load(model: LanguageModel) -> Transformers:
    """Load a model. Raises UserError for a folder or name that holds none."""
    try:
        return Transformers(model)
    except (OSError, ValueError) as error:
        raise UserError(
            "the language model cannot be loaded",
            where=model.model,
            why=str(error).strip().splitlines()[0],
        ) from error


def width_of(tokens: int) -> int:
    """The width that a prompt is padded to: a power of two."""
    return max(NARROWEST, 1 << (tokens - 1).bit_length())


def rows_of(width: int, device: str) -> int:
    """The number of rows of a batch of this width, fixed for a kind of device."""
    return max(4, min(ROWS.get(device, 32), PROMPT_TOKENS.get(device, 16_384) // width))


def batches(prepared: Sequence[Prepared], device: str) -> Iterator[tuple[int, list[Prepared]]]:
    """Batches of one width each; rows with like max_tokens together, as the longest decides."""
    by_width: dict[int, list[Prepared]] = {}
    for row in sorted(prepared, key=lambda p: p.decoding.max_tokens):
        by_width.setdefault(width_of(len(row.tokens)), []).append(row)
    for width, rows in sorted(by_width.items()):
        size = rows_of(width, device)
        for start in range(0, len(rows), size):
            yield width, rows[start : start + size]


@torch.inference_mode()
def _answer(loaded: Transformers, width: int, rows: list[Prepared]) -> Batch:
    size = rows_of(width, loaded.device.type)
    steps = max(row.decoding.max_tokens for row in rows)
    filled = rows + [rows[0]] * (size - len(rows))
    tokens = torch.zeros(size, width, dtype=torch.long)
    mask = torch.zeros(size, width, dtype=torch.long)
    for i, row in enumerate(filled):
        tokens[i, width - len(row.tokens) :] = torch.tensor(row.tokens)
        mask[i, width - len(row.tokens) :] = 1
    held = _choices(loaded, rows)
    answers = Answers(rows, size, loaded.eos, loaded.tokenizer, held)
    sampler = Sampler(filled, steps, loaded.device, held)
    loaded.model.generate(
        input_ids=tokens.to(loaded.device),
        attention_mask=mask.to(loaded.device),
        generation_config=GenerationConfig(max_new_tokens=steps, do_sample=False),
        logits_processor=LogitsProcessorList([sampler]),
        stopping_criteria=StoppingCriteriaList([answers]),
        past_key_values=_cache(loaded.model.config),
    )
    return [(row, answers.response(i, sampler.record.get(i))) for i, row in enumerate(rows)]


def _choices(loaded: Transformers, rows: Sequence[Prepared]) -> list[Choices | None]:
    made: dict[tuple[str, ...], Choices | None] = {(): None}
    for texts in {row.decoding.choice for row in rows} - {()}:
        made[texts] = Choices(texts, loaded.tokenizer, loaded.eos)
    return [made[row.decoding.choice] for row in rows]


class RoomyLayer(DynamicLayer):
    """A cache layer with room to grow.

    The library's own copies all keys and values for each new token, which is more
    than half of the time of a small model on a CPU; this one copies every 256 tokens.
    """

    room = 256

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.space: list[torch.Tensor] = []
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.space or end > self.space[0].shape[-2]:
            self.space = [self._grown(new, end) for new in (key_states, value_states)]
            for space, old in zip(self.space, (self.keys, self.values), strict=True):
                if start and old is not None:
                    space[:, :, :start] = old
        self.space[0][:, :, start:end] = key_states
        self.space[1][:, :, start:end] = value_states
        keys, values = (space[:, :, :end] for space in self.space)
        self.keys, self.values = keys, values
        return keys, values

    def _grown(self, like: torch.Tensor, end: int) -> torch.Tensor:
        batch, heads, _, width = like.shape
        return like.new_empty(batch, heads, end + self.room, width)


def _cache(config: Any) -> DynamicCache | None:
    """A cache with room in it, for models that keep all keys and values; None for others."""
    cache = DynamicCache(config=config)
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """All tokens that end an answer: the model's (one or a list) and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    found = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    return {int(token) for token in found if token is not None}
