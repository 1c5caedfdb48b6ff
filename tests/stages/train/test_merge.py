"""Merging: published ratios, exact ends, mergekit and peft as oracles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from stages.train.merge import (
    Cat,
    Difference,
    Linear,
    Stock,
    low_rank,
    merge,
    merged_tensor,
    stock_ratio,
)
from tests.support.options import problems


def tensors(count: int, seed: int = 0, shape: tuple[int, ...] = (6, 5)) -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize(
    ("number", "cosine", "expected"),
    [(2, 0.5, 2 / 3), (2, 0.0, 0.0), (3, 0.5, 0.75), (2, -0.25, 0.0), (2, 1.0, 1.0), (2, -1, 0.0)],
)
def test_the_stock_ratio_is_the_published_one_and_never_leaves_the_unit(
    number: int, cosine: float, expected: float
) -> None:
    import torch

    # Vectors with these mean cosines, of different lengths.
    gram = torch.full((number, number), float(cosine))
    gram.fill_diagonal_(1.0)
    values, vectors = torch.linalg.eigh(gram)
    unit = vectors * values.clamp(min=0).sqrt()
    differences = [row * (2 + i) for i, row in enumerate(unit)]
    assert stock_ratio(differences) == pytest.approx(expected, abs=1e-5)


def test_ends_are_exact_copies() -> None:
    import torch

    base, one, other = (tensor.to(torch.float16) for tensor in tensors(3))
    for method, expected in (
        (Linear(weights=(1.0, 0.0)), one),
        (Linear(weights=(0.0, 1.0)), other),
        (Difference(weights=(1.0, 0.0)), one),
        (Difference(weights=(0.0, 1.0)), other),
        (Difference(weights=(0.0, 0.0)), base),
    ):
        origin = None if isinstance(method, Linear) else base
        result = merged_tensor(method, [one, other], origin)
        assert result.dtype == torch.float16
        assert torch.equal(result, expected)


def test_linear_is_the_mean_and_difference_the_sum_of_differences() -> None:
    import torch

    base, one, other = tensors(3)
    assert torch.allclose(merged_tensor(Linear(), [one, other], None), (one + other) / 2)
    expected = base + 0.7 * (one - base) + 0.5 * (other - base)
    assert torch.allclose(
        merged_tensor(Difference(weights=(0.7, 0.5)), [one, other], base), expected, atol=1e-6
    )


@pytest.mark.proof
def test_model_stock_is_mergekits() -> None:
    import torch
    from mergekit.merge_methods.base import TensorGroup
    from mergekit.merge_methods.model_stock import model_stock_merge_method

    base, *noise = tensors(3)
    shared = tensors(1, 50)[0]
    models = [base + shared + 0.3 * each for each in noise]
    group = TensorGroup.from_tensors([base, *models], base_index=0)
    (oracle,) = model_stock_merge_method([group])
    assert torch.allclose(merged_tensor(Stock(), models, base), oracle, atol=1e-5)


def test_low_rank_keeps_the_asked_variance_and_all_of_it_at_1() -> None:
    import torch

    matrix = torch.diag(torch.tensor([2.0, 1.0, 1.0]))
    assert torch.allclose(low_rank(matrix, 0.5), torch.diag(torch.tensor([2.0, 0.0, 0.0])))
    assert torch.allclose(low_rank(matrix, 1.0), matrix, atol=1e-6)
    assert torch.linalg.matrix_rank(low_rank(matrix, 0.8)) == 2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tinylm: LanguageModel) -> Any:
    """Makes small models of one shape, with tinylm's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tinylm.model)

    def make(seed: int, layers: int = 2, heads: int = 2) -> LanguageModel:
        folder = tmp_path_factory.mktemp("model") / "model"
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, tie_word_embeddings=True,
        )  # fmt: skip
        LlamaForCausalLM(config).to(torch.float16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return LanguageModel(model=str(folder))

    return make


def weights(folder: Path | str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def test_merged_models_load_and_their_ends_are_bit_for_bit_the_models(
    ctx: Context, tiny: Any
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    one, other = tiny(0), tiny(1)
    merge(ctx, models=(one, other), method=Linear(weights=(0.0, 1.0)))
    merged, expected = weights(ctx.files / "model"), weights(other.model)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    metrics = json.loads((ctx.files / "metrics.json").read_text())
    assert metrics["models"] == 2
    assert metrics["distance"] > 0
    assert AutoModelForCausalLM.from_pretrained(ctx.files / "model").dtype == torch.float16


def test_models_of_different_shapes_are_refused(ctx: Context, tiny: Any) -> None:
    with pytest.raises(UserError, match="model 2 differs from the first in 9 tensors"):
        merge(ctx, models=(tiny(0), tiny(1, layers=1)))
    with pytest.raises(UserError, match="from the first in num_attention_heads"):
        merge(ctx, models=(tiny(0), tiny(1, heads=4)))
    with pytest.raises(UserError, match="no adapter beside its weights"):
        merge(ctx, models=(tiny(0),), base=tiny(1), method=Cat())


def test_adapters_are_summed_exactly(ctx: Context, tiny: Any, tmp_path: Path) -> None:
    """cat gives base + sum of weight x B A: rank adds, where averaging the factors would not."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tiny(0)
    expected = {name: value.float() for name, value in weights(base.model).items()}
    models = []
    for part, weight in enumerate((0.3, 0.7)):
        torch.manual_seed(part)
        loaded = AutoModelForCausalLM.from_pretrained(base.model, dtype=torch.float32)
        config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted: Any = get_peft_model(loaded, config)
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.1)
        folder = tmp_path / str(part)
        adapted.save_pretrained(folder / "adapter")
        merged = adapted.merge_and_unload().state_dict()
        for name, value in weights(base.model).items():
            expected[name] += weight * (merged[name] - value.float())
        models.append(LanguageModel(model=str(folder / "model")))
        (folder / "model").symlink_to(base.model)
    merge(ctx, models=tuple(models), base=base, method=Cat(weights=(0.3, 0.7)))
    for name, value in weights(ctx.files / "model").items():
        assert torch.allclose(value.float(), expected[name], atol=2e-3), name
    assert json.loads((ctx.files / "adapter/adapter_config.json").read_text())["r"] == 4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "stock"}, "base must be given with method: stock"),
        (
            {"method": {"name": "linear", "weights": [0.5, 0.6]}},
            "method must have weights with the sum 1, got 1.1",
        ),
        (
            {"method": {"name": "linear", "weights": [1.0]}},
            "method must have 2 weights, one for each model, got 1",
        ),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], problem: str) -> None:
    assert problems("train.merge", models=["model", "model"], **options) == [problem]
