"""Options that are passed on to vLLM: each is run for real, on its CPU build."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Decoding, LanguageModel, Request
from pipeline.models.engines.registry import close_engines
from pipeline.models.engines.vllm import engine_arguments, reason
from stages._training.hyperparameters import LoRA
from stages.train.sft import sft
from tests.conftest import ROOT
from tests.pipeline.models.test_vllm import MODEL, OPTIONS, PYTHON
from tests.stages.train.test_sft import rows, write_shards

TINY = ROOT / "data/models/tinylm"
WORDS = ("France", "a dog", "seven", "the moon", "bread", "Rust", "a list", "water")
REQUESTS = [Request((("user", f"Tell me about {word}."),), Decoding(6)) for word in WORDS]


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, ctx: Context) -> Iterator[Context]:
    """A context in which a real vLLM can start; its processes end with the test."""
    if not PYTHON.exists():
        pytest.skip("needs vLLM: make vllm")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    yield ctx
    close_engines()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter of rank 32 that `train.sft` made: more than vLLM makes room for unasked."""
    folder = tmp_path_factory.mktemp("adapter")
    trained = Context.scratch(folder / "trained")
    shards = write_shards(folder / "shards", rows())
    options = {"max_steps": 3, "learning_rate": 1e-2, "max_length": 64}
    sft(trained, shards, model=LanguageModel(str(TINY)), method=LoRA(lora_r=32), **options)
    return str(trained.files / "adapter")


def texts(ctx: Context, model: LanguageModel, requests: Sequence[Request] = REQUESTS) -> list[str]:
    answers = ctx.open(model).generate(requests)
    assert all(answer.error is None for answer in answers), answers
    return [answer.text for answer in answers]


def alike(texts: Sequence[str], expected: Sequence[str]) -> bool:
    """Most greedy answers are equal; numbers are rounded otherwise, so perhaps not all."""
    return sum(a == b for a, b in zip(texts, expected, strict=True)) >= 0.75 * len(texts)


