"""Model-free indicators of a conversation: lengths, lexical diversity, compression, repetition.

They cost almost nothing, and the length of the answer alone is a strong baseline
(Zhao et al. 2024, arXiv:2402.04833). The distance to the nearest neighbours needs
vectors and all rows, so it is a stage of its own: `score.knn`.

A word is a run of letters and digits; those of the last three are in lower case.

- `turns`: the number of user turns;
- `prompt_chars`, `prompt_words`: of the first user turn with its input;
- `response_chars`, `response_words`: of the last assistant turn, null without one;
- `mtld`: the measure of textual lexical diversity of the last answer (McCarthy and
  Jarvis 2010, doi:10.3758/BRM.42.2.381): the mean length in words of a stretch that
  ends when its type-token ratio (TTR) reaches 0.72, forwards and backwards. What
  remains at the end counts as the part (1 - TTR) / (1 - 0.72) of a stretch. Unlike
  the ratio itself it does not fall with length. Null where no word repeats, as no
  stretch ends, and noisy below a hundred words;
- `compression_ratio`: bytes of the last answer in UTF-8 after zlib at level 6
  through bytes before; low means redundant. Texts of a few words are above 1;
- `repetition`: the share of the last answer's n-grams that occurred in it before,
  1 - distinct / all (seq-rep-n of Welleck et al. 2020, arXiv:1908.04319); 0 where
  there are fewer than n words.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from schemas.records import first_user_turn, response, turns

WORD: Final = r"[\p{L}\p{N}]+(?:['’][\p{L}]+)*"
"""A run of letters and digits, apostrophes inside it included."""

FACTOR: Final = 0.72
"""The type-token ratio at which MTLD closes a stretch (McCarthy and Jarvis 2010)."""


def _check(options: SimpleNamespace) -> None:
    if options.ngram < 1:
        raise UserError(f"ngram: {options.ngram} words make no n-gram", hint="give 1 or more")


@stage(
    version=1,
    scope="row",
    reads=["messages"],
    adds={
        "turns": pl.Int32,
        "prompt_chars": pl.Int32,
        "prompt_words": pl.Int32,
        "response_chars": pl.Int32,
        "response_words": pl.Int32,
        "mtld": pl.Float32,
        "compression_ratio": pl.Float32,
        "repetition": pl.Float32,
    },
    check=_check,
)
def heuristics(ctx: Context, rows: Records, *, ngram: int = 3) -> pl.DataFrame:
    """Measure each conversation without a model. See `score.knn` for distances.

    ngram: the length in words of the n-grams of `repetition`.

    Adds the columns that are listed above.
    The last three are null for a blank or missing answer.
    """
    texts = rows.select(
        turns("user").list.len().cast(pl.Int32).alias("turns"),
        first_user_turn().fill_null("").alias("prompt"),
        response(),
    )
    answers = texts["response"]
    words = answers.str.to_lowercase().str.extract_all(WORD).to_list()
    return texts.select(
        "turns",
        pl.col("prompt").str.len_chars().cast(pl.Int32).alias("prompt_chars"),
        pl.col("prompt").str.count_matches(WORD).cast(pl.Int32).alias("prompt_words"),
        pl.col("response").str.len_chars().cast(pl.Int32).alias("response_chars"),
        pl.col("response").str.count_matches(WORD).cast(pl.Int32).alias("response_words"),
        # Loops: each reads one text with a state of its own; none is a table operation.
        pl.Series("mtld", [_mtld(w) if w else None for w in words], pl.Float32),
        pl.Series("compression_ratio", [_compression(a) for a in answers], pl.Float32),
        pl.Series("repetition", [_repetition(w, ngram) if w else None for w in words], pl.Float32),
    )


def _mtld(words: Sequence[str]) -> float | None:
    """The mean of the forward and the backward pass; null where no word repeats."""
    factors = _factors(words), _factors(words[::-1])
    if not all(factors):
        return None
    return len(words) * (1 / factors[0] + 1 / factors[1]) / 2


def _factors(words: Sequence[str]) -> float:
    """How many stretches of the text use up their new words, the last one in part."""
    closed, seen, length = 0, set[str](), 0
    for word in words:
        seen.add(word)
        length += 1
        if len(seen) <= FACTOR * length:
            closed, seen, length = closed + 1, set(), 0
    rest = (1 - len(seen) / length) / (1 - FACTOR) if length else 0.0
    return closed + rest


def _compression(text: str | None) -> float | None:
    if not text or not text.strip():
        return None
    raw = text.encode()
    return len(zlib.compress(raw, 6)) / len(raw)


def _repetition(words: Sequence[str], n: int) -> float:
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
