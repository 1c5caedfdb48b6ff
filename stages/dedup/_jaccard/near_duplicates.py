"""Near-duplicates by the Jaccard index: which row of a group is kept, and the evidence.

What `dedup.jaccard` and `dedup.minhash` share. Texts are sets of word n-grams
(`stages._text.tokens.tokens`: words and signs, so that "3 + 4" and "3 - 4" differ). Rows
form a graph with an edge where the Jaccard similarity reaches the threshold; of each
connected component one row is kept.

A dropped row's evidence is `duplicate_of`, the id of the row kept, and `jaccard`, the
similarity with it. A row may belong to its component through other rows only: then
`jaccard` is below the threshold, and `through` and `through_jaccard` name a row of the
component that reaches the threshold.

Rows held from before come in as rows, or as the files of `dedup.signatures`: their
ids and sets of n-grams, without the texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Final, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipeline.errors import UserError
from pipeline.parts import RowParts, in_parts, some_columns
from pipeline.store.parquet import read_frame, write_frame
from schemas.turns import View
from stages._common.verdicts import evidence_of
from stages._text.candidates import SetPool
from stages._text.join import Buckets, JoinResult, similarity_join
from stages._text.ragged import Ragged, joined, offsets_of, take
from stages._text.tokens import Field, field_reads, field_text, shingle_sets
from stages.dedup._order import order_columns, ordering

_AT_ONCE: Final = 16_384
"""Rows whose texts are in memory."""

_BEST: Final = "best:"
_TABLE: Final = "signatures.parquet"
_ABOUT: Final = "signatures.json"
_FORMAT: Final = 2
"""Raised by whoever changes tokens, hashes or files: sets of another format do not compare."""


def _valid_keep(keep: str) -> str:
    best = keep.startswith(_BEST) and len(keep) > len(_BEST)
    if keep not in ("first", "longest") and not best:
        raise ValueError(f"must be first, longest or best:COLUMN, got {keep!r}")
    return keep


Keep = Annotated[str, AfterValidator(_valid_keep)]
"""Which row of a group is kept: `first`, `longest` or `best:COLUMN`."""


class SharedOptions(NamedTuple):
    """The options that `dedup.jaccard` and `dedup.minhash` share; they document them."""

    threshold: float
    ngram_size: int
    field: Field
    view: View
    keep: Keep
    order_by: str


def reads(options: SimpleNamespace) -> dict[str, list[str]]:
    """The columns that `dedup.jaccard` and `dedup.minhash` read, by edge."""
    text = field_reads(options.field, options.view)
    best = options.keep.removeprefix(_BEST) if options.keep.startswith(_BEST) else None
    columns = [*text, *order_columns(options.order_by), *([best] if best else [])]
    return {"rows": list(dict.fromkeys(columns)), "held": text}


def drop_near_duplicates(
    rows: RowParts,
    held: pl.DataFrame | Path | None,
    options: SharedOptions,
    buckets: Callable[[SetPool], Sequence[Buckets]],
) -> pl.DataFrame:
    """Verdicts on the rows: all but one of each group are dropped as `near_duplicate`.

    Args:
        rows: Records.
        held: Records that are kept before all others, or the folder of `write_signatures`.
        options: Of the stage.
        buckets: Where similar pairs are searched for.

    Raises:
        UserError: The signatures of held rows belong to another field or n-gram size.
    """
    sets, lengths = _sets(rows, options.field, options.view, options.ngram_size)
    order = _preference(rows, lengths, options.keep, options.order_by)
    ids = rows["id"]
    if (np.diff(order) != 1).any():
        ids, sets = ids.gather(order), take(sets, order)
    n_held = 0
    if held is not None:
        # Held rows come first, so that they are the roots of their components.
        held_ids, held_sets = _held_sets(held, options)
        ids, n_held = pl.concat([held_ids, ids]), len(held_ids)
        counts = np.concatenate([held_sets.lengths, sets.lengths])
        sets = Ragged(offsets_of(counts), np.concatenate([held_sets.values, sets.values]))
    result = similarity_join(sets, n_held, options.threshold, buckets)
    causes = _causes(result, ids, n_held, options.threshold)
    position = pl.Series("position", order).gather(causes["row"] - n_held)
    return _verdicts(causes.with_columns(position), len(rows))


def _sets(rows: RowParts, field: Field, view: View, ngram_size: int) -> tuple[Ragged, pl.Series]:
    """The n-grams of each row's text and its length in characters; texts are read in parts."""
    parts, lengths = [], []
    for part in in_parts(rows, _AT_ONCE):
        texts = part.select(field_text(field, view)).to_series()
        parts.append(shingle_sets(texts, ngram_size))
        lengths.append(texts.str.len_chars())
    return joined(parts), pl.concat(lengths)


