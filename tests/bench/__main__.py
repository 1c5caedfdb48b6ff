"""`make bench`: how fast and how large, on this machine, with equality checked first.

The 52,002 Alpaca rows may not be shipped (CC BY-NC), so that part reads them from
the folder named by GRISTMILL_BENCH_POOL, or from the shared data sets beside the
checkout, and falls back to the shipped sample.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parents[2]
SHARED_POOL = ROOT.parent / "shared" / "data" / "pools" / "alpaca_52k.json.gz"
CORES = os.cpu_count()


def main() -> None:
    """Measure everything and print one table."""
    rows = [*command_line(), *likelihoods()]
    print(f"\n{platform.machine()}, {CORES} cores, Python {platform.python_version()}")
    names = ("numpy", "polars", "pyarrow", "torch", "transformers", "sentence-transformers")
    print(", ".join(f"{name} {metadata.version(name)}" for name in names) + "\n")
    width = max(len(what) for what, *_ in rows)
    for what, measured, limit in rows:
        print(f"{what:<{width}}  {measured:>16}  {limit}")


def _timed(*arguments: str) -> tuple[float, float]:
    """Wall seconds and peak memory in GiB of one call of the command line, in its own process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(arguments)} failed:\n{errors}")
    return time.perf_counter() - began, usage.ru_maxrss / 2**20


def command_line() -> list[tuple[str, str, str]]:
    """The curation of a pool end to end, a run with nothing to do, and the help text."""
    pool = Path(os.environ.get("GRISTMILL_BENCH_POOL", SHARED_POOL))
    pool = pool if pool.exists() else ROOT / "data/samples/self_instruct.jsonl.gz"
    with tempfile.TemporaryDirectory() as folder:
        recipe = ("run", "tests/bench/curate.yaml", "--store", folder)
        given = (*recipe, "--set", f"stages.pool.with.path={pool}")
        whole, memory = _timed(*given)
        again = min(_timed(*given)[0] for _ in range(3))
    helping = min(_timed("--help")[0] for _ in range(5))
    return [
        (f"curate {pool.name}, seven stages", f"{whole:.1f} s", "at most 30 s (52,002 rows)"),
        ("  its peak memory", f"{memory:.2f} GiB", "at most 1.5 GiB"),
        ("the same with nothing to do", f"{again:.2f} s", "at most 2 s"),
        ("python -m pipeline --help", f"{helping:.2f} s", "at most 0.5 s"),
    ]


def likelihoods() -> list[tuple[str, str, str]]:
    """Batched likelihoods of answers against one forward pass a row, over the same tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.context import Context
    from pipeline.models import LanguageModel, Scored
    from pipeline.models.likelihood import packs

    with tempfile.TemporaryDirectory() as folder:
        ctx = Context.scratch(Path(folder))
        folder_of_model = str(ROOT / "data/models/tinylm")
        engine = ctx.open(LanguageModel(model=folder_of_model))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(folder_of_model, dtype=torch.float32)
        model = model.to(device).eval()
        prompts, answers = (engine.tokenizer(texts)["input_ids"] for texts in _texts(300))
        sequences = [
            Scored((*prompt, *answer)[:1024], len(prompt))
            for prompt, answer in zip(prompts, answers, strict=True)
            if answer and len(prompt) < 1024
        ]
        engine.loglikelihood(sequences[:8])
        began = time.perf_counter()
        batched = engine.loglikelihood(sequences)
        fast = time.perf_counter() - began
        _one_forward(model, sequences[0])
        began = time.perf_counter()
        single = [_one_forward(model, sequence) for sequence in sequences]
        slow = time.perf_counter() - began
        worst = max(float(np.abs(a - b).max()) for a, b in zip(batched, single, strict=True))
        assert worst <= 1e-5, f"log-likelihoods differ by {worst}"
        lengths = [len(sequence.tokens) for sequence in sequences]
        waste = 1 - sum(lengths) / sum(size for size, _ in packs(lengths, device))
    return [
        ("likelihoods, batched", f"{len(sequences) / fast:.1f} rows/s", ""),
        (
            f"  against one row at a time ({device})",
            f"{slow / fast:.2f} x",
            "at least 1.3 x on a CPU, 5 x on a GPU",
        ),
        ("  largest difference", f"{worst:.1e} nats", "at most 1e-5"),
        ("  padding", f"{waste:.1%}", "at most 15%"),
    ]


def _texts(count: int) -> tuple[list[str], list[str]]:
    """Prompts and answers of real rows."""
    frame = pl.read_ndjson(ROOT / "data/samples/self_instruct.jsonl.gz").head(count)
    prompt = pl.concat_str("instruction", "input", separator="\n")
    return frame.select(prompt).to_series().to_list(), frame["output"].to_list()


def _one_forward(model: Any, row: Any) -> np.ndarray:
    """Log-probabilities of the scored tokens of one row, from a forward pass of its own."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([row.tokens], device=model.device)
        scores = torch.log_softmax(model(ids).logits[0, :-1].float(), dim=-1)
        return scores.gather(1, ids[0, 1:, None])[row.start - 1 :, 0].cpu().numpy()


if __name__ == "__main__":
    main()
