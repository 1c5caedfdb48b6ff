"""Kernels over dense vectors: reading, moving to a device, nearest neighbors, in blocks.

Kernels are written once, over the array API (`array_api_compat.array_namespace`):
they take numpy arrays, or torch tensors on a GPU, where `to_device` has put them.

At the size of instruction data (up to a few million rows) a blocked matrix
product is faster than any index and exact. The results must not depend on how
many threads there are, so the threads are ours: rows are cut into blocks of a
fixed size, each block is multiplied by a BLAS that is held to one thread, and
partial sums are added in the order of the blocks. A BLAS that splits the work
itself rounds differently for each number of threads, and one last bit is enough
to move a row to another cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import polars as pl
from array_api_compat import array_namespace, device, is_numpy_array
from numpy.typing import NDArray

from pipeline.errors import UserError

Matrix = NDArray[np.float32]
ParallelMap = Callable[[Callable[[slice], Any], int, int], list[Any]]

DRIVERS: Final = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device files of a GPU's driver: NVIDIA's, that of Windows' Linux, AMD's."""

BLOCK: Final = 4096
"""Rows of a block where a block is compared with a few hundred centers."""

MAX_VALUE: Final = 1e16
"""The largest value that a vector may hold: four times a squared length must fit in float32."""

PRODUCTS: Final = 1 << 24
"""Similarities that a block holds at once where rows are compared with all rows (64 MiB)."""


def product_tolerance(dimensions: int) -> float:
    """The error bound of a float32 product of two unit vectors: (dimensions + 8) 2^-23.

    A sum of d products in float32, in whatever order, is off by at most d u / (1 - d u)
    times the product of the norms, with u = 2^-24 (Higham 2002, Accuracy and Stability of
    Numerical Algorithms, section 3.1); rounding both vectors to float32 adds 2 u. The bound
    is twice that, so it also covers norms that differ from 1 by the rounding.

    Products that are further apart than twice the bound are in the same order as the exact
    cosines.

    Args:
        dimensions: Length of the vectors.

    Returns:
        The largest difference between the product and the exact cosine.

    Example:
        >>> f"{product_tolerance(256):.1e}"
        '3.1e-05'
    """
    return (dimensions + 8) * 2.0**-23


def as_matrix(column: pl.Series) -> Matrix:
    """Read a column of vectors, List(Float32), as an array of shape (rows, dimensions).

    A column of one chunk is not copied: the array is then read-only.

    Raises:
        UserError: The column has another type, a vector is missing, the vectors have
            different lengths, or a value is not finite or beyond `MAX_VALUE`.

    Example:
        >>> as_matrix(pl.Series("vector", [[1.0, 0.0], [0.5, 2.0]])).shape
        (2, 2)
    """
    if not isinstance(column.dtype, pl.List | pl.Array):
        raise UserError(
            f"the column {column.name!r} must hold vectors, got {column.dtype}",
            hint="name the column of an embed stage, or put embed.text before this one",
        )
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    lengths = column.list.len()
    if column.has_nulls() or lengths.n_unique() > 1:
        raise UserError(
            f"the vectors in {column.name!r} are missing for some rows or differ in length",
            hint="use the vectors of one embed stage for all rows",
        )
    flat = column.explode(empty_as_null=False).cast(pl.Float32).to_numpy()
    inside = flat.min(initial=0) >= -MAX_VALUE and flat.max(initial=0) <= MAX_VALUE
    if not inside:  # NaN is neither above nor below
        raise UserError(
            f"the vectors in {column.name!r} must be finite and within {MAX_VALUE:g}, but some "
            "values are not finite or are larger"
        )
    return flat.reshape(len(column), lengths[0] if len(column) else 0)


def to_device(vectors: Matrix) -> Any:
    """Move vectors to where kernels run fastest: a torch tensor on the GPU, else unchanged.

    They stay numpy arrays where there is no GPU, or none with room for twice their
    size. torch is imported only if a GPU's driver is installed. Products on the GPU
    are in full float32 (TF32 is off), so that they agree with a CPU's within a
    relative error of about 1e-6; only a near tie can be decided differently.
    """
    if not any(os.path.exists(driver) for driver in DRIVERS):
        return vectors
    import torch

    if not torch.cuda.is_available() or 2 * vectors.nbytes > torch.cuda.mem_get_info()[0]:
        return vectors
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.tensor(vectors, device="cuda")


