"""Kernels over dense vectors: reading, placing, nearest neighbours, in blocks.

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
"""Rows of a block where a block is compared with a few hundred centres."""

LARGEST: Final = 1e16
"""The largest value that a vector may hold: four times a squared length must fit in float32."""

PRODUCTS: Final = 1 << 24
"""Similarities that a block holds at once where rows are compared with all rows (64 MiB)."""


def as_matrix(column: pl.Series) -> Matrix:
    """A column of vectors, List(Float32), as an array of shape (rows, dimensions).

    A column in one piece is not copied: the array is then read-only. Raises
    UserError for a column of another type, for a missing vector, for vectors of
    different lengths and for values that are not finite or beyond `LARGEST`.
    """
    if not isinstance(column.dtype, pl.List | pl.Array):
        raise UserError(
            f"the column {column.name!r} holds {column.dtype}, not vectors",
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
    if not (flat.min(initial=0) >= -LARGEST and flat.max(initial=0) <= LARGEST):  # NaN is neither
        raise UserError(
            f"the vectors in {column.name!r} hold values that are not finite, or above {LARGEST:g}"
        )
    return flat.reshape(len(column), lengths[0] if len(column) else 0)


def to_device(vectors: Matrix) -> Any:
    """The vectors where kernels run fastest: a torch tensor on the GPU, else themselves.

    They stay numpy arrays where there is no GPU, or none with room for twice their
    size. torch is imported only where a GPU's driver is there. Products on the GPU
    are in full float32 (TF32 is off), so that they agree with a CPU's within a
    relative error of about 1e-6; only a near tie can fall the other way.
    """
    if not any(os.path.exists(driver) for driver in DRIVERS):
        return vectors
    import torch

    if not torch.cuda.is_available() or 2 * vectors.nbytes > torch.cuda.mem_get_info()[0]:
        return vectors
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.tensor(vectors, device="cuda")


def to_host(values: Any) -> NDArray[Any]:
    """An array of either kind as a numpy array; a numpy array is given back as it is."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def neighbours(vectors: Any, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest other rows of each row under the Euclidean distance, nearest first.

    vectors: a matrix of either kind. Returns indices and distances, both of shape
    (rows, k); equal distances are ordered by index. k must be below the number of
    rows. Exact: the products in float32 only name candidates, whose distances are
    then taken in float64 from the differences, so that the distance of equal
    vectors is 0. Where more rows than a few are equally near, which of them are
    named is left open.
    """
    xp, at = array_namespace(vectors), device(vectors)
    count = len(vectors)
    wanted = min(k + 8, count - 1)  # spare candidates: float32 cannot order near ties
    everyone = xp.arange(count, device=at)

    def search(rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        scores = vectors[rows] @ vectors.T
        scores -= half_lengths  # larger is nearer
        scores[everyone[: len(scores)], everyone[rows]] = -xp.inf
        found = xp.sort(_largest(scores, wanted), axis=1)
        near = xp.reshape(xp.take(vectors, xp.reshape(found, (-1,)), axis=0), (*found.shape, -1))
        gaps = xp.astype(near, xp.float64) - vectors[rows][:, None, :]
        distances = xp.sqrt(xp.sum(gaps**2, axis=2))
        order = xp.argsort(distances, axis=1, stable=True)[:, :k]
        return (
            to_host(xp.take_along_axis(found, order, axis=1)),
            to_host(xp.take_along_axis(distances, order, axis=1)),
        )

    with parallel_map() as each:
        half_lengths = xp.asarray(squared_lengths(each, vectors) / 2, device=at)
        size = PRODUCTS // max(count, wanted * vectors.shape[1])
        found = each(search, count, max(1, size))
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def _largest(scores: Any, wanted: int) -> Any:
    """Columns of the `wanted` largest values of each row, in no order: shape (rows, wanted)."""
    if not is_numpy_array(scores):
        return scores.topk(wanted, dim=1).indices
    columns = scores.shape[1]
    groups = columns // 64
    if groups <= wanted:
        return np.argpartition(scores, columns - wanted, axis=1)[:, columns - wanted :]
    # Columns are dealt into groups. The largest values lie in the groups with the
    # largest maxima, so only those few groups are searched: one pass over the
    # scores instead of a partition of each whole row.
    whole = groups * 64
    maxima = scores[:, :whole].reshape(len(scores), 64, groups).max(axis=1)
    best = np.argpartition(maxima, groups - wanted, axis=1)[:, groups - wanted :]
    members = (best[:, :, None] + np.arange(64) * groups).reshape(len(scores), -1)
    rest = np.broadcast_to(np.arange(whole, columns), (len(scores), columns - whole))
    members = np.concatenate([members, rest], axis=1)
    values = np.take_along_axis(scores, members, 1)
    chosen = np.argpartition(values, values.shape[1] - wanted, axis=1)[:, -wanted:]
    return np.take_along_axis(members, chosen, 1)


def squared_lengths(each: ParallelMap, vectors: Any) -> Matrix:
    """The squared length of each row, on the host: shape (rows,)."""
    xp = array_namespace(vectors)
    parts = each(lambda rows: to_host(xp.sum(vectors[rows] ** 2, axis=1)), len(vectors), BLOCK)
    return np.concatenate(parts)


def principal(vectors: Matrix, share: float) -> Matrix:
    """The vectors in the fewest principal components that hold `share` of the variance.

    Shape (rows, components), at least one component; centred at the mean.
    """
    with parallel_map() as each:
        middle = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)

        def products(rows: slice) -> Matrix:
            part = vectors[rows] - middle
            found: Matrix = part.T @ part
            return found

        zeros = np.zeros((vectors.shape[1],) * 2)
        values, axes = np.linalg.eigh(sum(each(products, len(vectors), BLOCK), zeros))
        held = np.cumsum(np.maximum(values[::-1], 0))
        kept = min(len(held), 1 + int((held <= share * held[-1]).sum())) if held[-1] > 0 else 1
        basis = np.ascontiguousarray(axes[:, ::-1][:, :kept], np.float32)
        parts = each(lambda rows: (vectors[rows] - middle) @ basis, len(vectors), BLOCK)
    return np.concatenate(parts)


@contextmanager
def parallel_map() -> Iterator[ParallelMap]:
    """A function that maps another over the blocks of so many rows, results in order.

    A single block is worked on by the caller's own thread.
    """
    from threadpoolctl import threadpool_limits

    def each(function: Callable[[slice], Any], rows: int, size: int) -> list[Any]:
        parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
        return [*map(function, parts)] if len(parts) < 2 else [*pool.map(function, parts)]

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        yield each
