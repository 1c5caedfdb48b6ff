"""The rules of n-grams by loops over word tuples: slow, and plain enough to be believed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import polars as pl

from stages._text.ngram_index import TELLING
from stages._text.tokens import words
from stages.decontaminate._rules import Rule


@lru_cache(maxsize=4096)
def split(text: str) -> list[str]:
    return words(pl.Series([text]))[0].to_list()


def telling(gram: tuple[str, ...], whole: bool) -> bool:
    trivial = all(word.isnumeric() or (len(word) == 1 and word.isascii()) for word in gram)
    return len(set(gram)) >= 3 and (whole or not trivial)


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
    theirs, ours = split(item), split(turn)
    if rule.measure == "text":
        wanted = item.lower().strip()
        enough = len(theirs) >= rule.min_words and len(set(theirs)) >= 3
        return float(enough and wanted in turn.lower())
    size = min(rule.n, len(theirs))
    if size < rule.n and size < rule.min_words:
        return 0.0
    short = size < min(rule.n, TELLING) and not rule.short_anywhere
    grams = {i: tuple(theirs[i : i + size]) for i in range(len(theirs) - size + 1)}
    grams = {i: gram for i, gram in grams.items() if telling(gram, size < rule.n)}
    held = {tuple(ours[i : i + size]) for i in range(len(ours) - size + 1)}
    shared = [i for i, gram in grams.items() if gram in held]
    if not shared or (short and 2 * size < len(ours)):
        return 0.0
    if rule.measure == "ngrams":
        return len(shared) / len(grams)
    if rule.measure == "sequence":
        return common(ours, theirs) / min(len(ours), len(theirs))
    covered = {k for i in shared for k in range(i, i + size)}
    return len(covered) / len({k for i in grams for k in range(i, i + size)})


def pairs(
    rule: Rule, rows: pl.DataFrame, exams: pl.DataFrame
) -> Mapping[tuple[str, str, str], float]:
    """(row, benchmark, item) -> the largest overlap among its turns and texts that is enough."""
    result: dict[tuple[str, str, str], float] = {}
    for key, messages in rows.select("id", "messages").iter_rows():
        spoken = [m["content"] for m in messages if rule.turns in ("all", m["role"])]
        for benchmark, item, texts in exams.select("benchmark", "item", "texts").iter_rows():
            for text in texts:
                for turn in spoken:
                    share = overlap(rule, text["text"] or "", turn or "")
                    enough = share >= rule.coverage if rule.reached else share > rule.coverage
                    if share and enough:
                        pair = key, benchmark, item
                        result[pair] = max(result.get(pair, 0.0), share)
    return result


def largest(rule: Rule, rows: pl.DataFrame, exams: pl.DataFrame) -> dict[str, float]:
    """The largest overlap of each row that a rule convicts."""
    result: dict[str, float] = {}
    for (key, _, _), share in pairs(rule, rows, exams).items():
        result[key] = max(result.get(key, 0.0), share)
    return result
