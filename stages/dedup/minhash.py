"""Near-duplicates: MinHash finds candidate pairs, the true Jaccard similarity decides.

Broder 1997; the banding after Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3. Documents are sets of word n-grams (`stages._text.tokens`:
words and signs, so that "3 + 4" and "3 - 4" differ). Rows form a graph with an
edge where the similarity reaches the threshold; of each connected component one
row is kept. The only approximation is a pair that shares no band: at the threshold
itself that happens with a probability of at most `stages._minhash.MISS`, above it
much more rarely, and the component may still hold together through other pairs.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._minhash import Components, bands, similar_components
from stages._order import order_columns, ordering
from stages._text import Field, Ragged, field_reads, field_text, shingle_jaccard, shingles
from stages._verdicts import dropped

_BEST = "best:"


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    text = field_reads(options.field)
    best = options.keep.removeprefix(_BEST) if options.keep.startswith(_BEST) else None
    wanted = [*text, *order_columns(options.order_by), *([best] if best else [])]
    return {"rows": list(dict.fromkeys(wanted)), "held": text}


def _check(options: SimpleNamespace) -> None:
    best = options.keep.startswith(_BEST) and len(options.keep) > len(_BEST)
    if options.keep not in ("first", "longest") and not best:
        raise UserError(
            f"keep: {options.keep!r} is not known",
            hint="first, longest, or best:COLUMN (the highest value of a column)",
        )
    if not 0 < options.jaccard <= 1 or options.ngram < 1:
        raise UserError("jaccard must be above 0 and at most 1, and ngram at least 1")
    if bands(options.permutations, options.jaccard) is None:
        raise UserError(
            f"{options.permutations} permutations are too few to find pairs of "
            f"similarity {options.jaccard}",
            hint="raise permutations, or jaccard",
        )


@stage(version=1, scope="set", reads=_reads, check=_check)
def minhash(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    jaccard: float = 0.8,
    ngram: int = 5,
    permutations: int = 128,
    field: Field = "conversation",
    keep: str = "first",
    order_by: str = "id",
    seed: int = 0,
) -> pl.DataFrame:
    """Keep one row of each group of near-duplicates; drop the others as `near_duplicate`.

    held: rows that are there already: they always win over `rows`.
    jaccard: the least similarity of near-duplicates, a share of the n-grams of both.
    ngram: words per n-gram. A shorter text is compared whole; an empty one is kept.
    permutations: length of the signatures; more find the same pairs with fewer checks.
    field: the text compared: conversation (all turns), prompt (first user turn with
        its input), instruction (without it) or response.
    keep: which row of a group stays: the first in the order, the longest text, or
        best:COLUMN, the one with the highest value; ties go by the order.
    order_by: id, origin or a column.

    Evidence: `twin`, the id of the row kept, and `jaccard`, the similarity with it.
    A row may belong to the group through others only. If so, `jaccard` is below the
    threshold, and `through` and `through_jaccard` name the nearest row that links it.
    """
    texts = rows.select("id", field_text(field))
    order = _preference(rows, texts["text"], keep, order_by)
    if held is not None:
        # Held rows come first, so that they are the roots of their components.
        texts = pl.concat([texts, held.select("id", field_text(field))])
        order = np.concatenate([np.arange(len(rows), len(texts)), order])
    texts = texts[order]
    grams = shingles(texts["text"], ngram)
    components, pairs, values = similar_components(grams, permutations, jaccard, seed)
    found = _evidence(grams, components, pairs, values, jaccard, texts["id"].to_list())
    evidence = {int(order[i]): cause for i, cause in found.items() if order[i] < len(rows)}
    return dropped(len(rows), "near_duplicate", evidence)


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


def _evidence(
    grams: Ragged,
    components: Components,
    pairs: NDArray[np.int64],
    values: NDArray[np.float64],
    threshold: float,
    ids: list[str],
) -> dict[int, dict[str, Any]]:
    """Why each row that is not the root of its component is dropped."""
    roots = components.roots(np.arange(len(ids)))
    losers = np.flatnonzero(roots != np.arange(len(ids)))
    similarity = shingle_jaccard(grams, losers, roots[losers])
    both = np.concatenate([pairs, pairs[:, ::-1]])
    values = np.concatenate([values, values])
    order = np.lexsort((both[:, 1], -values, both[:, 0]))
    linked, first = np.unique(both[order, 0], return_index=True)
    nearest = dict(zip(linked.tolist(), order[first].tolist(), strict=True))
    evidence: dict[int, dict[str, Any]] = {}
    for row, value in zip(losers.tolist(), similarity.tolist(), strict=True):
        evidence[row] = {"twin": ids[roots[row]], "jaccard": value}
        if value < threshold:
            link = nearest[row]
            evidence[row]["through"] = ids[both[link, 1]]
            evidence[row]["through_jaccard"] = float(values[link])
    return evidence
