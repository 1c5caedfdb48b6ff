"""embed.gradients: per-row gradients of the real bundled model, their forms and projections."""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from pydantic import TypeAdapter

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models import LanguageModel
from stages._activations.states import batches
from stages._gradients import per_row
from stages._gradients.forms import EPSILON, Moments, adam, moments_of
from stages._gradients.parameters import Adapter, Chosen, Differentiable, differentiable
from stages._gradients.per_row import by_loop, row_gradients, row_loss
from stages._gradients.projection import ENTRIES, project, signs
from stages._training.dataset import tokenizer_for
from stages._training.encoding import encode
from stages.embed.gradients import gradients
from tests.support.rows import self_instruct, short_rows

HEAD = Chosen(pattern=r"layers\.7\.mlp\.down_proj")
SMALL = Adapter(lora_r=2, target_modules=("v_proj",))


@pytest.fixture(autouse=True)
def small_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less to compute: batches of two rows, of which some are filled up."""
    if request.node.get_closest_marker("proof") is None:
        monkeypatch.setitem(per_row.BATCH_TOKENS, "cpu", 96)


def encoded(model: LanguageModel, rows: pl.DataFrame) -> tuple[list[list[int]], list[list[int]]]:
    tokens = encode(*tokenizer_for(model), rows)
    return tokens["input_ids"].to_list(), tokens["labels"].to_list()


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(sum((t**2).sum() for t in tensors.values())) ** 0.5


def model_of(ctx: Context, model: LanguageModel, parameters: Any) -> Differentiable:
    return differentiable(ctx.open(model).weights, parameters)


def all_gradients(model: Differentiable, ids: Any, labels: Any) -> np.ndarray:
    result = np.zeros((len(ids), model.size), np.float32)
    for positions, values in row_gradients(model, ids, labels):
        result[positions] = values[: len(positions)]
    return result


@pytest.mark.parametrize("parameters", [SMALL, HEAD], ids=["lora", "weights"])
def test_vmap_equals_a_loop(ctx: Context, tinylm: LanguageModel, parameters: Any) -> None:
    model = model_of(ctx, tinylm, parameters)
    ids, labels = encoded(tinylm, short_rows(3))
    ids.append([*ids[0], *ids[1], *ids[2]])  # a long row
    labels.append([*labels[0], *labels[1], *labels[2]])
    together = all_gradients(model, ids, labels)
    for row in range(len(ids)):
        alone = by_loop(model, ids[row], labels[row])
        error = np.linalg.norm(together[row] - alone) / np.linalg.norm(alone)
        assert error < 1e-5
    # And a row's floats do not depend on the others.
    np.testing.assert_array_equal(all_gradients(model, ids[3:4], labels[3:4])[0], together[3])


@pytest.mark.parametrize("parameters", [Adapter(lora_r=2), HEAD], ids=["lora", "weights"])
def test_a_gradient_is_that_of_the_loss(
    ctx: Context, tinylm: LanguageModel, parameters: Any
) -> None:
    """g d = (L(p + e d) - L(p - e d)) / 2e in random directions."""
    model = model_of(ctx, tinylm, parameters)
    tensors = [torch.tensor(values[0]) for values in encoded(tinylm, short_rows(1))]
    gradient = by_loop(model, *(t.tolist() for t in tensors)).astype(np.float64)
    exact = Differentiable(
        model.module,
        {n: p.double() for n, p in model.parameters.items()},
        {n: p.double() for n, p in model.fixed.items()},
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        direction = {
            name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
            for name, p in exact.parameters.items()
        }
        norms = [norm(values) for values in (exact.parameters, direction)]
        step = 1e-3 * (norms[0] or 1.0) / norms[1]

        def loss(sign: int, step: float = step, d: Any = direction) -> float:
            moved = {n: p + sign * step * d[n] for n, p in exact.parameters.items()}
            with torch.no_grad():
                return float(row_loss(exact, moved, *tensors))

        slope = (loss(1) - loss(-1)) / (2 * step)
        flat = torch.cat([d.flatten() for d in direction.values()]).numpy()
        assert gradient @ flat == pytest.approx(slope, abs=0.02 * np.linalg.norm(gradient))


def test_the_engines_model_stays_as_it_was(ctx: Context, tinylm: LanguageModel) -> None:
    weights = ctx.open(tinylm).weights

    def state() -> list[Any]:
        return [
            (name, id(p), p.requires_grad, float(p.detach().sum()))
            for name, p in weights.named_parameters()
        ]

    before = state()
    model = differentiable(weights, SMALL)
    ids, labels = encoded(tinylm, short_rows(1))
    by_loop(model, ids[0], labels[0])
    assert state() == before
    assert all(p.grad is None for p in weights.parameters())


@pytest.mark.proof
def test_a_fresh_adapter_sketches_the_gradients_of_the_weights(
    ctx: Context, tinylm: LanguageModel
) -> None:
    """<g, h> of the adapter is in expectation that of the layer's weights: over many draws of A."""
    ids, labels = encoded(tinylm, short_rows(3))
    whole = model_of(ctx, tinylm, Chosen(pattern=r"layers\.7\.self_attn\.v_proj"))
    exact = all_gradients(whole, ids, labels).astype(np.float64)
    products = []
    for seed in range(4):
        adapter = Adapter(lora_r=32, target_modules=("7.self_attn.v_proj",), seed=seed)
        sketch = all_gradients(model_of(ctx, tinylm, adapter), ids, labels).astype(np.float64)
        products.append(sketch @ sketch.T)
    norms = np.linalg.norm(exact, axis=1)
    errors = (np.mean(products, axis=0) - exact @ exact.T) / np.outer(norms, norms)
    assert np.abs(errors).max() < 0.35


