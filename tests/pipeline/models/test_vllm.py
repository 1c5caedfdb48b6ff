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
from pipeline.models.engines.vllm_server import Server, flags
from pipeline.models.journal.journal import Journal
from tests.support.journals import max_answers

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
    options = Decoding(max_tokens=12, temperature=1.0, **decoding)  # type: ignore[arg-type]
    return [Request(QUESTION, options, seed=1, sample=n) for n in range(number)]


@pytest.mark.proof
def test_answers_come_once_and_are_kept(vllm: LanguageModel, ctx: Context) -> None:
    queries = [*requests(40), *requests(3)]
    first = ctx.open(vllm).generate(queries)
    assert all(c.error is None and c.prompt_tokens > 5 for c in first)
    assert len({c.text for c in first}) > 20  # one seed a request: samples differ
    assert [c.text for c in first[40:]] == [c.text for c in first[:3]]
    journal = Journal(ctx.store / "journal")
    assert (journal.count(), max_answers(journal)) == (40, 1)
    repeated = ctx.open(vllm).generate([*queries, *requests(42)])
    assert repeated[: len(queries)] == first
    assert Journal(ctx.store / "journal").count() == 42


@pytest.mark.proof
def test_a_users_turn_is_written_and_ends_where_the_template_ends_it(
    vllm: LanguageModel, ctx: Context
) -> None:
    options = Decoding(max_tokens=128, temperature=0.7)
    opened = [Request((), options, sample=n, role="user") for n in range(32)]
    answers = ctx.open(vllm).generate(opened)
    ended = {a.text for a in answers if a.finish_reason == "stop"}
    assert len(ended) > 8
    assert all(text.strip() and "<|" not in text and "assistant" not in text for text in ended)


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
    queries = [Request((("user", f"Tell me about {w}."),), Decoding(6)) for w in words]
    texts = [c.text for c in ctx.open(vllm).generate(queries)]
    expected = [c.text for c in ctx.open(local).generate(queries)]
    assert sum(a == b for a, b in zip(texts, expected, strict=True)) >= 6, (texts, expected)


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
def test_a_process_that_dies_is_reported_and_loses_nothing(
    vllm: LanguageModel, ctx: Context
) -> None:
    engine = ctx.open(vllm)
    engine.generate(requests(2))
    process = engine._loaded._worker._process  # type: ignore[attr-defined]
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="ended before its work was done"):
        engine.generate(requests(50))
    end_processes()
    assert all(c.error is None for c in ctx.open(vllm).generate(requests(50)))
    assert max_answers(Journal(ctx.store / "journal")) == 1


def test_an_interpreter_that_is_not_there_or_has_no_vllm_is_reported(ctx: Context) -> None:
    with pytest.raises(UserError, match="python must be an interpreter"):
        ctx.open(replace(MODEL, python="/none/python")).generate(requests(1))
    with pytest.raises(UserError, match="No module named 'vllm'") as error:
        ctx.open(replace(MODEL, python=sys.executable)).generate(requests(1))
    assert "python: PATH" in str(error.value.hint)


def test_the_server_too_runs_under_that_interpreter(tmp_path: Path) -> None:
    """Its script imports nothing of Gristmill, so only vLLM is missing."""
    with pytest.raises(UserError, match="vLLM's server does not start") as error:
        Server(replace(MODEL, python=sys.executable), tmp_path / "vllm.log")
    assert "No module named 'vllm'" in str(error.value.why)


def test_options_reach_vllm_under_its_names() -> None:
    model = replace(
        MODEL, engine_options={**OPTIONS, "tensor_parallel_size": 2, "quantization": "fp8"}
    )
    arguments = engine_arguments(model)
    assert arguments["tensor_parallel_size"] == 2
    assert arguments["dtype"] == "bfloat16"
    options = " ".join(flags({**arguments, "enable_prefix_caching": False}))
    assert "--tensor-parallel-size 2" in options
    assert "--quantization fp8" in options
    assert "--enforce-eager" in options
    assert "--no-enable-prefix-caching" in options


def test_decoding_under_vllm_s_names() -> None:
    parameters = sampling(Decoding(5, top_k=3, stop=("x",), choice=("a",), logprobs=2), seed=7)
    assert parameters["top_k"] == 3
    assert parameters["seed"] == 7
    assert parameters["choice"] == ["a"]
    assert "json" not in parameters


def test_likelihoods_are_refused_with_a_way_out() -> None:
    engine = Vllm(MODEL).bind(MODEL, {}, Context.scratch(Path(os.devnull).parent / "shm/none"))
    with pytest.raises(UserError, match="does not score") as error:
        engine.loglikelihood([])
    assert "transformers" in str(error.value.hint)
