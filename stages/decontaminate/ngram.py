"""Decontamination by shared word n-grams: rows that hold (parts of) evaluation items.

One rule covers the schemes in use. n=13, coverage=0 is any shared 13-gram (GPT-3,
arXiv:2005.14165, appendix C; lm-evaluation-harness). n=8, coverage=0.5 with user turns
is Tulu 3's (arXiv:2411.15124): more than half of an item's words in shared 8-grams.
Paraphrases pass any rule of n-grams: they need an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Items, Records, stage
from schemas.records import digest
from stages._overlap import DISTINCT, Index, Overlaps, build_index, overlaps
from stages._verdicts import dropped


def _check(options: SimpleNamespace) -> None:
    if options.n < DISTINCT or options.min_words < DISTINCT:
        raise UserError(f"n and min_words must be at least {DISTINCT}: fewer words say nothing")
    if not 0 <= options.coverage < 1:
        raise UserError("coverage must be at least 0 and below 1: it has to be exceeded")


@stage(version=1, scope="row", reads={"rows": ["messages"]}, check=_check)
def ngram(
    ctx: Context,
    rows: Records,
    exams: Items,
    *,
    n: int = 13,
    coverage: float = 0.0,
    turns: Literal["all", "user", "assistant"] = "all",
    fields: tuple[str, ...] | None = None,
    min_words: int = 5,
) -> pl.DataFrame:
    """Drop as `contaminated` every row of which one turn overlaps with an evaluation item.

    n: words per n-gram (`stages._text.words`: lower-cased, no punctuation; a character
        of Chinese is a word; numbers stay).
    coverage: the share of the words of an item's text, in n-grams shared with one
        turn, that must be exceeded; 0: any shared n-gram.
    turns: which turns are looked at, each by itself.
    fields: the texts of the items that count, by name; by default all.
    min_words: an item's text of fewer than n words is looked for as a whole, if it has
        at least so many. With fewer than 8 words it must also be at least half of the
        turn: inside long turns such phrases occur by chance. Texts below min_words
        ("yes", "42", "all of the above") would prove nothing and are left out.

    N-grams of fewer than three distinct words, or of numbers and single letters alone,
    are ignored: a run of zeros is no leak.
    Evidence, for the largest overlap: benchmark, item and its id, field, overlap (a share of the
    text's words), ngram (the first one shared) and turn (its place in messages).
    Raises UserError for exams without items, and for a benchmark of which nothing
    could be compared: nothing would ever be found, which is not the same as clean.
    """
    index = _index(_Exams(exams), n, min_words, fields)
    spoken = _turns(rows, turns)
    found = overlaps(index, spoken["text"])
    return dropped(len(rows), "contaminated", _evidence(index, found, spoken, coverage))


def _turns(rows: pl.DataFrame, which: str) -> pl.DataFrame:
    """One line per turn: row and turn (positions), role and text."""
    role, content = (pl.col("messages").struct.field(name) for name in ("role", "content"))
    lines = rows.select(
        pl.int_range(pl.len()).alias("row"),
        pl.int_ranges(pl.col("messages").list.len()).alias("turn"),
        "messages",
    ).explode("turn", "messages")
    spoken = lines.select("row", "turn", role, content.fill_null("").alias("text"))
    return spoken if which == "all" else spoken.filter(pl.col("role") == which)


def _evidence(
    index: Index, found: Overlaps, spoken: pl.DataFrame, coverage: float
) -> dict[int, dict[str, Any]]:
    """The largest overlap of each row above the coverage; of equals the first."""
    row = spoken["row"].to_numpy()[found.row]
    enough = np.flatnonzero(found.overlap > coverage)
    order = enough[np.lexsort((found.text[enough], -found.overlap[enough], row[enough]))]
    rows, first = np.unique(row[order], return_index=True)
    evidence = {}
    # A loop over dropped rows only.
    for position, i in zip(rows.tolist(), order[first].tolist(), strict=True):
        text = index.texts.row(int(found.text[i]), named=True)
        begin = index.offsets[found.text[i]] + found.start[i]
        evidence[position] = {
            "benchmark": text["benchmark"],
            "item": text["item"],
            "id": text["id"],
            "field": text["field"],
            "overlap": float(found.overlap[i]),
            "ngram": " ".join(index.flat.slice(int(begin), int(found.length[i]))),
            "turn": spoken["turn"][int(found.row[i])],
        }
    return evidence


@dataclass(frozen=True)
class _Exams:
    """Items that hash by their content, so that the index is built once per process."""

    items: pl.DataFrame = field(compare=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        content = self.items.select("benchmark", "item", "id", "texts").hash_rows().to_list()
        object.__setattr__(self, "key", digest(content))


@lru_cache(maxsize=4)
def _index(exams: _Exams, n: int, min_words: int, fields: tuple[str, ...] | None) -> Index:
    if not len(exams.items):
        raise UserError("there is no evaluation item to compare with")
    name = pl.col("texts").struct.field("name").alias("field")
    text = pl.col("texts").struct.field("text").fill_null("")
    texts = (
        exams.items.sort("benchmark", "item", "id")
        .select("benchmark", "item", "id", "texts")
        .explode("texts")
        .select("benchmark", "item", "id", name, text)
    )
    names = texts["field"].drop_nulls().unique().sort().to_list()
    if fields is not None:
        texts = texts.filter(pl.col("field").is_in(fields))
    index = build_index(texts, n, min_words)
    usable = set(index.texts["benchmark"].gather(index.usable()))
    unusable = sorted(set(exams.items["benchmark"]) - usable)
    if unusable:
        raise UserError(
            f"nothing of {', '.join(unusable)} can be compared with n={n}",
            why=f"no text of the chosen fields has {min(n, min_words)} or more telling words",
            hint=f"the fields are {', '.join(names)}; or lower min_words",
        )
    return index