def _preference(rows: RowParts, lengths: pl.Series, keep: str, order_by: str) -> NDArray[np.int64]:
    """Positions of the rows, those to keep before those to drop."""
    order = ordering(some_columns(rows, order_columns(order_by)), order_by)
    if keep == "first":
        return order.to_numpy().astype(np.int64)
    key = lengths if keep == "longest" else rows[keep.removeprefix(_BEST)]
    if key.dtype.is_float():
        key = key.fill_nan(None)
    ranked = pl.DataFrame({"position": order, "key": key.gather(order)}).sort(
        "key", descending=True, nulls_last=True, maintain_order=True
    )
    return ranked["position"].to_numpy().astype(np.int64)


def _causes(result: JoinResult, ids: pl.Series, n_held: int, threshold: float) -> pl.DataFrame:
    """One row for each row that is not the first of its group: row (position), the evidence."""
    positions = np.arange(n_held, len(ids))
    roots = result.components.roots(positions)
    dropped = roots != positions
    rows, kept = positions[dropped], roots[dropped]
    value = result.similarity(rows, kept)
    both = np.concatenate([result.pairs, result.pairs[:, ::-1]])
    values = np.concatenate([result.values, result.values])
    order = np.lexsort((both[:, 1], -values, both[:, 0]))
    order = order[np.searchsorted(both[order, 0], rows)]
    causes = pl.DataFrame(
        {
            "row": rows,
            "duplicate_of": ids.gather(kept),
            "jaccard": value,
            "through": ids.gather(both[order, 1]),
            "through_jaccard": values[order],
        }
    )
    indirect = pl.col("jaccard") < threshold
    through = pl.when(indirect).then(pl.col("through", "through_jaccard"))
    return causes.with_columns(through)


def _verdicts(causes: pl.DataFrame, height: int) -> pl.DataFrame:
    """`drop_reason` and `evidence` of each row, from the causes by `position`."""
    columns = ["duplicate_of", "jaccard", "through", "through_jaccard"]
    direct = evidence_of(*columns[:2])
    linked = evidence_of(*columns)
    evidence = causes.select(
        pl.col("position").cast(pl.Int64),
        pl.when(pl.col("through").is_null()).then(direct).otherwise(linked).alias("evidence"),
    )
    verdicts = pl.DataFrame({"position": np.arange(height)}).join(
        evidence, on="position", how="left", maintain_order="left"
    )
    reason = pl.when(pl.col("evidence").is_not_null()).then(pl.lit("near_duplicate"))
    return verdicts.select(reason.alias("drop_reason"), "evidence")


def write_signatures(
    folder: Path, rows: RowParts, field: Field, view: View, ngram_size: int
) -> None:
    """Write ids and sets of n-grams of all rows, and how they were computed, as files.

    Args:
        folder: Where `signatures.parquet` and `signatures.json` are written.
        rows: Records.
        field: The text whose n-grams are hashed.
        view: What of a turn is hashed.
        ngram_size: Words per n-gram.
    """
    sets, _ = _sets(rows, field, view, ngram_size)
    lists = pa.LargeListArray.from_arrays(pa.array(sets.offsets), pa.array(sets.values))
    write_frame(folder / _TABLE, pl.DataFrame({"id": rows["id"], "shingles": pl.from_arrow(lists)}))
    about = {**_about(field, view, ngram_size), "rows": len(rows)}
    (folder / _ABOUT).write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def _about(field: Field, view: View, ngram_size: int) -> dict[str, str | int]:
    """What two files of signatures must agree in to be compared, as `signatures.json` has it."""
    return {"format": _FORMAT, "field": field, "view": view, "ngram": ngram_size}


def _held_sets(held: pl.DataFrame | Path, options: SharedOptions) -> tuple[pl.Series, Ragged]:
    """Ids and sets of the rows held from before."""
    if isinstance(held, pl.DataFrame):
        return held["id"], _sets(held, options.field, options.view, options.ngram_size)[0]
    _require_same_options(held, options)
    frame = read_frame(held / _TABLE)
    values = frame["shingles"].explode(empty_as_null=False, keep_nulls=False)
    counts = frame["shingles"].list.len().to_numpy()
    return frame["id"], Ragged(offsets_of(counts), values.to_numpy())


def _require_same_options(folder: Path, options: SharedOptions) -> None:
    try:
        about = json.loads((folder / _ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        raise UserError(
            "held must be rows or the files of dedup.signatures, got other files",
            hint="connect a stage of dedup.signatures to `held`, or the rows themselves",
        ) from None
    expected = _about(options.field, options.view, options.ngram_size)
    differing = [name for name in expected if about.get(name) != expected[name]]
    if differing:
        names = {"ngram": "ngram_size"}
        required = ", ".join(f"{names.get(n, n)} {expected[n]!r}" for n in differing)
        actual = ", ".join(f"{names.get(n, n)} {about.get(n)!r}" for n in differing)
        raise UserError(
            f"held must have signatures with {required}, got {actual}",
            why="sets of different n-grams or fields share nothing",
            hint="give dedup.signatures and this stage the same field and ngram_size",
        )
