"""The MinHash of dedup.minhash; what it shares with dedup.jaccard is tested there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.recipe.discovery import find
from stages._text.candidates import condense
from stages._text.join import prefixes, similarity_join
from stages._text.ragged import Ragged
from stages.dedup._jaccard import minhash as minhash_module
from stages.dedup._jaccard.minhash import MAX_MISS, band_buckets, bands, signatures
from stages.dedup.jaccard import jaccard
from stages.dedup.minhash import minhash
from tests.stages._text.test_join import DENSE, PAIRED, ragged, roots
from tests.support.rows import sample


def test_bands_keep_the_miss_small() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9, 1.0):
        number, size = bands(128, threshold) or (0, 0)
        assert 0 < number * size <= 128
        assert (1 - threshold**size) ** number <= MAX_MISS
        assert (1 - threshold ** (size + 1)) ** (128 // (size + 1)) > MAX_MISS or threshold == 1.0
    assert bands(16, 0.2) is None


def test_signatures_agree_as_often_as_the_sets_are_similar() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2**64, 1500, dtype=np.uint64)
    for shared in (200, 500, 800):
        two = np.concatenate([values[: 500 + shared // 2], values[500 - shared // 2 : 1000]])
        both = Ragged(np.array([0, 500 + shared // 2, 1000 + shared]), two)
        signature = signatures(both, 2000, seed=3)
        expected = shared / 1000
        error = (expected * (1 - expected) / 2000) ** 0.5
        assert abs((signature[:, 0] == signature[:, 1]).mean() - expected) < 4 * error


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ragged([set(range(i, i + 1 + i % 9)) for i in range(50)] + [set()])
    complete = signatures(sets, 16, seed=0)
    assert (complete[:, -1] == 0).all()
    monkeypatch.setattr(minhash_module, "_VALUES", 3)
    assert (signatures(sets, 16, seed=0) == complete).all()
    assert (signatures(sets, 16, seed=1) != complete)[:, :-1].any(axis=0).all()


@pytest.mark.parametrize("sets", [DENSE, PAIRED])
def test_crowded_buckets_are_replaced_by_rare_elements(sets: list) -> None:
    pool = condense(ragged(sets), 0, 0.7)
    rare, bucketed = band_buckets(pool, 128, 0)
    assert bool(len(rare.row)) == (sets is DENSE)
    assert (bucketed.stop - bucketed.start).max(initial=0) < minhash_module._CROWD
    by_bands = similarity_join(ragged(sets), 0, 0.7, lambda pool: band_buckets(pool, 128, 0))
    exact = similarity_join(ragged(sets), 0, 0.7, prefixes)
    assert roots(by_bands, len(sets)) == roots(exact, len(sets))


def test_seeds_and_lengths_do_not_change_the_result(ctx: Context) -> None:
    rows = sample("selfbehave.jsonl.gz")
    exact = jaccard(ctx, rows, threshold=0.7)
    for seed, num_perm in ((0, 128), (1, 128), (2, 200)):
        verdicts = minhash(ctx, rows, threshold=0.7, seed=seed, num_perm=num_perm)
        assert verdicts["drop_reason"].equals(exact["drop_reason"])
    assert exact["drop_reason"].count() > 10


def test_too_few_permutations_are_reported_before_the_run() -> None:
    stage = find("dedup.minhash")
    options = SimpleNamespace(**{o.name: o.default for o in stage.options} | {"num_perm": 4})
    with pytest.raises(OptionError, match=r"^num_perm must be larger .*, got 4"):
        stage.check(options)
