"""The evaluation items that are nearest to a span of a turn, each beside its neighborhood.

In: vectors of spans of turns, and the embedded spans of the items. Out: for each span the
nearest spans of each benchmark, their cosines, and the background: how near either side is
to whatever is nearest to it anyway. See `nearest`.

On a crowded subject everything is near everything, and a cosine of 0.85 says nothing; where
a text stands alone, 0.7 is telling. So the background is taken off each cosine, as in
cross-domain similarity local scaling (CSLS: Conneau et al. 2018, arXiv:1710.04087). The
neighborhood of a text is the mean cosine of the `NEIGHBORHOOD` texts nearest to it, among the
other items of the benchmark and 3,882 ordinary prompts that lie beside this module: general
tasks, programming, arithmetic, and questions. Not among the pool's rows: those may hold an
item many times over, and a row's verdict is to depend on that row alone.

The same as sorting all in float64 (tests/stages/decontaminate/test_semantic.py), faster
because float32 matrix products select, with `_SPARE` more than are needed: float32 cannot
order near ties. Equal spans of a benchmark are one, so ties are of different texts.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._vectors.arrays import (
    PRODUCTS,
    Matrix,
    to_device,
    to_host,
    top_columns,
)
from stages.decontaminate._benchmarks import Benchmarks
from stages.decontaminate._coverage import Coverage
from stages.decontaminate._spans import LONG, OPTION_FIELDS, item_spans, n_words

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""From texts to vectors: `Encoder.encode`."""

NEIGHBORHOOD: Final = 10
"""Neighbors whose mean cosine is a text's background."""

N_CANDIDATES: Final = 3
"""Spans of a benchmark that are nearest to a span of a turn, and are compared word by word."""

_SPARE: Final = 4
"""Neighbors beyond `NEIGHBORHOOD` that are selected in float32, which cannot order near ties."""

SAME: Final = 0.98
"""The cosine from which on two long texts share a passage, and are no neighbors."""


class NearestSpans(NamedTuple):
    """Pairs of a span of a turn and a span of an item, by the turn's span.

    Attributes:
        turn: Position of the turn's span.
        item: Position of the item's span.
        similarity: The cosine, in float64.
        background: The mean of both neighborhoods.
    """

    turn: NDArray[np.int64]
    item: NDArray[np.int64]
    similarity: NDArray[np.float64]
    background: NDArray[np.float64]


@dataclass(frozen=True)
class EmbeddedItems:
    """The spans of evaluation items with their vectors.

    Args:
        spans: Benchmark, item, id, field and text of the items; name and part of each span;
            sorted by benchmark.
        vectors: Of length 1, float32, shape (spans, dimensions).
        neighborhoods: Of each span, float64.
        representative: Whether a span stands for its item in the neighborhood of a turn.
        groups: Where each benchmark's spans begin, and the end.
        ordinary: Vectors of ordinary texts.
        coverages: Compare words, by the frequencies of ordinary texts and of each benchmark.

    Attributes:
        on_device: The vectors where products are fastest.
        ordinary_on_device: Those of ordinary texts.
    """

    spans: pl.DataFrame
    vectors: Matrix
    neighborhoods: NDArray[np.float64]
    representative: NDArray[np.bool_]
    groups: list[int]
    ordinary: Matrix
    coverages: list[Coverage]
    on_device: Any = field(init=False, repr=False)
    ordinary_on_device: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "on_device", to_device(self.vectors))
        object.__setattr__(self, "ordinary_on_device", to_device(self.ordinary))


