"""The rules of n-grams by loops over word tuples: slow, and plain enough to be believed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise

import polars as pl

from stages._text.ngram_index import MIN_WORDS_ANYWHERE
from stages._text.tokens import words
from stages.decontaminate._rules import Rule


@lru_cache(maxsize=4096)
def split(text: str) -> list[str]:
    return words(pl.Series([text]))[0].to_list()


def is_evidence(gram: tuple[str, ...], complete: bool) -> bool:
    trivial = all(word.isnumeric() or (len(word) == 1 and word.isascii()) for word in gram)
    return len(set(gram)) >= 3 and (complete or not trivial)


def is_count(words: list[str]) -> bool:
    """Whether the words are numbers, or letters, in equal steps."""
    if all(word.isdecimal() for word in words):
        values = [int(word) for word in words]
    elif all(len(word) == 1 for word in words):
        values = [ord(word) for word in words]
    else:
        return False
    return all(b - a == values[1] - values[0] for a, b in pairwise(values))


def common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence."""
    best = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b, 1):
            last, best[j] = best[j], last + 1 if x == y else max(best[j], best[j - 1])
    return best[-1]


def overlap(rule: Rule, item: str, turn: str) -> float:
    """What an item's text and a turn have in common, by the rule's measure; 0 for nothing."""
    item_words, turn_words = split(item), split(turn)
    if rule.measure == "text":
        needle = item.lower().strip()
        enough = len(item_words) >= rule.min_words and len(set(item_words)) >= 3
        return float(enough and needle in turn.lower())
    size = min(rule.ngram_size, len(item_words))
    if size < rule.ngram_size and size < rule.min_words:
        return 0.0
    grams = {i: tuple(item_words[i : i + size]) for i in range(len(item_words) - size + 1)}
    grams = {i: gram for i, gram in grams.items() if is_evidence(gram, size < rule.ngram_size)}
    complete = size < rule.ngram_size
    if not grams and not is_count(item_words):
        size, complete = len(item_words), True
        grams = {0: tuple(item_words)} if is_evidence(tuple(item_words), True) else {}
    short = complete and size < MIN_WORDS_ANYWHERE and not rule.short_anywhere
    held = {tuple(turn_words[i : i + size]) for i in range(len(turn_words) - size + 1)}
    shared = [i for i, gram in grams.items() if gram in held]
    if not shared or (short and 2 * size < len(turn_words)):
        return 0.0
    if rule.measure == "ngrams":
        return len(shared) / len(grams)
    if rule.measure == "sequence":
        return common(turn_words, item_words) / min(len(turn_words), len(item_words))
    covered = {k for i in shared for k in range(i, i + size)}
    return len(covered) / len({k for i in grams for k in range(i, i + size)})


def pairs(
    rule: Rule, rows: pl.DataFrame, benchmarks: pl.DataFrame
) -> Mapping[tuple[str, str, str], float]:
    """(row, benchmark, item) -> the largest overlap among its turns and texts that is enough."""
    result: dict[tuple[str, str, str], float] = {}
    for key, messages in rows.select("id", "messages").iter_rows():
        turns = [m["content"] for m in messages if rule.turns in ("all", m["role"])]
        for benchmark, item, texts in benchmarks.select("benchmark", "item", "texts").iter_rows():
            for text in texts:
                for turn in turns:
                    fraction = overlap(rule, text["text"] or "", turn or "")
                    enough = (
                        fraction >= rule.coverage if rule.inclusive else fraction > rule.coverage
                    )
                    if fraction and enough:
                        pair = key, benchmark, item
                        result[pair] = max(result.get(pair, 0.0), fraction)
    return result


def largest(rule: Rule, rows: pl.DataFrame, benchmarks: pl.DataFrame) -> dict[str, float]:
    """The largest overlap of each row that a rule drops."""
    result: dict[str, float] = {}
    for (key, _, _), fraction in pairs(rule, rows, benchmarks).items():
        result[key] = max(result.get(key, 0.0), fraction)
    return result
