"""Importance weights from hashed n-grams: Data Selection via Importance Resampling.

Xie et al. 2023 (arXiv:2302.03169): texts are bags of words and pairs of words, each
hashed into one of 10,000 buckets. Two distributions over the buckets are counted,
that of the target texts and that of the pool; a text's importance weight is the
ratio of its likelihoods under the two.

Numbers agree with the authors' package (`data-selection`): lower case, WordPunct
tokens (runs of word characters as Python knows them, runs of other signs), a pair
joined by a space, the bucket sha256 mod 10,000, and 1e-8 added to each probability.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

BUCKETS: Final = 10_000
SMOOTHING: Final = 1e-8

TOKEN: Final = r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f]+"
"""Python's `\\w+|[^\\w\\s]+` in the table library's notation, whose own \\w and \\s differ."""

CHUNK: Final = 16_384
"""Texts taken at a time, which bounds the memory for their n-grams."""


class Bags(NamedTuple):
    """words: the number of words of each text. buckets: of all n-grams, one text after another.

    owners: for each n-gram the number of its text.
    """

    words: NDArray[np.int64]
    buckets: NDArray[np.uint16]
    owners: NDArray[np.uint32]

    def distribution(self) -> NDArray[np.float64]:
        """The share of each bucket among all n-grams; zeros where there is none."""
        counts = np.bincount(self.buckets, minlength=BUCKETS)
        shares: NDArray[np.float64] = counts / max(1, counts.sum())
        return shares


def bags(texts: pl.Series) -> Bags:
    """The hashed words and pairs of words of each text."""
    parts = [_chunk(texts[i : i + CHUNK], i) for i in range(0, max(1, len(texts)), CHUNK)]
    return Bags(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _chunk(texts: pl.Series, first: int) -> Bags:
    words = texts.str.to_lowercase().str.extract_all(TOKEN).fill_null([])
    frame = pl.DataFrame({"owner": np.arange(first, first + len(texts), dtype=np.uint32)})
    singles = frame.with_columns(words.alias("gram")).explode("gram").drop_nulls()
    follows = pl.col("owner") == pl.col("owner").shift(-1)
    pair = pl.concat_str("gram", pl.col("gram").shift(-1), separator=" ")
    pairs = singles.select("owner", pl.when(follows).then(pair).alias("gram")).drop_nulls()
    grams = pl.concat([singles, pairs])
    names = grams["gram"].unique()
    hashed = pl.DataFrame({"gram": names, "bucket": _hashes(names.to_list())})
    found = grams.join(hashed, on="gram", how="left", maintain_order="left")
    lengths = words.list.len().to_numpy().astype(np.int64)
    return Bags(lengths, found["bucket"].to_numpy(), found["owner"].to_numpy())


def _hashes(grams: list[str]) -> NDArray[np.uint16]:
    """The bucket of each n-gram. A loop: sha256 is taken of one text at a time."""
    sha256, whole = hashlib.sha256, int.from_bytes
    found = (whole(sha256(gram.encode()).digest(), "big") % BUCKETS for gram in grams)
    return np.fromiter(found, np.uint16, len(grams))


def log_weights(pool: Bags, target: Bags) -> NDArray[np.float64]:
    """The logarithm of each pool text's importance weight; 0 for a text without words.

    It is the sum over the text's n-grams of log((p_target + 1e-8) / (p_pool + 1e-8)).
    """
    ratio = np.log(target.distribution() + SMOOTHING) - np.log(pool.distribution() + SMOOTHING)
    summed = np.bincount(pool.owners, ratio[pool.buckets], minlength=len(pool.words))
    return summed.astype(np.float64, copy=False)
