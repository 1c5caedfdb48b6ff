"""embed.activations: states of the real bundled model, pooled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models import LanguageModel
from stages._activations.autoencoder import Autoencoder
from stages._activations.states import batches, hidden_states, width_of
from stages.embed.activations import activations, pool
from stages.train.autoencoder import autoencoder
from tests.support.rows import self_instruct, short_rows


def plain(ctx: Context, model: LanguageModel, row: dict[str, Any], layer: int) -> np.ndarray:
    """The states of one conversation: a forward pass of it alone, without padding."""
    engine = ctx.open(model)
    ids = engine.tokenizer.apply_chat_template(
        [{"role": m["role"], "content": m["content"]} for m in row["messages"]], return_dict=True
    )["input_ids"]
    with torch.no_grad():
        output = engine.weights(torch.tensor([ids]), output_hidden_states=True)
    return output.hidden_states[layer][0].double().numpy()


def test_rds_weights_later_tokens_more() -> None:
    states = np.array([[1, 0], [0, 1], [2, 2]], np.float32)
    pooled = pool(states, "weighted_mean")
    np.testing.assert_allclose(pooled, [7 / 6, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(pooled / np.linalg.norm(pooled), [0.65850, 0.75258], atol=5e-6)
    assert pool(states, "mean").tolist() == [1, 1]
    assert pool(states, "last").tolist() == [2, 2]


@pytest.mark.parametrize("layer", [-1, 3])
def test_vectors_are_pooled_over_the_tokens_alone(
    ctx: Context, tinylm: LanguageModel, layer: int
) -> None:
    rows = short_rows(4)
    states = [plain(ctx, tinylm, row, layer) for row in rows.to_dicts()]
    t = [np.arange(1, len(s) + 1) for s in states]
    expected = {
        "last": [s[-1] for s in states],
        "mean": [s.mean(axis=0) for s in states],
        "weighted_mean": [(w / w.sum()) @ s for w, s in zip(t, states, strict=True)],
    }
    for pooling in ("last", "mean", "weighted_mean"):
        result = activations(ctx, rows, model=tinylm, pooling=pooling, layer=layer, normalize=False)
        vectors = np.array(result["vector"].to_list())
        np.testing.assert_allclose(vectors, expected[pooling], atol=2e-4)
        unit = activations(ctx, rows, model=tinylm, pooling=pooling, layer=layer)["vector"]
        np.testing.assert_allclose(np.linalg.norm(unit.to_list(), axis=1), 1, rtol=1e-6)


def test_a_row_depends_on_itself_alone(ctx: Context, tinylm: LanguageModel) -> None:
    rows = short_rows(9)
    together = activations(ctx, rows, model=tinylm)
    alone = [activations(ctx, rows[i : i + 1], model=tinylm) for i in range(0, len(rows), 4)]
    assert_frame_equal(together.gather_every(4), pl.concat(alone), check_exact=True)
    turned = activations(ctx, rows.reverse(), model=tinylm).reverse()
    assert_frame_equal(together, turned, check_exact=True)


def test_long_rows_are_cut_and_counted(ctx: Context, tinylm: LanguageModel) -> None:
    rows = self_instruct(40)[:3]
    activations(ctx, rows, model=tinylm, max_length=5)
    assert ctx.counters["rows_cut"] == 3
    assert ctx.counters["tokens"] == 15


def test_widths_waste_an_eighth_at_most() -> None:
    for tokens in range(64, 5000, 7):
        assert tokens <= width_of(tokens) <= 1.13 * tokens
    lengths = np.random.default_rng(0).integers(0, 900, 200).tolist()
    members = [i for batch in batches(lengths, 1024) for i in batch.members]
    assert sorted(members) == [i for i, length in enumerate(lengths) if length]
    assert all(len(b.members) <= b.size for b in batches(lengths, 1024))


def test_a_layer_that_is_not_there(ctx: Context, tinylm: LanguageModel) -> None:
    with pytest.raises(OptionError, match="must be from -9 to 8, got 9"):
        activations(ctx, self_instruct(4), model=tinylm, layer=9)


def test_features_need_an_autoencoder_and_nothing_else_does(
    ctx: Context, tinylm: LanguageModel
) -> None:
    with pytest.raises(OptionError, match="must have an input for 'autoencoder'"):
        activations(ctx, self_instruct(4), model=tinylm, pooling="features")
    with pytest.raises(OptionError, match="autoencoder"):
        activations(ctx, self_instruct(4), ctx.files, model=tinylm)
    with pytest.raises(UserError, match=r"must have autoencoder\.json"):
        activations(ctx, self_instruct(4), ctx.files, model=tinylm, pooling="features")


def trained(tmp_path: Path, model: LanguageModel, **options: Any) -> Context:
    ctx = Context.scratch(tmp_path)
    settings = {"layer": 4, "num_features": 640, "k": 8, "max_steps": 60, "batch_size": 128}
    autoencoder(ctx, short_rows(12), model=model, **settings | options)
    return ctx


def test_features_are_sparse_monosemantic_and_means(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path
) -> None:
    files = trained(tmp_path / "a", tinylm).files
    model = Autoencoder.load(files)
    np.testing.assert_allclose(model.decoder.norm(dim=0).numpy(), 1, rtol=1e-5)
    unexplained = json.loads((files / "metrics.json").read_text())["unexplained"]
    assert np.mean(unexplained[-5:]) < 0.5 * np.mean(unexplained[:2])

    rows = short_rows(3)
    engine = ctx.open(tinylm)
    ids = [[*range(9, 9 + length)] for length in (5, 40)]
    for _, states in hidden_states(engine.weights, ids, 4):
        active = model.encode(torch.from_numpy(states)) != 0
        assert set(active.sum(dim=1).tolist()) == {8}
    result = activations(
        ctx, rows, files, model=tinylm, layer=4, pooling="features", normalize=False
    )
    for row, vector in zip(rows.to_dicts(), result["vector"].to_list(), strict=True):
        features = model.encode(torch.from_numpy(plain(ctx, tinylm, row, 4)).float())
        np.testing.assert_allclose(vector, features.mean(dim=0).numpy(), atol=2e-4)
        assert min(vector) >= 0

    with pytest.raises(OptionError, match="must be that of the autoencoder, 4, got -1"):
        activations(ctx, rows, files, model=tinylm, pooling="features")
