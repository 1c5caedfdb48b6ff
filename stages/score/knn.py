"""How far a row lies from its neighbors: a model-free measure of how unusual it is.

InstructMining (Cao et al. 2023, arXiv:2307.06290) takes the distance to the 6th
nearest neighbor among sentence embeddings (KNN_6) as one of its indicators: data
of more distance gave a lower loss. The paper's neighbors are approximate; these
are exact.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from pipeline.types import Count
from stages._vectors.arrays import as_matrix, nearest_neighbors


@stage(
    version=1,
    scope="set",
    reads=lambda options: [options.vector],
    adds={"knn_distance": pl.Float32},
)
def knn(
    ctx: Context, rows: Records, *, n_neighbors: Count = 6, vector: str = "vector"
) -> pl.DataFrame:
    """Add the Euclidean distance from each row's vector to its n-th nearest other row.

    The time grows with the square of the number of rows.

    Args:
        rows: Rows with vectors.
        n_neighbors: Which neighbor, 1 being the nearest; 6 is InstructMining's.
        vector: The column of vectors.

    Returns:
        `knn_distance`: 0 between equal vectors, at most 2 between vectors of length 1, null
        where there are not `n_neighbors` other rows.

    Example:
        ```yaml
        spread:
          uses: score.knn
          needs: vectors
          with: {n_neighbors: 6}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "vector": [[0.0], [1.0], [3.0]]})
        >>> knn(Context.scratch(Path(mkdtemp())), rows, n_neighbors=1)["knn_distance"].to_list()
        [1.0, 1.0, 2.0]
    """
    if len(rows) <= n_neighbors:
        return pl.DataFrame({"knn_distance": [None] * len(rows)}, {"knn_distance": pl.Float32})
    _, distances = nearest_neighbors(as_matrix(rows[vector]), n_neighbors)
    return pl.DataFrame({"knn_distance": distances[:, -1].astype(np.float32)})
