"""FP-Growth gives all frequent sets and no other, whatever the order: brute force is the oracle."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from stages.tag.intent.association import frequent_itemsets, pair_rules

TRANSACTIONS = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=7), max_size=14)


def brute_force(
    transactions: Sequence[Collection[str]], min_support: int, max_size: int
) -> dict[tuple[str, ...], int]:
    items = sorted({item for transaction in transactions for item in transaction})
    candidates = (c for size in range(1, max_size + 1) for c in combinations(items, size))
    supports = {c: sum({*c} <= {*t} for t in transactions) for c in candidates}
    return {c: support for c, support in supports.items() if support >= min_support}


@given(TRANSACTIONS, st.integers(1, 5), st.sampled_from([None, 1, 2, 3]))
def test_the_sets_are_those_of_brute_force(
    transactions: list[list[str]], min_support: int, max_size: int | None
) -> None:
    expected = brute_force(transactions, min_support, max_size or 7)
    assert frequent_itemsets(transactions, min_support, max_size) == expected


@given(TRANSACTIONS, st.integers(1, 4), st.integers(0, 99))
def test_the_order_of_transactions_and_items_does_not_matter(
    transactions: list[list[str]], min_support: int, seed: int
) -> None:
    shuffled = [random.Random(seed).sample(items, len(items)) for items in transactions]
    random.Random(seed).shuffle(shuffled)
    itemsets = frequent_itemsets(transactions, min_support)
    assert [*frequent_itemsets(shuffled, min_support).items()] == [*itemsets.items()]


@given(TRANSACTIONS, st.integers(1, 4), st.sampled_from([0.3, 0.5, 1.0]))
def test_rules_are_the_pairs_that_are_confident_enough(
    transactions: list[list[str]], min_support: int, min_confidence: float
) -> None:
    sets = [{*items} for items in transactions]
    rules = {(r.item, r.implied): (r.support, r.confidence) for r in pair_rules(
        transactions, min_support, min_confidence
    )}  # fmt: skip
    for item in "abcdefg":
        for implied in {*"abcdefg"} - {item}:
            both = sum({item, implied} <= s for s in sets)
            alone = sum(item in s for s in sets)
            expected = both >= min_support and both / alone >= min_confidence
            assert ((item, implied) in rules) == expected
            if expected:
                assert rules[item, implied] == (both, both / alone)
