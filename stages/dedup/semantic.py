"""Semantic duplicates: rows whose vectors point the same way.

Up to `exact_up_to` rows every pair that matters is compared (`stages._vectors.greedy_dedup`): no
pair above the threshold is missed, as an approximate index would. Beyond, the
rows are compared within k-means clusters only, as in SemDeDup (Abbas et al. 2023,
arXiv:2303.09540), and the duplicates that this misses are measured on a sample.
SemDeDup keeps the row of a group that is farthest from the cluster's centre; here, as
in the exact mode, it is the first in the stated order.

Vectors do not tell all rows apart that differ. With the bundled potion-base-4m and the
threshold of 0.9, of 196 problems of GSM8K, each with a copy in other numbers, one of
every pair goes unless `numbers` is set, and so do 149 of 200 Chinese rows, because it
knows English only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._common.unused_options import refuse_idle
from stages._common.verdicts import dropped
from stages._text.tokens import field_reads, field_text, same_numbers
from stages._vectors.arrays import Matrix, to_device
from stages._vectors.greedy_dedup import DedupResult, DropAt, greedy_dedup, nearest_before
from stages._vectors.kmeans import kmeans
from stages.dedup._order import order_columns, ordering
from stages.dedup._twins import lined_up, twins

CLUSTER: Final = 5000
"""Rows per cluster, on average: a cluster then takes about as long to compare as to find."""

SAMPLED: Final = 10_000
"""Kept rows that are compared with all others, to see what the clusters have missed."""


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    compared = [options.vector, *(field_reads("prompt") if options.numbers else [])]
    wanted = dict.fromkeys([*compared, *order_columns(options.order_by)])
    return {"rows": list(wanted), "held": compared}


def _check(options: SimpleNamespace) -> None:
    if not 0 < options.threshold <= 1:
        raise UserError("threshold must be above 0 and at most 1")
    if options.clusters is not None and options.clusters < 1:
        raise UserError(f"clusters: {options.clusters} cannot be made", hint="give 1 or more")
    refuse_idle(
        *(semantic, options),
        (options.exact_up_to is not None, "pools above exact_up_to", "clusters seed"),
    )


@stage(version=1, scope="set", reads=_reads, files=True, check=_check)
def semantic(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    threshold: float = 0.9,
    drop_at: DropAt = "above",
    order_by: str = "id",
    vector: str = "vector",
    numbers: bool = False,
    exact_up_to: int | None = 300_000,
    clusters: int | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Go through the rows in order and drop as `semantic_duplicate` what is said already.

    held: rows that are there already: they count as kept from the start.
    threshold, drop_at: a row goes if its cosine with a row kept before is above the
        threshold, or at it.
    order_by: id, origin or a column: `quality desc` keeps the best row of a group. A
        dropped row does not count against later ones.
    vector: the column of vectors. A zero vector is near nothing and is kept; a missing
        vector is an error.
    numbers: rows whose prompts hold different numbers (in digits) are never duplicates.
        Vectors hardly see them: word problems that differ in nothing else are near each
        other, and are different problems. Exact only.
    exact_up_to: the most rows, those held included, that are compared with each other.
        The time grows with the square: two cores take 2 to 3 seconds for 50,000 rows of
        384 dimensions. null: always exact; 0: always
        by clusters, which found 85% of the duplicates among the 52,002 instructions
        of Alpaca.
    clusters, seed: into how many k-means clusters more rows than that are divided; null:
        one for every 5,000 rows.

    Evidence: `twin`, the id of the most similar row kept before, and `cosine`.

    Files: `semantic.json`: the mode (exact or clusters), the number of rows, held and
    dropped rows; with clusters also their number and the size of the largest, how many
    of the kept rows were `sampled` and compared with all rows kept before them, how
    many of those were duplicates that the clusters had `missed`, and from this the
    estimated `recall`: the share of duplicates that was found.
    """
    order = ordering(rows, order_by).to_numpy()
    ids, vectors = lined_up(rows, held, order, vector)
    given = len(ids) - len(rows)
    exact = exact_up_to is None or len(ids) <= exact_up_to
    if numbers and not exact:
        raise UserError(
            f"numbers: {len(ids):,} rows are more than are compared exactly",
            hint="raise exact_up_to, or leave numbers out",
        )
    if numbers:
        edges = [rows[order]] if held is None else [held, rows[order]]
        groups = same_numbers(
            pl.concat(edge.select(field_text("prompt")) for edge in edges)["text"]
        )
        found = _within(ctx, vectors, groups, given, threshold, drop_at)
        report: dict[str, Any] = {"mode": "exact", "groups_of_numbers": len(groups)}
    elif exact:
        found = greedy_dedup(
            to_device(vectors),
            given=given,
            threshold=threshold,
            drop_at=drop_at,
            reach=threshold,
            progress=ctx.progress,
        )
        report = {"mode": "exact"}
    else:
        count = min(clusters or -(-len(ids) // CLUSTER), len(ids))
        found, report = _by_clusters(ctx, vectors, given, threshold, drop_at, count, seed)
    evidence = twins(found, ids, order)
    report |= {"rows": len(rows), "held": given, "dropped": len(evidence)}
    (ctx.files / "semantic.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return dropped(len(rows), "semantic_duplicate", evidence)


def _by_clusters(
    ctx: Context,
    vectors: Matrix,
    given: int,
    threshold: float,
    drop_at: DropAt,
    count: int,
    seed: int,
) -> tuple[DedupResult, dict[str, Any]]:
    """What became of each row where rows are compared within clusters, and how well that did."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    units = vectors * (1 / np.where(norms > 0, norms, 1)).astype(np.float32)[:, None]
    labels = kmeans(to_device(units), count, seed).labels
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels)))[:-1]
    found = _within(ctx, vectors, members, given, threshold, drop_at)
    sizes = {"mode": "clusters", "clusters": count, "largest": max(map(len, members), default=0)}
    return found, sizes | _recall(vectors, found.kept, given, threshold, drop_at, seed)


def _within(
    ctx: Context,
    vectors: Matrix,
    groups: Sequence[NDArray[np.int64]],
    given: int,
    threshold: float,
    drop_at: DropAt,
) -> DedupResult:
    """What became of each row where rows are compared within groups only."""
    total = len(vectors)
    found = DedupResult(
        np.zeros(total, np.bool_), np.full(total, -1), np.full(total, np.nan), total
    )
    done = 0
    for cluster in groups:
        before = int(np.searchsorted(cluster, given))
        part = greedy_dedup(
            to_device(vectors[cluster]),
            given=before,
            threshold=threshold,
            drop_at=drop_at,
            reach=threshold,
        )
        found.kept[cluster] = part.kept
        found.similarity[cluster] = part.similarity
        found.nearest[cluster] = np.where(part.nearest < 0, -1, cluster[part.nearest])
        done += len(cluster)
        ctx.progress(done, total)
    return found


def _recall(
    vectors: Matrix,
    kept: NDArray[np.bool_],
    given: int,
    threshold: float,
    drop_at: DropAt,
    seed: int,
) -> dict[str, Any]:
    """How many duplicates the clusters have missed, from a sample of the rows kept."""
    mine = np.flatnonzero(kept[given:]) + given
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(mine, min(SAMPLED, len(mine)), replace=False))
    _, cosine = nearest_before(to_device(vectors), sample, np.flatnonzero(kept))
    missed = int((cosine > threshold if drop_at == "above" else cosine >= threshold).sum())
    dropped_rows = int((~kept).sum())
    all_missed = missed / max(1, len(sample)) * len(mine)
    recall = dropped_rows / (dropped_rows + all_missed) if dropped_rows + all_missed else None
    return {"sampled": len(sample), "missed": missed, "recall": recall}
