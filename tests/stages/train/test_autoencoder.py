"""train.autoencoder: deterministic, and able to take states apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.context import Context
from pipeline.models import LanguageModel
from stages._activations.autoencoder import Meta, fit_autoencoder
from stages._training import trainer
from stages.train.autoencoder import autoencoder
from tests.support.options import problems
from tests.support.rows import short_rows


def trained(
    tmp_path: Path, model: LanguageModel, ctx: Context | None = None, **options: Any
) -> Context:
    ctx = ctx or Context.scratch(tmp_path)
    settings = {"layer": 2, "num_features": 320, "k": 8, "max_steps": 4, "batch_size": 64}
    autoencoder(ctx, short_rows(6), model=model, max_tokens=300, **settings | options)
    return ctx


def test_the_same_seed_trains_the_same_autoencoder(tinylm: LanguageModel, tmp_path: Path) -> None:
    one, two = (trained(tmp_path / name, tinylm).files for name in "ab")
    other = trained(tmp_path / "c", tinylm, seed=1).files
    contents = [(f / "autoencoder.safetensors").read_bytes() for f in (one, two, other)]
    assert contents[0] == contents[1] != contents[2]


def test_an_autoencoder_rebuilds_what_is_made_of_few_directions() -> None:
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    codes = rng.random((2000, 16)) * (rng.random((2000, 16)) < 0.1)
    states = (codes @ directions).astype(np.float32)
    _, losses = fit_autoencoder(
        states, Meta(0, 16, 32, 4), max_steps=400, batch_size=256, learning_rate=3e-3, seed=0,
        step_done=lambda step: None,
    )  # fmt: skip
    assert np.mean(losses[-10:]) < 0.25


def test_mistakes() -> None:
    (problem,) = problems("train.autoencoder", num_features=8, k=9)
    assert "must be at most num_features, 8, got 9" in problem


def test_a_killed_training_goes_on_and_gives_the_same_autoencoder(
    tinylm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", tinylm).files
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "SAVING_FRACTION", 1e9)

    def dies(done: float, total: float | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    killed = Context.scratch(tmp_path / "killed")
    killed.report = dies
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", tinylm, killed)
    steps: list[float] = []
    killed.report = lambda done, total: steps.append(done)
    trained(tmp_path / "killed", tinylm, killed)
    assert steps == [3, 4]
    for name in ("autoencoder.safetensors", "metrics.json"):
        assert (killed.files / name).read_bytes() == (whole / name).read_bytes()