def variant(folder: Path, weights: dict[str, np.ndarray], **config: object) -> str:
    """A model like tinylm with other weights and other lines in its configuration."""
    folder.mkdir()
    for path in TINY.iterdir():
        if "safetensors" not in path.name:
            shutil.copy(path, folder / path.name)
    original = json.loads((TINY / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(original | config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def tiny_weights() -> dict[str, np.ndarray]:
    parts = [load_file(path) for path in sorted(TINY.glob("*.safetensors"))]
    return {name: weight for part in parts for name, weight in part.items()}


def is_gone(group: int) -> bool:
    """Whether nothing of a group of processes is left, soon."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def local(model: LanguageModel) -> LanguageModel:
    """The same model through transformers, which has none of vLLM's options."""
    return replace(model, engine="transformers", engine_options={}, python=None, id="local")


@pytest.mark.proof
def test_an_adapter_with_prefix_caching_and_guided_answers(real: Context, adapter: str) -> None:
    """One process for all: they work together."""
    options = {**OPTIONS, "enable_prefix_caching": True}
    model = replace(MODEL, lora=adapter, dtype="float32", engine_options=options)
    adapted = texts(real, model)
    assert alike(adapted, texts(real, local(model)))
    assert not alike(adapted, texts(real, local(replace(model, lora=None))))
    # What was read before is taken from the cache now, and is read as it was.
    long = " ".join(["The sea is wide and the sea is deep."] * 40)
    longer = [Request(f"{long} And {word}", Decoding(4)) for word in WORDS]
    assert alike(texts(real, model, longer), texts(real, local(model), longer))
    form = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema = json.dumps({**form, "additionalProperties": False})
    guided = [
        Request("The sea", Decoding(4, choice=("yes", "no"))),
        Request("The sea", Decoding(32, json_schema=schema)),
    ]
    chosen, formed = texts(real, model, guided)
    assert chosen in ("yes", "no")
    assert json.loads(formed) in ({"a": 1}, {"a": 2})


@pytest.mark.proof
def test_an_adapter_that_is_served(real: Context, adapter: str) -> None:
    model = replace(MODEL, engine="openai", serve=True, lora=adapter, dtype="float32")
    assert alike(texts(real, model), texts(real, local(replace(model, serve=False))))


@pytest.mark.proof
def test_quantised_weights(real: Context, tmp_path: Path) -> None:
    """Eight bits for weights and activations, in the format of compressed-tensors."""
    weights = {}
    for name, weight in tiny_weights().items():
        if name.endswith("proj.weight"):
            scale = np.abs(weight.astype(np.float32)).max(axis=1, keepdims=True) / 127
            weights[name] = np.rint(weight / scale).astype(np.int8)
            weights[f"{name}_scale"] = scale
        else:
            weights[name] = weight
    eight = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**eight, "strategy": "channel", "dynamic": False},
        "input_activations": {**eight, "strategy": "token", "dynamic": True},
    }
    config = {
        **{"quant_method": "compressed-tensors", "format": "int-quantized"},
        **{"quantization_status": "compressed", "ignore": ["lm_head"]},
        "config_groups": {"group_0": group},
    }
    folder = variant(tmp_path / "eight", weights, quantization_config=config)
    options = {**OPTIONS, "quantization": "compressed-tensors"}
    quantized = texts(real, replace(MODEL, model=folder, engine_options=options))
    assert alike(quantized, texts(real, local(MODEL)))


@pytest.mark.proof
def test_two_processes_share_a_model(
    real: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensor parallelism; tinylm's five heads cannot be shared, so here are four, untrained."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32}
    config = LlamaConfig(**sizes, **heads, vocab_size=8192, initializer_range=0.3)
    weights = LlamaForCausalLM(config).state_dict()
    arrays = {name: weight.numpy() for name, weight in weights.items()}
    folder = variant(
        tmp_path / "four", arrays, **sizes, **heads, tie_word_embeddings=False, dtype="float32"
    )
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    options = {**OPTIONS, "tensor_parallel_size": 2}
    model = replace(MODEL, model=folder, dtype="float32", engine_options=options)
    requests = [replace(request, decoding=Decoding(3)) for request in REQUESTS[:4]]
    assert alike(texts(real, model, requests), texts(real, local(model), requests))
    process = real.open(model)._loaded._worker._process  # type: ignore[attr-defined]
    process.stdin.close()  # as when we die
    process.wait(20)
    assert is_gone(process.pid), "its processes outlived it"


@pytest.mark.proof
def test_what_vllm_refuses_is_shown_in_its_words(real: Context) -> None:
    model = replace(MODEL, engine_options={**OPTIONS, "tensor_parallel_size": 2})
    message = "Total number of attention heads \\(5\\) must be divisible by"
    for one in (model, replace(model, engine="openai", serve=True)):
        with pytest.raises(UserError, match=message) as error:
            texts(real, one)
        assert "engine_options are its own arguments" in str(error.value.hint)


def test_an_adapter_gets_memory_for_its_rank(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 24}))
    arguments = engine_arguments(replace(MODEL, lora=str(tmp_path)))
    assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, 32)
    chosen = replace(MODEL, lora=str(tmp_path), engine_options={"max_lora_rank": 64})
    assert engine_arguments(chosen)["max_lora_rank"] == 64
    assert "max_lora_rank" not in engine_arguments(replace(MODEL, lora="hub/name"))


PYDANTIC = """\
pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig
  Value error, Total number of heads (5) must be divisible by 2. [type=value_error, input_value=A]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
POINTING = """\
(EngineCore pid=7) ERROR 11-26 22:58:11 [core.py:1510] AssertionError: Not enough nodes.
(EngineCore pid=7)   File "core.py", line 3, in f
AssertionError: Not enough nodes. Decrease TP.
  File "utils.py", line 9, in g
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PYDANTIC, "Total number of heads (5) must be divisible by 2."),
        (POINTING, "AssertionError: Not enough nodes. Decrease TP."),
        ("TypeError: 'a' is missing\n", "TypeError: 'a' is missing"),
        ("usage: server\nserver: error: argument --x: no", "server: error: argument --x: no"),
    ],
)
def test_the_reason_is_the_last_error_in_one_line(text: str, expected: str) -> None:
    assert reason(text) == expected
