"""Near-duplicates, however they are found: which row of a group stays, and why the others go.

Texts are sets of word n-grams (`stages._text.tokens.tokens`: words and signs, so that
"3 + 4" and "3 - 4" differ). Rows form a graph with an edge where the Jaccard
similarity reaches the threshold; of each connected component one row is kept.

Rows held from before come in as rows, or as the file of `dedup.signatures`: their
ids and sets of n-grams, without the texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Final, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.store.parquet import read_frame, write_frame
from stages._text.ragged import Ragged, offsets_of
from stages._text.tokens import Field, field_reads, field_text, shingle_sets
from stages.dedup._jaccard.candidates import Pool
from stages.dedup._jaccard.join import Buckets, Similar, similar
from stages.dedup._order import order_columns, ordering

_BEST: Final = "best:"
_TABLE: Final = "signatures.parquet"
_ABOUT: Final = "signatures.json"
_FORMAT: Final = 1
"""Raised by whoever changes tokens, hashes or files: sets of another format do not compare."""


def near_reads(options: SimpleNamespace) -> dict[str, list[str]]:
    """The columns that a stage of near-duplicates reads, by edge."""
    text = field_reads(options.field)
    best = options.keep.removeprefix(_BEST) if options.keep.startswith(_BEST) else None
    wanted = [*text, *order_columns(options.order_by), *([best] if best else [])]
    return {"rows": list(dict.fromkeys(wanted)), "held": text}


def near_check(options: SimpleNamespace) -> None:
    """Raises UserError for options that cannot be right."""
    best = options.keep.startswith(_BEST) and len(options.keep) > len(_BEST)
    if options.keep not in ("first", "longest") and not best:
        raise UserError(
            f"keep: {options.keep!r} is not known",
            hint="first, longest, or best:COLUMN (the highest value of a column)",
        )
    if not 0 < options.jaccard <= 1 or options.ngram < 1:
        raise UserError("jaccard must be above 0 and at most 1, and ngram at least 1")


class Near(NamedTuple):
    """The options that all stages of near-duplicates share; they document them."""

    jaccard: float
    ngram: int
    field: Field
    keep: str
    order_by: str


def near_duplicates(
    rows: pl.DataFrame,
    held: pl.DataFrame | Path | None,
    options: Near,
    buckets: Callable[[Pool], Sequence[Buckets]],
) -> pl.DataFrame:
    """Verdicts on the rows: all but one of each group are dropped as `near_duplicate`.

    held: rows, or the folder of `write_signatures`. buckets: where similar pairs are
    looked for.
    """
    texts = rows.select(field_text(options.field)).to_series()
    order = _preference(rows, texts, options.keep, options.order_by)
    texts = texts.gather(order)
    sets = shingle_sets(texts, options.ngram)
    del texts
    ids = rows["id"].gather(order)
    before = 0
    if held is not None:
        # Held rows come first, so that they are the roots of their components.
        their_ids, theirs = _held_sets(held, options)
        ids, before = pl.concat([their_ids, ids]), len(their_ids)
        counts = np.concatenate([theirs.lengths, sets.lengths])
        sets = Ragged(offsets_of(counts), np.concatenate([theirs.values, sets.values]))
    found = similar(sets, before, options.jaccard, buckets)
    causes = _causes(found, ids, before, options.jaccard)
    position = pl.Series("position", order).gather(causes["row"] - before)
    return _verdicts(causes.with_columns(position), len(rows))


def _preference(
    rows: pl.DataFrame, texts: pl.Series, keep: str, order_by: str
) -> NDArray[np.int64]:
    """Positions of the rows, those to keep before those to drop."""
    order = ordering(rows, order_by)
    if keep == "first":
        return order.to_numpy().astype(np.int64)
    key = texts.str.len_chars() if keep == "longest" else rows[keep.removeprefix(_BEST)]
    if key.dtype.is_float():
        key = key.fill_nan(None)
    ranked = pl.DataFrame({"position": order, "key": key.gather(order)}).sort(
        "key", descending=True, nulls_last=True, maintain_order=True
    )
    return ranked["position"].to_numpy().astype(np.int64)


def _causes(found: Similar, ids: pl.Series, held: int, threshold: float) -> pl.DataFrame:
    """For each row that is not the first of its group: row (number), twin and jaccard, and
    through and through_jaccard where the similarity with the twin is below the threshold."""
    numbers = np.arange(held, len(ids))
    roots = found.components.roots(numbers)
    lost = roots != numbers
    rows, twins = numbers[lost], roots[lost]
    value = found.similarity(rows, twins)
    both = np.concatenate([found.pairs, found.pairs[:, ::-1]])
    values = np.concatenate([found.values, found.values])
    order = np.lexsort((both[:, 1], -values, both[:, 0]))
    order = order[np.searchsorted(both[order, 0], rows)]
    causes = pl.DataFrame(
        {
            "row": rows,
            "twin": ids.gather(twins),
            "jaccard": value,
            "through": ids.gather(both[order, 1]),
            "through_jaccard": values[order],
        }
    )
    far = pl.col("jaccard") < threshold
    through = pl.when(far).then(pl.col("through", "through_jaccard"))
    return causes.with_columns(through)


def _verdicts(causes: pl.DataFrame, height: int) -> pl.DataFrame:
    direct = pl.struct("twin", "jaccard").struct.json_encode()
    linked = pl.struct("twin", "jaccard", "through", "through_jaccard").struct.json_encode()
    told = causes.select(
        pl.col("position").cast(pl.Int64),
        pl.when(pl.col("through").is_null()).then(direct).otherwise(linked).alias("evidence"),
    )
    lines = pl.DataFrame({"position": np.arange(height)}).join(
        told, on="position", how="left", maintain_order="left"
    )
    reason = pl.when(pl.col("evidence").is_not_null()).then(pl.lit("near_duplicate"))
    return lines.select(reason.alias("drop_reason"), "evidence")


def write_signatures(folder: Path, rows: pl.DataFrame, field: Field, ngram: int) -> None:
    """Ids and sets of n-grams of all rows, and how they were made, as files in a folder."""
    sets = shingle_sets(rows.select(field_text(field)).to_series(), ngram)
    lists = pa.LargeListArray.from_arrays(pa.array(sets.offsets), pa.array(sets.values))
    write_frame(folder / _TABLE, pl.DataFrame({"id": rows["id"], "shingles": pl.from_arrow(lists)}))
    about = {**_made_by(field, ngram), "rows": len(rows)}
    (folder / _ABOUT).write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def _made_by(field: Field, ngram: int) -> dict[str, str | int]:
    return {"format": _FORMAT, "field": field, "ngram": ngram}


def _held_sets(held: pl.DataFrame | Path, options: Near) -> tuple[pl.Series, Ragged]:
    """Ids and sets of the rows held from before."""
    if isinstance(held, pl.DataFrame):
        texts = held.select(field_text(options.field)).to_series()
        return held["id"], shingle_sets(texts, options.ngram)
    _check_made_alike(held, options)
    frame = read_frame(held / _TABLE)
    values = frame["shingles"].explode(empty_as_null=False, keep_nulls=False)
    counts = frame["shingles"].list.len().to_numpy()
    return frame["id"], Ragged(offsets_of(counts), values.to_numpy())


def _check_made_alike(folder: Path, options: Near) -> None:
    try:
        about = json.loads((folder / _ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        raise UserError(
            "held: the files hold no signatures",
            hint="connect a stage of dedup.signatures to `held`, or the rows themselves",
        ) from None
    wanted = _made_by(options.field, options.ngram)
    other = {name: about.get(name) for name, value in wanted.items() if about.get(name) != value}
    if other:
        told = ", ".join(f"{name} {value!r}" for name, value in other.items())
        mine = ", ".join(f"{name} {wanted[name]!r}" for name in other)
        raise UserError(
            f"held: the signatures were made with {told}, but this stage compares by {mine}",
            why="sets of different n-grams or fields share nothing",
            hint="give dedup.signatures and this stage the same field and ngram",
        )