def to_host(values: Any) -> NDArray[Any]:
    """Return an array of either kind as a numpy array; a numpy array is returned as it is."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def nearest_neighbors(
    vectors: Any, n_neighbors: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest other rows of each row under the Euclidean distance, nearest first.

    Exact: the products in float32 only select candidates, whose distances are then
    computed in float64 from the differences, so that the distance of equal vectors is 0.
    Where more rows than a few spare candidates are equally near, any of them may be returned.

    Args:
        vectors: A matrix of either kind, shape (rows, dimensions).
        n_neighbors: Neighbors of each row; below the number of rows.

    Returns:
        Indices and distances, both of shape (rows, n_neighbors); equal distances are
        ordered by index.

    Example:
        >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]], np.float32)
        >>> indices, distances = nearest_neighbors(points, 1)
        >>> indices[:, 0].tolist(), distances[0, 0]
        ([2, 2, 0], np.float64(1.0))
    """
    xp, at = array_namespace(vectors), device(vectors)
    count = len(vectors)
    n_candidates = min(n_neighbors + 8, count - 1)  # float32 cannot order near ties
    all_rows = xp.arange(count, device=at)

    def search(rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        scores = vectors[rows] @ vectors.T
        scores -= half_norms  # larger is nearer
        scores[all_rows[: len(scores)], all_rows[rows]] = -xp.inf
        candidates = xp.sort(top_columns(scores, n_candidates), axis=1)
        values = xp.take(vectors, xp.reshape(candidates, (-1,)), axis=0)
        values = xp.reshape(values, (*candidates.shape, -1))
        gaps = xp.astype(values, xp.float64) - vectors[rows][:, None, :]
        distances = xp.sqrt(xp.sum(gaps**2, axis=2))
        order = xp.argsort(distances, axis=1, stable=True)[:, :n_neighbors]
        return (
            to_host(xp.take_along_axis(candidates, order, axis=1)),
            to_host(xp.take_along_axis(distances, order, axis=1)),
        )

    with parallel_map() as map_blocks:
        half_norms = xp.asarray(squared_norms(map_blocks, vectors) / 2, device=at)
        size = PRODUCTS // max(count, n_candidates * vectors.shape[1])
        parts = map_blocks(search, count, max(1, size))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def top_columns(scores: Any, k: int) -> Any:
    """Columns of the k largest values of each row, in no order: shape (rows, k)."""
    if not is_numpy_array(scores):
        return scores.topk(k, dim=1).indices
    columns = scores.shape[1]
    groups = columns // 64
    if groups <= k:
        return np.argpartition(scores, columns - k, axis=1)[:, columns - k :]
    # Columns are dealt into groups. The largest values lie in the groups with the
    # largest maxima, so only those few groups are searched: one pass over the
    # scores instead of a partition of each entire row.
    grouped = groups * 64
    maxima = scores[:, :grouped].reshape(len(scores), 64, groups).max(axis=1)
    best = np.argpartition(maxima, groups - k, axis=1)[:, groups - k :]
    members = (best[:, :, None] + np.arange(64) * groups).reshape(len(scores), -1)
    rest = np.broadcast_to(np.arange(grouped, columns), (len(scores), columns - grouped))
    members = np.concatenate([members, rest], axis=1)
    values = np.take_along_axis(scores, members, 1)
    selected = np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]
    return np.take_along_axis(members, selected, 1)


def squared_norms(map_blocks: ParallelMap, vectors: Any) -> Matrix:
    """The squared Euclidean norm of each row, on the host: shape (rows,)."""
    xp = array_namespace(vectors)
    parts = map_blocks(
        lambda rows: to_host(xp.sum(vectors[rows] ** 2, axis=1)), len(vectors), BLOCK
    )
    return np.concatenate(parts)


def principal_components(vectors: Matrix, explained_variance: float) -> Matrix:
    """Project vectors onto their first principal components.

    Args:
        vectors: Shape (rows, dimensions).
        explained_variance: Fraction of the variance that the components explain together,
            from 0 to 1; as many as needed are kept, at least one.

    Returns:
        The projections, centered at the mean: shape (rows, components).

    Example:
        >>> line = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], np.float32)
        >>> principal_components(line, 0.95).shape
        (3, 1)
    """
    with parallel_map() as map_blocks:
        mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)

        def products(rows: slice) -> Matrix:
            centered = vectors[rows] - mean
            product: Matrix = centered.T @ centered
            return product

        zeros = np.zeros((vectors.shape[1],) * 2)
        values, axes = np.linalg.eigh(sum(map_blocks(products, len(vectors), BLOCK), zeros))
        summed = np.cumsum(np.maximum(values[::-1], 0))
        enough = 1 + int((summed <= explained_variance * summed[-1]).sum())
        kept = min(len(summed), enough) if summed[-1] > 0 else 1
        basis = np.ascontiguousarray(axes[:, ::-1][:, :kept], np.float32)
        parts = map_blocks(lambda rows: (vectors[rows] - mean) @ basis, len(vectors), BLOCK)
    return np.concatenate(parts)


@contextmanager
def parallel_map() -> Iterator[ParallelMap]:
    """A function (function, rows, size) that maps over the blocks of rows, results in order.

    Each block is a slice of at most `size` rows. A single block is worked on by the caller's
    own thread.

    Example:
        >>> with parallel_map() as map_blocks:
        ...     map_blocks(lambda rows: (rows.start, rows.stop), 5, 2)
        [(0, 2), (2, 4), (4, 5)]
    """
    from threadpoolctl import threadpool_limits

    def map_blocks(function: Callable[[slice], Any], rows: int, size: int) -> list[Any]:
        parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
        return [*map(function, parts)] if len(parts) < 2 else [*pool.map(function, parts)]

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        yield map_blocks
