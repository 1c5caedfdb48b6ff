"""How far a row lies from its neighbours: a model-free measure of how unusual it is.

InstructMining (Cao et al. 2023, arXiv:2307.06290) takes the distance to the 6th
nearest neighbour among sentence embeddings (KNN_6) as one of its indicators: data
of more distance gave a lower loss. The paper's neighbours are approximate; these
are exact.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Records, stage
from stages._vectors.arrays import as_matrix, nearest_neighbors


def _check(options: SimpleNamespace) -> None:
    if options.k < 1:
        raise UserError(f"k: there is no neighbour number {options.k}", hint="give 1 or more")


@stage(
    version=1,
    scope="set",
    reads=lambda options: [options.vector],
    adds={"knn_distance": pl.Float32},
    check=_check,
)
def knn(ctx: Context, rows: Records, *, k: int = 6, vector: str = "vector") -> pl.DataFrame:
    """Add the Euclidean distance from each row's vector to its k-th nearest other row.

    k: which neighbour, 1 being the nearest. 0 is the distance of equal vectors;
    between vectors of length 1, it is at most 2.
    vector: the column of vectors.

    Adds `knn_distance`, null where there are no k other rows. The time grows with
    the square of the number of rows.
    """
    if len(rows) <= k:
        return pl.DataFrame({"knn_distance": [None] * len(rows)}, {"knn_distance": pl.Float32})
    _, distances = nearest_neighbors(as_matrix(rows[vector]), k)
    return pl.DataFrame({"knn_distance": distances[:, -1].astype(np.float32)})
