"""Model-free indicators of a conversation: lengths, lexical diversity, compression, repetition.

They cost almost nothing, and the length of the answer alone is a strong baseline
(Zhao et al. 2024, arXiv:2402.04833). The distance to the nearest neighbours needs
vectors and all rows, so it is a stage of its own: `score.knn`.

A word is a run of letters and digits; those of the measures after the lengths are in lower
case. Of Chinese, Japanese, Thai, Lao, Khmer and Burmese, which are written without spaces, it
is a character. A turn is measured by its content, or by more of it (`view`).

- `turns`: the number of user turns;
- `prompt_chars`, `prompt_words`: of the first user turn with its input;
- `response_chars`, `response_words`: of the last assistant turn, null without one;
- `mtld`: the measure of textual lexical diversity of the last answer (McCarthy and
  Jarvis 2010, doi:10.3758/BRM.42.2.381): the mean length in words of a factor, a
  stretch that ends when its type-token ratio (TTR) reaches 0.72, forwards and
  backwards. What remains at the end counts as the part (1 - TTR) / (1 - 0.72) of a
  factor. Unlike the ratio itself it does not fall with length. Null where no word
  repeats, as no factor ends, and noisy below a hundred words;
- `compression_ratio`: bytes of the last answer in UTF-8 after zlib at level 6
  through bytes before; low means redundant. Texts of a few words are above 1;
- `repetition`: the fraction of the last answer's n-grams that occurred in it before,
  1 - distinct / all (seq-rep-n of Welleck et al. 2020, arXiv:1908.04319); 0 where
  there are fewer than n words;
- `num_tool_calls`: the calls of all turns; `reasoning_chars`: characters of all reasoning.

EasyInstruct (Ou et al. 2024, arXiv:2402.03049) selects by length and by MTLD, among others.
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.stage import Records, stage
from pipeline.types import Count
from schemas.records import first_user_turn, num_tool_calls, reasoning, response, turns
from schemas.turns import View
from stages._text.ragged import offsets_of
from stages._text.tokens import factorize
from stages._text.words import count_words, repetition, word_lists

FACTOR: Final = 0.72
"""The type-token ratio at which MTLD closes a factor (McCarthy and Jarvis 2010)."""

_SLICE: Final = 4096
"""Conversations measured at a time, which bounds the memory for their words."""

_WINDOW: Final = 32
"""Words of each text that are examined together: about half a factor."""


@stage(
    version=2,
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
        "num_tool_calls": pl.Int32,
        "reasoning_chars": pl.Int32,
    },
)
def heuristics(
    ctx: Context, rows: Records, *, ngram_size: Count = 3, view: View = "content"
) -> pl.DataFrame:
    """Measure each conversation without a model. See `score.knn` for distances.

    Args:
        rows: Conversations.
        ngram_size: Words in the n-grams of `repetition`.
        view: What of an answer is measured: its content, the tool calls too, or all.

    Returns:
        The columns that are listed at the head of the module. `mtld`,
        `compression_ratio` and `repetition` are null for a blank or missing answer.

    Example:
        ```yaml
        measured:
          uses: score.heuristics
          needs: pool
          with: {ngram_size: 3}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> turns = [("user", "Quote."), ("assistant", "Of the people by the people")]
        >>> messages = [{"role": role, "content": content} for role, content in turns]
        >>> rows = pl.DataFrame({"id": ["a"], "messages": [messages]})
        >>> heuristics(Context.scratch(Path(mkdtemp())), rows, ngram_size=2).select(
        ...     "prompt_words", "response_words", "repetition"
        ... ).row(0)
        (1, 6, 0.20000000298023224)
    """
    parts = rows.select("messages").iter_slices(_SLICE)
    # zlib, polars and numpy let go of the interpreter's lock while they compute.
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        measured = list(pool.map(partial(_measured, ngram_size=ngram_size, view=view), parts))
    return pl.concat(measured) if measured else _measured(rows, ngram_size, view)


def _measured(rows: pl.DataFrame, ngram_size: int, view: View) -> pl.DataFrame:
    texts = rows.select(
        turns("user").list.len().cast(pl.Int32).alias("turns"),
        first_user_turn().fill_null("").alias("prompt"),
        response(view),
        num_tool_calls().fill_null(0).cast(pl.Int32),
        reasoning()
        .list.eval(pl.element().str.len_chars())
        .list.sum()
        .fill_null(0)
        .cast(pl.Int32)
        .alias("reasoning_chars"),
    )
    words = texts.select(word_lists(pl.col("response").fill_null(""))).to_series()
    offsets = offsets_of(words.list.len().to_numpy())
    flat = words.explode(empty_as_null=False, keep_nulls=False)
    return texts.select(
        "turns",
        pl.col("prompt").str.len_chars().cast(pl.Int32).alias("prompt_chars"),
        count_words(pl.col("prompt")).cast(pl.Int32).alias("prompt_words"),
        pl.col("response").str.len_chars().cast(pl.Int32).alias("response_chars"),
        pl.when(pl.col("response").is_not_null())
        .then(words.list.len())
        .cast(pl.Int32)
        .alias("response_words"),
        _column("mtld", _mtld(factorize(flat)[1], offsets)),
        # A loop, since zlib reads one text at a time.
        pl.Series("compression_ratio", map(_compression, texts["response"]), pl.Float32),
        _column("repetition", repetition(flat, offsets, ngram_size)),
        "num_tool_calls",
        "reasoning_chars",
    )


def _column(name: str, values: NDArray[np.float64]) -> pl.Series:
    """The values as a stage adds them; null in place of NaN."""
    return pl.Series(name, values, nan_to_null=True).cast(pl.Float32)


def _mtld(words: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean of the forward and the backward pass; NaN where no word repeats."""
    previous = _previous(words, offsets)
    repeats = np.flatnonzero(previous >= 0)
    # Read from the end, a word's next occurrence is its previous one.
    following = np.full(len(words), -1)
    following[previous[repeats]] = len(words) - 1 - repeats
    forwards = _factors(previous, offsets)
    backwards = _factors(following[::-1], (offsets[-1] - offsets)[::-1])[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.diff(offsets) * (1 / forwards + 1 / backwards) / 2
    return np.where((forwards > 0) & (backwards > 0), mean, np.nan)


def _factors(previous: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """The number of factors of each text, the last one in part.

    previous: for each word the position of its last occurrence before it in its text, or -1.
    All texts advance together, each by a window of words or to the end of a factor in it. A
    word is new in its factor where its last occurrence lies before the factor.
    """
    windows = sliding_window_view(np.append(previous, np.zeros(_WINDOW, dtype=np.int64)), _WINDOW)
    ahead = np.arange(_WINDOW)
    start, ends = offsets[:-1].copy(), offsets[1:]
    closed, at, seen = np.zeros(len(ends)), start.copy(), np.zeros(len(ends), dtype=np.int64)
    while len(open_ := np.flatnonzero(at < ends)):
        here, length = at[open_], (at - start)[open_]
        inside = ahead < (ends[open_] - here)[:, None]
        new = inside & (windows[here] < start[open_, None])
        types = seen[open_, None] + np.cumsum(new, axis=1)
        closes = inside & (types <= FACTOR * (length[:, None] + ahead + 1))
        first = closes.argmax(axis=1)
        done = closes[np.arange(len(open_)), first]
        at[open_] = here + np.where(done, first + 1, _WINDOW)
        seen[open_] = np.where(done, 0, types[:, -1])
        start[open_[done]] = at[open_[done]]
        closed[open_] += done
    lengths = np.maximum(ends - start, 1)
    rest = (1 - np.where(ends > start, seen / lengths, 1)) / (1 - FACTOR)
    return closed + rest


def _previous(words: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each word the position of its last occurrence before it in its text, or -1."""
    texts = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    keys = texts * (words.max(initial=0) + 1) + words
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(np.diff(keys[order]) == 0)
    previous = np.full(len(words), -1)
    previous[order[repeats + 1]] = order[repeats]
    return previous


def _compression(text: str | None) -> float | None:
    if not text or not text.strip():
        return None
    raw = text.encode()
    return len(zlib.compress(raw, 6)) / len(raw)
