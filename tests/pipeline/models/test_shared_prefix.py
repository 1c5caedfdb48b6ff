"""Likelihoods behind a shared prefix: those of the sequence as a whole, whatever else is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.context import Context
from pipeline.models import LanguageModel, Scored
from pipeline.models.local.likelihood import SHORT, Likelihoods
from pipeline.models.local.shared_prefix import PrefixedLikelihoods
from tests.pipeline.models.test_likelihood import alone, model_of


def sequences_of(vocabulary: int, lengths: Sequence[tuple[int, int, int]]) -> list[Scored]:
    """Sequences of (which prefix, its tokens, tokens behind it)."""
    rng = np.random.default_rng(0)
    prefixes = {p: tuple(rng.integers(3, vocabulary, n).tolist()) for p, n, _ in lengths}
    return [
        Scored(tuple(rng.integers(3, vocabulary, n).tolist()), 1 + n // 3, prefixes[p])
        for p, _, n in lengths
    ]


def test_they_are_those_of_the_sequence_as_a_whole(ctx: Context, tinylm: LanguageModel) -> None:
    engine: Any = ctx.open(tinylm)
    behind = [(0, 40, 2), (0, 40, 70), (1, 7, 30), (2, 0, 25), (0, 40, SHORT + 9), (1, 7, 1)]
    sequences = sequences_of(1000, [*behind, (3, SHORT + 20, 12)])
    assert engine._loaded.prefixed._shares
    scores = engine.loglikelihood(sequences)
    expected = [alone(engine._loaded.model, row.joined()) for row in sequences]
    assert [len(s) for s in scores] == [len(e) for e in expected]
    assert (
        max(float(abs(s - e).max(initial=0)) for s, e in zip(scores, expected, strict=True)) < 1e-5
    )
    order = np.random.default_rng(1).permutation(len(sequences))
    shuffled = engine.loglikelihood([sequences[i] for i in order])
    assert all(np.array_equal(s, scores[i]) for s, i in zip(shuffled, order, strict=True))
    for i in (1, 4, 6):
        assert np.array_equal(engine.loglikelihood([sequences[i]])[0], scores[i])


def test_the_first_token_behind_a_prefix_is_not_scored(ctx: Context, tinylm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="start must be"):
        ctx.open(tinylm).loglikelihood([Scored((5, 6), 0, (7,))])


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "bloom"])
def test_any_architecture_shares_or_not(architecture: str) -> None:
    """Absolute positions, grouped heads with a sliding window, and ALiBi, which cannot share."""
    model = model_of(architecture)
    sequences = sequences_of(300, [(0, 12, 20), (0, 12, 5), (1, 3, 14)])
    likelihoods = PrefixedLikelihoods(Likelihoods(model))
    scores = likelihoods.score(sequences)
    assert likelihoods._shares == (architecture != "bloom")
    for score, row in zip(scores, sequences, strict=True):
        assert np.allclose(score, alone(model, row.joined()), atol=1e-4)
    assert torch.is_inference_mode_enabled() is False
