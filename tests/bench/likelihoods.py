"""Batched likelihoods of answers against one forward pass a row, over the same tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.bench import ROOT
from tests.bench.data import SAMPLE, Data
from tests.bench.table import Line, bound

ROWS = 300


def measure(data: Data) -> list[Line]:
    """On the shipped sample, with the shipped model, on a GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.context import Context
    from pipeline.models import LanguageModel, Scored
    from pipeline.models.local.likelihood import packs

    path = str(ROOT / "data/models/tinylm")
    engine = Context.scratch(Path(data.folder / "likelihoods")).open(LanguageModel(model=path))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(device).eval()
    prompts, answers = (engine.tokenizer(texts)["input_ids"] for texts in sample_texts())
    sequences = [
        Scored((*prompt, *answer)[:1024], len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer and len(prompt) < 1024
    ]
    engine.loglikelihood(sequences[:8])
    began = time.perf_counter()
    batched = engine.loglikelihood(sequences)
    fast = time.perf_counter() - began
    one_forward(model, sequences[0])
    began = time.perf_counter()
    single = [one_forward(model, sequence) for sequence in sequences]
    slow = time.perf_counter() - began
    worst = largest_difference(batched, single)
    assert worst <= 1e-5, f"log-likelihoods differ by {worst}"
    lengths = [len(sequence.tokens) for sequence in sequences]
    waste = 1 - sum(lengths) / sum(size for size, _ in packs(lengths, device))
    ratio, demanded = slow / fast, 5.0 if device == "cuda" else 1.3
    work = f"likelihoods of {len(sequences)} answers, {device}"
    return [
        Line(
            work, f"{fast:.2f} s", "one row at a time", f"{slow:.2f} s", f"{ratio:.2f} x",
            f">= {demanded:g} x", f"largest difference {worst:.1e} nats a token", ratio >= demanded,
        ),
        bound("  padding", 100 * waste, "%", 15),
    ]  # fmt: skip


def sample_texts() -> tuple[list[str], list[str]]:
    """Prompts and answers of real rows."""
    frame = pl.read_ndjson(SAMPLE).head(ROWS)
    prompt = pl.concat_str("instruction", "input", separator="\n")
    return frame.select(prompt).to_series().to_list(), frame["output"].to_list()


def largest_difference(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    """Of answers' mean log-likelihoods, in nats per token: a single token's may differ by more."""
    pairs = list(zip(left, right, strict=True))
    tokens = max(float(np.abs(a - b).max()) for a, b in pairs)
    assert tokens <= 1e-4, f"log-likelihoods of a token differ by {tokens}"
    return max(abs(float(np.mean(a - b, dtype=np.float64))) for a, b in pairs)


def one_forward(model: Any, row: Any) -> np.ndarray:
    """Log-probabilities of the scored tokens of one row, from a forward pass of its own."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([row.tokens], device=model.device)
        scores = torch.log_softmax(model(ids).logits[0, :-1].float(), dim=-1)
        return scores.gather(1, ids[0, 1:, None])[row.start - 1 :, 0].cpu().numpy()
