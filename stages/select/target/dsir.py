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
from typing import Final, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.types import NonNegativeInt, option_group
from schemas.turns import View
from stages._text.tokens import Field

BUCKETS: Final = 10_000
SMOOTHING: Final = 1e-8

TOKEN: Final = r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f]+"
"""Python's `\\w+|[^\\w\\s]+` in the notation of polars, whose own \\w and \\s differ."""

CHUNK: Final = 16_384
"""Texts at a time, which bounds the memory for their n-grams."""


@option_group
class Distribution:
    """Rows drawn with importance weights (DSIR).

    Attributes:
        field: The text that is compared.
        view: What of a turn is compared: its content, the tool calls too, or all.
        min_words: Rows with fewer words, or with none, are dropped as `too_short` (the
            authors' code uses 100).
        sample: Draw by the weights (Gumbel noise from seed and id); false keeps the rows with
            the largest weights.
        seed: Of the draw.
    """

    name: Literal["distribution"] = "distribution"
    field: Field = "conversation"
    view: View = "calls"
    min_words: NonNegativeInt = 0
    sample: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sample and self.seed:
            raise ValueError(f"seed must be left out with sample: false, got {self.seed}")


class Bags(NamedTuple):
    """The n-grams of texts.

    Attributes:
        words: The number of words of each text, shape (texts,).
        buckets: The buckets of all n-grams, one text after another.
        owners: For each n-gram the number of its text.
    """

    words: NDArray[np.int64]
    buckets: NDArray[np.uint16]
    owners: NDArray[np.uint32]

    def distribution(self) -> NDArray[np.float64]:
        """The frequency of each bucket among all n-grams; zeros where there is none."""
        counts = np.bincount(self.buckets, minlength=BUCKETS)
        frequencies: NDArray[np.float64] = counts / max(1, counts.sum())
        return frequencies


def bags(texts: pl.Series) -> Bags:
    """The hashed words and pairs of words of each text.

    The same as `plain_dsir` in tests/stages/select/test_target.py, which counts text by text
    as the authors' package does; here each different n-gram is hashed once.

    Example:
        >>> result = bags(pl.Series(["red car", None]))
        >>> result.words.tolist(), result.owners.tolist()
        ([2, 0], [0, 0, 0])
    """
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
    joined = grams.join(hashed, on="gram", how="left", maintain_order="left")
    lengths = words.list.len().to_numpy().astype(np.int64)
    return Bags(lengths, joined["bucket"].to_numpy(), joined["owner"].to_numpy())


def _hashes(grams: list[str]) -> NDArray[np.uint16]:
    """The bucket of each n-gram. A loop, because sha256 is computed of one text at a time."""
    sha256, to_integer = hashlib.sha256, int.from_bytes
    buckets = (to_integer(sha256(gram.encode()).digest(), "big") % BUCKETS for gram in grams)
    return np.fromiter(buckets, np.uint16, len(grams))


def log_weights(pool: Bags, target: Bags) -> NDArray[np.float64]:
    """The logarithm of each pool text's importance weight; 0 for a text without words.

    It is the sum over the text's n-grams of log((p_target + 1e-8) / (p_pool + 1e-8)).

    Example:
        >>> pool = bags(pl.Series(["red", "blue"]))
        >>> log_weights(pool, bags(pl.Series(["red"]))).round(2).tolist()
        [0.69, -17.73]
    """
    ratio = np.log(target.distribution() + SMOOTHING) - np.log(pool.distribution() + SMOOTHING)
    summed = np.bincount(pool.owners, ratio[pool.buckets], minlength=len(pool.words))
    return summed.astype(np.float64, copy=False)
