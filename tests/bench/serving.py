"""The client against a real vLLM server: same prompts, a bare asyncio client at its best."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pipeline.models import LanguageModel
from pipeline.models.engines.vllm_server import Server
from tests.bench.journal import PROMPTS, compare
from tests.bench.table import Line

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-vllm/bin/python"
TOKENS = 8
"""Tokens of an answer: few, so that the clients are measured and not the model."""


def measure(folder: Path) -> list[Line]:
    """One row: answers a second through vLLM's CPU build, which `make vllm` sets up."""
    work = f"{PROMPTS:,} short prompts to vLLM's server"
    if not PYTHON.exists():
        return [Line(work, outcome="skipped: needs vLLM, see make vllm")]
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    model = LanguageModel(
        str(ROOT / "data/models/tinylm"),
        "openai",
        serve=True,
        python=str(PYTHON),
        dtype="bfloat16",
        engine_options={"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 128},
    )
    prompts = [f"Name {i} seas and a lake." for i in range(PROMPTS)]
    with tempfile.TemporaryDirectory(dir=folder) as work_dir:
        server = Server(model, Path(work_dir) / "vllm.log")
        try:
            measured = compare(
                server.base_url, server.name, prompts, Path(work_dir), TOKENS, key=server.key
            )
        finally:
            server.close()
    ours, bare, best = measured
    ratio = ours.rate / bare.rate
    return [
        Line(
            work, f"{ours.rate:,.0f} /s", f"bare client at {best}", f"{bare.rate:,.0f} /s",
            f"{ratio:.2f} x", ">= 0.9 x", met=ratio >= 0.9, outcome="every prompt answered",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    from tests.bench.table import render

    print(render(measure(Path(tempfile.gettempdir()))))