def ordinary_texts() -> list[str]:
    """The ordinary prompts beside this module: 1,200 of GPTeacher's programming tasks (MIT),
    997 of Self-Instruct (Apache-2.0), 996 of GSM8K's training problems (MIT), 641 of Dynosaur
    and 48 of OpenAssistant (Apache-2.0)."""
    file = Path(__file__).parent / "ordinary_prompts.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def embed_items(
    encode: Encode,
    benchmarks: Benchmarks,
    fields: tuple[str, ...] | None,
    min_words: int,
    usable: Callable[[pl.Series], pl.Series],
) -> EmbeddedItems:
    """Embed the items' spans.

    Args:
        encode: The encoder.
        benchmarks: The items.
        fields: Names of the texts that count; None: all.
        min_words: Fewest words of a span.
        usable: Whether the encoder knows the language of each of the texts.

    Raises:
        UserError: No text of a benchmark can be compared, for example a Chinese one with an
            encoder that knows no Chinese.
    """
    texts = benchmarks.texts(fields)
    texts = texts.filter(usable(texts["text"]))
    spans = _spans(texts, _options(benchmarks), min_words)

    def encoded(texts: Sequence[str]) -> Matrix:
        return unit(encode(texts))

    vectors = encoded(spans["part"].to_list())
    if not np.isfinite(vectors).all():
        raise UserError("embedder must give finite vectors, but some of the items' are not finite")
    nonzero = vectors.any(axis=1)
    spans, vectors = spans.filter(pl.Series(nonzero)), vectors[nonzero]
    benchmarks.require(
        set(spans["benchmark"]),
        f"no text of the chosen fields has a question or a description of {min_words} or more "
        "words in a language that the embedder knows",
    )
    names = spans["benchmark"]
    groups = [0, *(np.flatnonzero((names != names.shift()).fill_null(False)).tolist()), len(names)]
    ordinary = ordinary_texts()
    base = encoded(ordinary)
    base = base[base.any(axis=1)]
    neighborhoods = np.concatenate(
        [_neighborhoods(spans[a:b], vectors[a:b], base) for a, b in pairwise(groups)]
    )
    own = [texts.filter(pl.col("benchmark") == name)["text"] for name in names.unique().sort()]
    coverages = [Coverage(encoded, [*ordinary, *part.unique().sort()]) for part in own]
    return EmbeddedItems(
        spans, vectors, neighborhoods, _representative(spans), groups, base, coverages
    )


def _options(benchmarks: Benchmarks) -> dict[str, str]:
    """The options of each item's question, by the item's id."""
    texts = benchmarks.texts(None)
    is_option = (
        texts["field"]
        .fill_null("")
        .map_elements(lambda name: bool(OPTION_FIELDS.fullmatch(name)), return_dtype=pl.Boolean)
    )
    options = texts.filter(is_option).group_by("id", maintain_order=True).agg("text")
    return {key: "\n".join(parts) for key, parts in options.iter_rows()}


def _spans(texts: pl.DataFrame, options: dict[str, str], min_words: int) -> pl.DataFrame:
    """One row per span of the texts; options are spans only with their question."""
    rows: list[tuple[Any, ...]] = []
    # A loop over the items' texts, once per process.
    for row in texts.iter_rows():
        name = row[3] or ""
        if OPTION_FIELDS.fullmatch(name) and n_words(row[4]) < len(row[4]):
            continue
        rows += [(*row, *span) for span in item_spans(row[4], options.get(row[2], ""), min_words)]
    schema: dict[str, Any] = {**texts.schema, "name": pl.String, "part": pl.String}
    spans = pl.DataFrame(rows, schema=schema, orient="row")
    return spans.unique(["benchmark", "part"], keep="first", maintain_order=True)


