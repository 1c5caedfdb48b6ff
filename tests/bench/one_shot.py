"""Nuggets' golden score, each candidate read once for all its anchors, against the plain loop."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from tests.bench import ROOT
from tests.bench.data import Data
from tests.bench.likelihoods import largest_difference, one_forward, sample_texts
from tests.bench.table import Line

CANDIDATES = 2
ANCHORS = 100
DEMANDED = 0.8
"""Of what the token counts allow: (c + a) / (a + c / 100) for c and a tokens."""


def measure(data: Data) -> list[Line]:
    """On the shipped sample, with the shipped model, on a GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.context import Context
    from pipeline.models import LanguageModel, Scored

    path = str(ROOT / "data/models/tinylm")
    engine = Context.scratch(Path(data.folder / "one_shot")).open(LanguageModel(model=path))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Of a CPU the seconds that the work takes, whatever else the machine does.
    clock = time.perf_counter if device == "cuda" else time.process_time
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(device).eval()
    prompts, answers = (engine.tokenizer(texts)["input_ids"] for texts in sample_texts())
    rows = [
        Scored((*prompt, *answer), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer and 60 < len(prompt) + len(answer) < 400
    ]
    shown, asked = rows[:CANDIDATES], rows[CANDIDATES : CANDIDATES + ANCHORS]
    sequences = [Scored(row.tokens, row.start, one.tokens) for one in shown for row in asked]
    engine.loglikelihood(sequences[:2])
    began = clock()
    shared = engine.loglikelihood(sequences)
    fast = clock() - began
    one_forward(model, sequences[0].joined())
    began = clock()
    single = [one_forward(model, sequence.joined()) for sequence in sequences]
    slow = clock() - began
    worst = largest_difference(shared, single)
    assert worst <= 1e-5, f"log-likelihoods differ by {worst}"
    c, a = (float(np.mean([len(row.tokens) for row in part])) for part in (shown, asked))
    allowed, ratio = (c + a) / (a + c / len(asked)), slow / fast
    work = f"one-shot scores of {CANDIDATES} candidates, {ANCHORS} anchors, {device}"
    return [
        Line(
            work, f"{fast:.2f} s", "one pair at a time", f"{slow:.2f} s", f"{ratio:.2f} x",
            f">= {DEMANDED * allowed:.2f} x", f"largest difference {worst:.1e} nats a token; "
            f"the tokens allow {allowed:.2f} x", ratio >= DEMANDED * allowed,
        )
    ]  # fmt: skip
