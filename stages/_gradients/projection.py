"""A random projection that keeps dot products in expectation.

The matrix has entries +1 and -1 over the root of the dimensions (Rademacher), so that
E[<Px, Py>] = <x, y>, with an error of about |x| |y| / sqrt(dimensions). It is never held as a
whole: each block of its rows is drawn anew from the seed and the block's number.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

ENTRIES: Final = 1 << 24
"""Entries of the matrix that are held at once: 64 MiB, and 128 MiB in float64."""

_PHILOX: Final = 1 << 64


def project(gradients: Matrix, dimensions: int, seed: int) -> Matrix:
    """Gradients of rows, projected.

    Args:
        gradients: Shape (rows, values). Sums are in float64, since a BLAS adds those of the
            first row of a matrix in another order than those of its last one.
        dimensions: Values of a projection.
        seed: Of the matrix.

    Returns:
        Shape (rows, dimensions).

    Example:
        >>> project(np.ones((1, 3), np.float32), 4, seed=0).shape
        (1, 4)
    """
    count, values = gradients.shape
    size = max(1, ENTRIES // dimensions)
    total = np.zeros((count, dimensions))
    for start in range(0, values, size):
        part = gradients[:, start : start + size].astype(np.float64)
        total += part @ signs(part.shape[1], dimensions, seed, start // size)
    projected: Matrix = (total / np.sqrt(dimensions)).astype(np.float32)
    return projected


def signs(rows: int, dimensions: int, seed: int, block: int) -> Matrix:
    """The signs of a block of rows of the matrix, +1 and -1: shape (rows, dimensions).

    Args:
        rows: The first rows of the block.
        dimensions: Columns.
        seed: Of the matrix.
        block: The number of the block.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed % _PHILOX, block]))
    count = rows * dimensions
    bits = np.unpackbits(np.frombuffer(generator.bytes(-(-count // 8)), np.uint8), count=count)
    matrix: Matrix = 1 - 2 * bits.reshape(rows, dimensions).astype(np.float32)
    return matrix
