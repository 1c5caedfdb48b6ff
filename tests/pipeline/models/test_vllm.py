"""Real vLLM, on its CPU build: the offline engine and the server that it brings.

The proofs need `.venv-vllm` (`make vllm`); what needs no vLLM is tested always.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Decoding, LanguageModel, Request
from pipeline.models.engines.registry import close_engines, end_processes
from pipeline.models.engines.vllm import Vllm, engine_arguments, sampling
from pipeline.models.engines.vllm_server import flags
from pipeline.models.journal.journal import Journal

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-vllm/bin/python"
OPTIONS = {"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 32}
MODEL = LanguageModel(
    model=str(ROOT / "data/models/tinylm"),
    engine="vllm",
    dtype="bfloat16",
    python=str(PYTHON),
    engine_options=OPTIONS,
)
QUESTION = (("user", "What is the capital of France?"),)


@pytest.fixture(scope="module")
def vllm() -> Iterator[LanguageModel]:
    """The model in a real process, which the tests of this module share."""
    if not PYTHON.exists():
        pytest.skip("needs vLLM: make vllm")
    before = os.environ.get("VLLM_CPU_KVCACHE_SPACE")
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    yield MODEL
    close_engines()
    if before is None:
        del os.environ["VLLM_CPU_KVCACHE_SPACE"]


def requests(number: int, **decoding: object) -> list[Request]:
    given = Decoding(max_tokens=12, temperature=1.0, **decoding)  # type: ignore[arg-type]
    return [Request(QUESTION, given, seed=1, sample=n) for n in range(number)]


@pytest.mark.proof
def test_answers_come_once_and_are_kept(vllm: LanguageModel, ctx: Context) -> None:
    asked = [*requests(40), *requests(3)]
    first = ctx.open(vllm).generate(asked)
    assert all(c.error is None and c.prompt_tokens > 5 for c in first)
    assert len({c.text for c in first}) > 20  # one seed a request: samples differ
    assert [c.text for c in first[40:]] == [c.text for c in first[:3]]
    journal = Journal(ctx.store / "journal")
    assert (journal.count(), journal.most_answers()) == (40, 1)
    again = ctx.open(vllm).generate([*asked, *requests(42)])
    assert again[: len(asked)] == first
    assert Journal(ctx.store / "journal").count() == 42


@pytest.mark.proof
def test_decoding_means_what_it_says(vllm: LanguageModel, ctx: Context) -> None:
    engine = ctx.open(vllm)
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}})
    greedy = replace(requests(1)[0], decoding=Decoding(max_tokens=4))
    chosen, formed, scored, cut, long = engine.generate(
        [
            *requests(1, choice=("yes", "no")),
            replace(greedy, decoding=Decoding(max_tokens=64, json_schema=schema)),
            *requests(1, logprobs=3),
            greedy,
            Request("word " * 2000, Decoding(4)),
        ]
    )
    assert chosen.text in ("yes", "no")
    assert isinstance(json.loads(formed.text), dict)
    assert all(len(t.top) == 3 and t.top[0][1] >= t.logprob for t in scored.logprobs)
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 4)
    assert long.error is not None
    assert "1024" in long.error


@pytest.mark.proof
def test_greedy_answers_are_those_of_transformers(vllm: LanguageModel, ctx: Context) -> None:
    """Not all, since the numbers are rounded otherwise; but most of the first words."""
    local = replace(vllm, engine="transformers", engine_options={}, id="local")
    words = ("France", "a dog", "seven", "the moon", "bread", "Rust", "a list", "water")
    asked = [Request((("user", f"Tell me about {w}."),), Decoding(6)) for w in words]
    ours = [c.text for c in ctx.open(vllm).generate(asked)]
    theirs = [c.text for c in ctx.open(local).generate(asked)]
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 6, (ours, theirs)


@pytest.mark.proof
def test_the_process_ends_with_the_stage_and_starts_only_when_needed(
    vllm: LanguageModel, ctx: Context
) -> None:
    ctx.open(vllm).generate(requests(2))
    end_processes()
    engine = ctx.open(vllm)
    assert engine.generate(requests(2))[0].error is None
    assert engine._loaded._worker is None  # type: ignore[attr-defined]


@pytest.mark.proof
def test_a_process_that_dies_is_told_and_loses_nothing(vllm: LanguageModel, ctx: Context) -> None:
    engine = ctx.open(vllm)
    engine.generate(requests(2))
    process = engine._loaded._worker._process  # type: ignore[attr-defined]
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="ended before its work was done"):
        engine.generate(requests(50))
    end_processes()
    assert all(c.error is None for c in ctx.open(vllm).generate(requests(50)))
    assert Journal(ctx.store / "journal").most_answers() == 1


def test_an_interpreter_that_is_not_there_or_has_no_vllm_is_told(ctx: Context) -> None:
    with pytest.raises(UserError, match="no such interpreter"):
        ctx.open(replace(MODEL, python="/none/python")).generate(requests(1))
    with pytest.raises(UserError, match="No module named 'vllm'") as told:
        ctx.open(replace(MODEL, python=sys.executable)).generate(requests(1))
    assert "python: PATH" in str(told.value.hint)


def test_options_reach_vllm_under_its_names() -> None:
    model = replace(
        MODEL, engine_options={**OPTIONS, "tensor_parallel_size": 2, "quantization": "fp8"}
    )
    given = engine_arguments(model)
    assert given["tensor_parallel_size"] == 2
    assert given["dtype"] == "bfloat16"
    told = " ".join(flags({**given, "enable_prefix_caching": False}))
    assert "--tensor-parallel-size 2" in told
    assert "--quantization fp8" in told
    assert "--enforce-eager" in told
    assert "--no-enable-prefix-caching" in told


def test_decoding_under_vllm_s_names() -> None:
    found = sampling(Decoding(5, top_k=3, stop=("x",), choice=("a",), logprobs=2), seed=7)
    assert found["top_k"] == 3
    assert found["seed"] == 7
    assert found["choice"] == ["a"]
    assert "json" not in found


def test_likelihoods_are_refused_with_a_way_out() -> None:
    engine = Vllm(MODEL).bind(MODEL, {}, Context.scratch(Path(os.devnull).parent / "shm/none"))
    with pytest.raises(UserError, match="does not score") as told:
        engine.loglikelihood([])
    assert "transformers" in str(told.value.hint)
