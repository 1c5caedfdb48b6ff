"""How much a row's embedding varies over its own components: LIFT's measure of variety.

LIFT: Rethinking the Instruction Quality: LIFT is What You Need (Xu et al. 2023, arXiv:2312.11508).

As in the paper: embeddings are reduced to their principal components, and of each row the variance
over its reduced vector counts; rows with the highest variance lie far out and are kept.

Ours: as many components as explain a part of the variance of all rows; a row's variance is taken
about the mean of all rows, which is 0 in each component: about the row's own mean it would depend
on the signs of the components, which are arbitrary. Dropping is for a later stage (`select.top`).
"""

from __future__ import annotations

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from pipeline.types import PositiveFraction
from stages._vectors.arrays import as_matrix, principal_components


@stage(
    version=1,
    scope="set",
    reads=lambda options: [options.vector],
    adds={"row_variance": pl.Float32},
)
def row_variance(
    ctx: Context,
    rows: Records,
    *,
    explained_variance: PositiveFraction = 0.95,
    vector: str = "vector",
) -> pl.DataFrame:
    """Add the mean square of each row's principal components, centered at the mean of all rows.

    Args:
        rows: Rows with vectors.
        explained_variance: The part of the variance of all rows that the components explain
            together; 0.95 is ours.
        vector: The column of vectors.

    Returns:
        `row_variance`, from 0 on; null where there are no rows to compare.

    Example:
        ```yaml
        varied: {uses: score.row_variance, needs: vectors}
        kept:   {uses: select.top, needs: varied, with: {score: row_variance, budget: 1000}}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> vectors = [[0.0, 1.0], [0.0, -1.0], [4.0, 0.0], [-4.0, 0.0]]
        >>> rows = pl.DataFrame({"id": ["a", "b", "c", "d"], "vector": vectors})
        >>> context = Context.scratch(Path(mkdtemp()))
        >>> row_variance(context, rows, explained_variance=1.0)["row_variance"].to_list()
        [0.5, 0.5, 8.0, 8.0]
    """
    if rows.is_empty():
        return pl.DataFrame({"row_variance": []}, {"row_variance": pl.Float32})
    reduced = principal_components(as_matrix(rows[vector]), explained_variance)
    return pl.DataFrame({"row_variance": (reduced**2).mean(axis=1)}, {"row_variance": pl.Float32})
