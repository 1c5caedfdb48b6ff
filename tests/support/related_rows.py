"""What relates rows for a hold-out, by loops over pairs: the oracle of split and except."""

from __future__ import annotations

from itertools import combinations

import polars as pl

from schemas.records import prompt_id
from tests.support.near_duplicates import grams, similarity
from tests.support.ngram_oracle import is_evidence, split

Row = tuple[str, list[dict[str, str]]]


def rows_of(frame: pl.DataFrame) -> list[Row]:
    return list(frame.select("id", "messages").iter_rows())


def runs(row: Row, size: int) -> set[tuple[str, ...]]:
    """The runs of words of all turns that prove something."""
    result = set()
    for turn in row[1]:
        listed = split(turn["content"])
        for i in range(len(listed) - size + 1):
            gram = tuple(listed[i : i + size])
            if is_evidence(gram, complete=False):
                result.add(gram)
    return result


def prompt_text(row: Row) -> str:
    return next((turn["content"] for turn in row[1] if turn["role"] == "user"), "")


def relations(a: Row, b: Row, threshold: float, ngram_size: int, size: int) -> list[str]:
    """Why two rows are related, in the order in which `select.except` names them."""
    near = similarity(grams(prompt_text(a), ngram_size), grams(prompt_text(b), ngram_size))
    reasons = {
        "id": a[0] == b[0],
        "prompt": prompt_id(a[1]) == prompt_id(b[1]),
        "near_duplicate": near >= threshold,
        "shared_ngram": bool(runs(a, size) & runs(b, size)),
    }
    return [reason for reason, holds in reasons.items() if holds]


def components(frame: pl.DataFrame, *relation: float) -> dict[str, frozenset[str]]:
    """The ids of each row's component."""
    rows = rows_of(frame)
    group = {row[0]: {row[0]} for row in rows}
    for a, b in combinations(rows, 2):
        if group[a[0]] is not group[b[0]] and relations(a, b, *relation):
            merged = group[a[0]] | group[b[0]]
            group.update(dict.fromkeys(merged, merged))
    return {key: frozenset(ids) for key, ids in group.items()}
