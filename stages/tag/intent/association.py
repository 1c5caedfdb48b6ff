"""Tags that come together: frequent sets of items by FP-Growth, and the rules between two items.

FP-Growth (Han, Pei and Yin 2000, Mining Frequent Patterns without Candidate Generation, SIGMOD)
as in the paper: transactions with their items in the order of frequency share the prefixes of a
tree, and the frequent sets that end in an item are those of its conditional transactions, the
prefixes above it. Exact: every set with the support and no other, whatever the order of the
transactions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Itemset = tuple[str, ...]
"""Different items in the order of their names."""

Weighted = tuple[Collection[str], int]
"""Items that come together, and how often they do."""


class Rule(NamedTuple):
    """Where there is one item, there is mostly another one.

    Attributes:
        item: The item on the left.
        implied: The item on the right.
        support: Number of transactions with both.
        confidence: `support` as a part of the transactions with `item`.
    """

    item: str
    implied: str
    support: int
    confidence: float


@dataclass
class _Node:
    """A place of the tree: an item below the more frequent ones that it came with."""

    item: str
    parent: _Node | None
    count: int = 0
    children: dict[str, _Node] = field(default_factory=dict)

    def prefix(self) -> list[str]:
        """The items above it."""
        items, node = [], self.parent
        while node is not None and node.parent is not None:
            items.append(node.item)
            node = node.parent
        return items


def frequent_itemsets(
    transactions: Iterable[Collection[str]], min_support: int, max_size: int | None = None
) -> dict[Itemset, int]:
    """All sets of items that are in enough transactions, by FP-Growth.

    Args:
        transactions: The items of each; one that is there twice counts once.
        min_support: Least number of transactions.
        max_size: Largest number of items of a set; None for any.

    Returns:
        The number of transactions with all items of the set.

    Example:
        >>> frequent_itemsets([["a", "b"], ["b", "a", "c"], ["c"]], 2)
        {('a',): 2, ('a', 'b'): 2, ('b',): 2, ('c',): 2}
    """
    weighted = [({*items}, 1) for items in transactions]
    itemsets = _grow(weighted, (), min_support, max_size)
    return dict(sorted((tuple(sorted(items)), support) for items, support in itemsets))


def _grow(
    transactions: Iterable[Weighted], suffix: Itemset, min_support: int, max_size: int | None
) -> Iterator[tuple[Itemset, int]]:
    """The frequent sets of conditional transactions, each with the suffix that they belong to."""
    transactions = list(transactions)
    counts: Counter[str] = Counter()
    for items, weight in transactions:
        for item in items:
            counts[item] += weight
    supports = {item: count for item, count in counts.items() if count >= min_support}
    for item, support in supports.items():
        yield (item, *suffix), support
    if max_size is not None and len(suffix) + 2 > max_size:
        return
    for item, nodes in _tree(transactions, supports).items():
        conditional = [(node.prefix(), node.count) for node in nodes]
        yield from _grow(conditional, (item, *suffix), min_support, max_size)


def _tree(transactions: Iterable[Weighted], supports: Mapping[str, int]) -> dict[str, list[_Node]]:
    """The tree's nodes by item: transactions share what they have in common from the root on."""
    root, nodes = _Node("", None), defaultdict[str, list[_Node]](list)
    for items, weight in transactions:
        node = root
        frequent = (item for item in items if item in supports)
        for item in sorted(frequent, key=lambda item: (-supports[item], item)):
            if item not in node.children:
                node.children[item] = _Node(item, node)
                nodes[item].append(node.children[item])
            node = node.children[item]
            node.count += weight
    return nodes


def pair_rules(
    transactions: Iterable[Collection[str]], min_support: int, min_confidence: float
) -> list[Rule]:
    """The association rules from one item to another.

    Args:
        transactions: The items of each.
        min_support: Least number of transactions with both.
        min_confidence: Least part of the transactions with the one that have the other, too.

    Returns:
        Rules in the order of their items.

    Example:
        >>> pair_rules([["tide", "sea"], ["tide", "sea"], ["sea"]], 2, 0.9)
        [Rule(item='tide', implied='sea', support=2, confidence=1.0)]
    """
    itemsets = frequent_itemsets(transactions, min_support, max_size=2)
    rules = [
        Rule(item, implied, support, support / itemsets[(item,)])
        for pair, support in itemsets.items()
        if len(pair) == 2
        for item, implied in (pair, pair[::-1])
    ]
    return sorted(rule for rule in rules if rule.confidence >= min_confidence)