def test_adams_step_by_hand() -> None:
    moments = Moments(np.array([0.1, -0.2]), np.array([0.04, 0.01]))
    step = adam(np.array([0.5, 0.3]), moments)
    np.testing.assert_allclose(step, [0.69816962, -1.49403502], atol=5e-9)
    target = np.array([1.0, 2.0])
    cosine = step @ target / np.linalg.norm(step) / np.linalg.norm(target)
    assert cosine == pytest.approx(-0.62098421, abs=5e-9)


def test_moments_are_those_of_torchs_adam() -> None:
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((7, 5)).astype(np.float32)
    moments = moments_of(iter(steps), 5)
    parameter = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], betas=(0.9, 0.999), eps=EPSILON)
    for step in steps:
        parameter.grad = torch.from_numpy(step.astype(np.float64))
        optimizer.step()
    state = optimizer.state[parameter]
    first, second = state["exp_avg"] / (1 - 0.9**7), state["exp_avg_sq"] / (1 - 0.999**7)
    np.testing.assert_allclose(moments.first, first, rtol=1e-6)
    np.testing.assert_allclose(moments.second, second, rtol=1e-6)


def test_a_projection_keeps_dot_products_in_expectation() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2, 300)).astype(np.float32)
    vectors[1] += vectors[0]
    exact, scale = vectors[0] @ vectors[1], np.linalg.norm(vectors, axis=1).prod()
    few = [np.prod(project(vectors, 64, seed), axis=0).sum() for seed in range(400)]
    # The mean of 400 draws, each off by about 1 / 8 of the norms' product.
    assert abs(np.mean(few) - exact) < 4 * scale / np.sqrt(64 * 400)
    (left, right) = project(vectors, 8192, 0)
    assert abs(left @ right - exact) < 4 * scale / np.sqrt(8192)


def test_a_rows_projection_does_not_depend_on_its_place() -> None:
    rows = np.random.default_rng(0).standard_normal((32, 500)).astype(np.float32)
    turned = project(rows[::-1].copy(), 8192, 0)[::-1]
    np.testing.assert_allclose(turned, project(rows, 8192, 0), rtol=2e-7, atol=1e-12)


def test_a_seed_is_one_matrix() -> None:
    np.testing.assert_array_equal(signs(5, 7, 3, 2), signs(5, 7, 3, 2))
    assert set(np.unique(signs(50, 40, 0, 0))) == {-1, 1}
    for other in ((4, 2), (3, 1)):
        assert (signs(50, 40, 3, 2) != signs(50, 40, *other)).any()
    # Blocks are drawn one by one: what is projected is what the whole matrix would give.
    size = ENTRIES // 8192
    gradients = np.zeros((1, size + 3), np.float32)
    gradients[0, size + 1] = 2
    expected = 2 * signs(3, 8192, 5, 1)[1] / np.sqrt(8192)
    np.testing.assert_allclose(project(gradients, 8192, 5)[0], expected, rtol=1e-6)


