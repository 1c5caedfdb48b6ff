"""The sampler samples from the distribution that the decoding options define."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.base import Decoding
from pipeline.models.journal.requests import PreparedRequest
from pipeline.models.local.sampling import NUCLEUS_CANDIDATES, Sampler, uniforms

CPU = torch.device("cpu")


def prepared(decoding: Decoding, i: int = 0) -> PreparedRequest:
    return PreparedRequest(f"{i * 2654435761 % 2**128:032x}", "", "", (1,), decoding)


def first_tokens(logits: torch.Tensor, decoding: Decoding, count: int) -> np.ndarray:
    """The first token of `count` requests that differ in their keys alone."""
    sampler = Sampler([prepared(decoding, i) for i in range(count)], 1, CPU)
    only = sampler(torch.zeros(count, 1, dtype=torch.long), logits.expand(count, -1))
    assert (torch.isfinite(only).sum(1) == 1).all()
    return only.argmax(1).numpy()


def expected(logits: torch.Tensor, temperature: float, top_p: float) -> np.ndarray:
    """Brute force: sort, cut behind the first token that reaches the mass, normalize."""
    p = torch.softmax(logits.double() / temperature, -1).numpy()
    order = np.argsort(-p, kind="stable")
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1]
    result = np.zeros_like(p)
    result[kept] = p[kept] / p[kept].sum()
    return result


@pytest.mark.parametrize(
    ("size", "spread", "temperature", "top_p"),
    [(50, 2.0, 1.0, 1.0), (50, 2.0, 0.5, 1.0), (50, 2.0, 1.3, 0.7), (50, 2.0, 1.0, 0.05)],
)
def test_samples_follow_the_distribution(
    size: int, spread: float, temperature: float, top_p: float
) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0)) * spread
    count = 40_000
    sampled = first_tokens(logits, Decoding(temperature=temperature, top_p=top_p), count)
    probabilities = expected(logits, temperature, top_p)
    seen = np.bincount(sampled, minlength=size) / count
    assert (seen[probabilities == 0] == 0).all()
    assert abs(seen - probabilities).max() < 4 * np.sqrt(0.25 / count)


def test_a_nucleus_wider_than_what_is_sorted_first() -> None:
    size = 4 * NUCLEUS_CANDIDATES
    logits = torch.randn(size, generator=torch.Generator().manual_seed(1)) * 0.1
    sampled = first_tokens(logits, Decoding(temperature=1.0, top_p=0.6), 8_000)
    probabilities = expected(logits, 1.0, 0.6)
    assert (probabilities > 0).sum() > NUCLEUS_CANDIDATES
    assert (probabilities[sampled] > 0).all()
    outside = np.argsort(-probabilities)[NUCLEUS_CANDIDATES:]
    fraction = np.isin(sampled, outside).mean()
    assert fraction == pytest.approx(probabilities[outside].sum(), abs=0.02)


def test_rows_are_sampled_independently_of_each_other() -> None:
    """Greedy, sampled, narrow and wide nuclei side by side."""
    kinds = [
        Decoding(temperature=t, top_p=p, presence_penalty=q)
        for t in (0.0, 0.7)
        for p in (1.0, 0.5, 0.99)
        for q in (0.0, 1.5)
    ]
    rows = [prepared(kind, i) for i, kind in enumerate(kinds)]
    steps = [torch.randn(len(rows), 3000) for _ in range(4)]

    def answers(chosen: list[int]) -> torch.Tensor:
        sampler = Sampler([rows[i] for i in chosen], len(steps), CPU)
        ids = torch.zeros(len(chosen), 1, dtype=torch.long)
        for logits in steps:
            ids = torch.cat([ids, sampler(ids, logits[chosen]).argmax(1, keepdim=True)], 1)
        return ids

    together = answers(list(range(len(rows))))
    for i in range(len(rows)):
        assert torch.equal(answers([i])[0], together[i])


def test_presence_penalty_counts_once_and_only_what_was_answered() -> None:
    decoding = Decoding(presence_penalty=1.0)
    sampler = Sampler([prepared(decoding)], 4, CPU)
    logits = torch.tensor([[3.0, 2.5, 1.4, 0.0]])
    ids = torch.tensor([[0, 1]])  # the prompt holds tokens 0 and 1
    chosen = []
    for _ in range(4):
        ids = torch.cat([ids, sampler(ids, logits).argmax(1, keepdim=True)], 1)
        chosen.append(int(ids[0, -1]))
    # 3.0; then 2.0 against 2.5; then 2.0 against 1.5 and 1.4; again 2.0, taken off once only
    assert chosen == [0, 1, 0, 0]


def test_random_numbers_depend_on_the_key_and_a_longer_answer_only_adds_more() -> None:
    key, other = "0" * 31 + "1", "0" * 31 + "2"
    assert np.array_equal(uniforms(key, 5), uniforms(key, 9)[:5])
    assert not np.array_equal(uniforms(key, 5), uniforms(other, 5))
    many = uniforms(key, 100_000)
    assert many.min() >= 0
    assert many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=0.005)