def _neighborhoods(spans: pl.DataFrame, vectors: Matrix, ordinary: Matrix) -> NDArray[np.float64]:
    """The neighborhood of each span of a benchmark, among the spans of its name that are of
    other items, and ordinary texts.

    Spans of long texts that share a passage (`SAME`) are no neighbors of each other either.
    """
    result = np.zeros(len(spans))
    codes = spans.select(pl.col("name", "id").rank("dense").cast(pl.Int64))
    long = spans["part"].map_elements(n_words, return_dtype=pl.Int64).to_numpy() >= LONG
    for (_,), part in codes.with_row_index("at").group_by("name", maintain_order=True):
        own, ids = part["at"].to_numpy(), part["id"].to_numpy()
        base = np.concatenate([vectors[own], ordinary])
        size = max(1, PRODUCTS // len(base))
        for block in (slice(at, at + size) for at in range(0, len(own), size)):
            scores = vectors[own[block]] @ base.T
            among = scores[:, : len(own)]  # a view
            excluded = ids[block, None] == ids
            excluded |= long[own[block], None] & (among >= SAME)
            among[excluded] = -1
            k = min(NEIGHBORHOOD, scores.shape[1])
            best = np.take_along_axis(scores, top_columns(scores, k), axis=1)
            result[own[block]] = best.astype(np.float64).mean(axis=1)
    return result


def _representative(spans: pl.DataFrame) -> NDArray[np.bool_]:
    """One span of each different text of an item, its question alone where there is one."""
    asked = (pl.col("name") == "question").any().over("benchmark", "id", "text")
    kind = pl.when(asked).then(pl.lit("question")).otherwise(pl.lit("text"))
    return (
        spans.select((pl.col("name") == kind) | (pl.col("name") == "docstring"))
        .to_series()
        .to_numpy()
    )


def unit(vectors: NDArray[np.floating]) -> Matrix:
    """The vectors with length 1; one of zeros, or that is not finite, stays as it is.

    Example:
        >>> np.linalg.norm(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), axis=1).round(6).tolist()
        [1.0, 0.0]
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    divisible = np.isfinite(lengths) & (lengths > 0)
    scaled: Matrix = vectors.copy()
    np.divide(vectors, lengths, out=scaled, where=divisible, casting="same_kind")
    return scaled


def nearest(items: EmbeddedItems, turns: Matrix) -> NearestSpans:
    """For each span of a turn the `N_CANDIDATES` spans of each benchmark whose cosine exceeds
    the background most; of equal ones the first.

    Args:
        items: The items.
        turns: Vectors of length 1, shape (spans of turns, dimensions).

    Returns:
        The pairs. Cosines are computed in float64, so that a span's result depends on it
        alone.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], np.float32)
        >>> hoods, alike = np.zeros(3), np.ones(3, dtype=bool)
        >>> items = EmbeddedItems(
        ...     pl.DataFrame(), vectors, hoods, alike, [0, 2, 3], vectors[1:2], []
        ... )
        >>> pairs = nearest(items, vectors[:1])
        >>> pairs.item.tolist(), pairs.similarity.round(6).tolist()
        ([0, 1, 2], [1.0, 0.0, 0.6])
    """
    size = max(1, PRODUCTS // (len(items.vectors) + len(items.ordinary) + 1))
    parts = [(np.zeros((2, 0), dtype=np.int64), np.zeros(0))]
    xp = array_namespace(items.on_device)
    for start in range(0, len(turns), size):
        rows = turns[start : start + size]
        block = xp.asarray(rows, device=device(items.on_device))
        ordinary = _largest(rows, block, items.ordinary, items.ordinary_on_device)
        for first, end in pairwise(items.groups):
            scores = xp.matmul(block, items.on_device[first:end, :].T)
            alike = np.flatnonzero(items.representative[first:end])
            columns = xp.asarray(alike, device=device(scores))
            own = _largest_of(rows, xp.take(scores, columns, axis=1), items.vectors[first + alike])
            around = np.sort(np.concatenate([ordinary, own], axis=1), axis=1)
            neighborhood = around[:, -NEIGHBORHOOD:].mean(axis=1)
            turn, item = _candidates(scores, items.neighborhoods[first:end])
            parts.append((np.stack([turn + start, item + first]), neighborhood[turn]))
    turn, item = np.concatenate([pair for pair, _ in parts], axis=1)
    left, right = turns[turn].astype(np.float64), items.vectors[item].astype(np.float64)
    similarity = np.einsum("ij,ij->i", left, right)
    background = (np.concatenate([hood for _, hood in parts]) + items.neighborhoods[item]) / 2
    group = np.searchsorted(items.groups, item, side="right")
    order = np.lexsort((item, background - similarity, group, turn))
    same = (np.diff(turn[order]) == 0) & (np.diff(group[order]) == 0)
    begin = np.concatenate([[0], np.flatnonzero(~same) + 1])[: len(order)]
    rank = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
    kept = order[rank < N_CANDIDATES]
    return NearestSpans(turn[kept], item[kept], similarity[kept], background[kept])


def _largest(rows: Matrix, block: Any, texts: Matrix, on_device: Any) -> NDArray[np.float64]:
    """The largest cosines of each row with the texts, in float64 and in no order."""
    return _largest_of(rows, array_namespace(block).matmul(block, on_device.T), texts)


def _largest_of(rows: Matrix, scores: Any, texts: Matrix) -> NDArray[np.float64]:
    """The same from the products in float32, which only select."""
    k = min(NEIGHBORHOOD + _SPARE, scores.shape[1])
    columns = to_host(top_columns(scores, k)) if k else np.zeros((len(rows), 0), dtype=np.int64)
    values = texts[columns].astype(np.float64)
    cosines: NDArray[np.float64] = np.einsum("ijk,ik->ij", values, rows.astype(np.float64))
    return cosines


def _candidates(
    scores: Any, neighborhoods: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (row, column) of the products, among them the candidates of each row."""
    xp = array_namespace(scores)
    half = xp.asarray(neighborhoods.astype(np.float32) / 2, device=device(scores))
    columns = to_host(top_columns(scores - half, min(N_CANDIDATES + _SPARE, scores.shape[1])))
    rows = np.repeat(np.arange(len(columns)), columns.shape[1])
    return rows, columns.ravel().astype(np.int64)