def test_vectors_and_their_forms(ctx: Context, tinylm: LanguageModel) -> None:
    rows = short_rows(4)
    options: Any = {"model": tinylm, "parameters": SMALL, "max_length": 64}
    whole = gradients(ctx, rows, dimensions=None, normalize=False, **options)
    assert whole["error"].null_count() == len(rows)
    exact = np.array(whole["vector"].to_list(), np.float32)
    assert exact.shape == (4, 8 * 2 * 320)
    signed = gradients(ctx, rows, form="sign", dimensions=None, normalize=False, **options)
    np.testing.assert_array_equal(np.sign(exact), signed["vector"].to_list())
    projected = gradients(ctx, rows, dimensions=256, **options)
    vectors = np.array(projected["vector"].to_list())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    expected = project(exact, 256, 0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    alone = gradients(ctx, rows[2:3], dimensions=256, **options)
    assert_frame_equal(projected[2:3], alone, check_exact=True)


def test_adams_vectors_use_the_moments_of_the_warmup(ctx: Context, tinylm: LanguageModel) -> None:
    rows = short_rows(4)
    options: Any = {"model": tinylm, "parameters": SMALL, "max_length": 64, "dimensions": None}
    result = gradients(
        ctx, rows[:2], rows[2:], form="adam", batch_size=1, normalize=False, **options
    )
    plain = gradients(ctx, rows, normalize=False, **options)["vector"].to_list()
    of_rows = np.array(plain, np.float32)
    by_id = dict(zip(rows["id"], of_rows, strict=True))
    trained = np.stack([by_id[i] for i in sorted(rows["id"][2:])])
    moments = moments_of(iter(trained), trained.shape[1])
    expected = adam(of_rows[:2], moments)
    np.testing.assert_allclose(result["vector"].to_list(), expected, rtol=1e-3, atol=1e-4)


def test_rows_without_an_answer_fail(ctx: Context, tinylm: LanguageModel) -> None:
    rows = self_instruct(60)[:2]
    result = gradients(ctx, rows, model=tinylm, parameters=SMALL, max_length=3, dimensions=8)
    assert result["vector"].null_count() == 2
    assert set(result["error"]) == {"no answer token among the first 3"}


def test_a_parameter_that_the_loss_does_not_depend_on(ctx: Context, tinylm: LanguageModel) -> None:
    weights = copy.deepcopy(ctx.open(tinylm).weights)
    weights.register_parameter("idle", torch.nn.Parameter(torch.ones(3)))
    pattern = r"idle|layers\.7\.self_attn\.v_proj"
    model = differentiable(weights, Chosen(pattern=pattern))
    ids, labels = encoded(tinylm, short_rows(1))
    together, alone = all_gradients(model, ids, labels)[0], by_loop(model, ids[0], labels[0])
    assert together.shape == alone.shape == (model.size,)
    np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(alone).max())
    assert (alone == 0).sum() >= 3


def test_mistakes(ctx: Context, tinylm: LanguageModel) -> None:
    rows = self_instruct(60)[:2]
    with pytest.raises(OptionError, match="must have an input for 'warmup'"):
        gradients(ctx, rows, model=tinylm, form="adam")
    with pytest.raises(UserError, match="the edge 'warmup' must have rows with an answer"):
        gradients(ctx, rows, rows, model=tinylm, form="adam", parameters=SMALL, max_length=3)
    with pytest.raises(OptionError, match="must match the name of a parameter, got 'nothing'"):
        gradients(ctx, rows, model=tinylm, parameters=Chosen(pattern="nothing"))
    with pytest.raises(OptionError, match="must be ends of names of layers, got nothing"):
        gradients(ctx, rows, model=tinylm, parameters=Adapter(target_modules=("nothing",)))
    with pytest.raises(ValueError, match="must be a regular expression"):
        TypeAdapter(Chosen).validate_python({"pattern": "("})


@pytest.mark.proof
def test_vmap_is_no_slower_than_a_loop(ctx: Context, tinylm: LanguageModel) -> None:
    model = model_of(ctx, tinylm, Adapter())
    every = zip(*encoded(tinylm, self_instruct(600)), strict=True)
    # Longer ones are differentiated one by one.
    ids, labels = zip(*[row for row in every if len(row[0]) <= 64][:80], strict=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        all_gradients(model, ids[:8], labels[:8])
        begun = time.process_time()
        all_gradients(model, ids, labels)
        middle = time.process_time()
        for row in zip(ids, labels, strict=True):
            by_loop(model, *row)
        ended = time.process_time()
    finally:
        torch.set_num_threads(threads)
    ratio = (ended - middle) / (middle - begun)
    print(f"vmap is {ratio:.2f} times as fast as a loop")
    assert ratio > 1


def test_large_gradients_share_no_batch(
    ctx: Context, tinylm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one batch holds is bounded by bytes, not by tokens alone."""
    model = model_of(ctx, tinylm, SMALL)
    ids, labels = encoded(tinylm, short_rows(4))
    monkeypatch.setitem(per_row.SHORT, "cpu", 1024)
    together = all_gradients(model, ids, labels)
    shapes: list[int] = []
    monkeypatch.setattr(per_row, "ROWS_BYTES", 4 * model.size)
    for positions, values in row_gradients(model, ids, labels):
        shapes.append(len(values))
        np.testing.assert_allclose(values, together[positions], atol=1e-5 * np.abs(values).max())
    assert shapes == [1] * 4
    sizes = [batch.size for batch in batches([40] * 9, 4096, 3)]
    assert sizes == [3, 3, 3]
