"""AITP's gaps (Liang et al. 2025, arXiv:2501.09368): where the data that one has is thin.

Vectors are projected on their first principal components; densities are Gaussian kernel
densities there.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from numpy.typing import NDArray

from pipeline.types import Count, option_group
from stages._vectors.arrays import PRODUCTS, parallel_map, to_host

Floats = NDArray[np.float64]

_CACHED = 1 << 17
"""Exponents of kernels that are held at once: 1 MiB, which a core's cache keeps."""


@option_group
class Gaps:
    """Rows where `held` is thin, and the target is not.

    Attributes:
        n_components: How many principal components of `held` and `target` (or of the rows,
            without a target).
        vector: The column of vectors, on all edges.
    """

    name: Literal["gaps"] = "gaps"
    n_components: Count = 2
    vector: str = "vector"


def principal_components(vectors: NDArray[np.float32], n_components: int) -> tuple[Floats, Floats]:
    """The mean of the vectors, and a basis of their first principal components.

    The same as scikit-learn's `PCA(whiten=True)` (tests/stages/select/test_target.py), with
    sums in a fixed order, so that the result does not depend on the number of threads.

    Args:
        vectors: Shape (rows, dimensions).
        n_components: The number of components; fewer where the vectors vary in fewer.

    Returns:
        Shapes (dimensions,) and (dimensions, k): (x - mean) @ basis has k coordinates of
        variance 1.

    Example:
        >>> mean, basis = principal_components(np.array([[0.0, 1.0], [4.0, 1.0]], np.float32), 2)
        >>> mean.tolist(), np.abs(basis).tolist()
        ([2.0, 1.0], [[0.5], [0.0]])
    """
    count, width = vectors.shape
    mean = vectors.mean(axis=0, dtype=np.float64)

    def block(part: slice) -> Floats:
        gaps = vectors[part] - mean
        product: Floats = gaps.T @ gaps
        return product

    with parallel_map() as each:
        covariance = sum(each(block, count, 4096), np.zeros((width, width))) / count
        variances, axes = np.linalg.eigh(covariance)
    order = np.argsort(-variances, kind="stable")[:n_components]
    order = order[variances[order] > 1e-12 * (variances.sum() + mean @ mean)]
    return mean, axes[:, order] / np.sqrt(variances[order])


def project(vectors: NDArray[np.float32], mean: Floats, basis: Floats) -> Floats:
    """The coordinates of vectors on a basis.

    Args:
        vectors: Shape (rows, dimensions).
        mean: Of `principal`.
        basis: Of `principal`.

    Returns:
        Shape (rows, k).
    """

    def block(part: slice) -> Floats:
        coordinates: Floats = (vectors[part] - mean) @ basis
        return coordinates

    with parallel_map() as each:
        return np.concatenate([np.zeros((0, basis.shape[1])), *each(block, len(vectors), 4096)])


def log_density(points: Any, centers: Any) -> Floats:
    """The logarithm of a Gaussian kernel density.

    In: points, and the centers of the kernels.
    Out: the log-density at each point.

    The same as scikit-learn's `KernelDensity` (tests/stages/select/test_target.py), in blocks
    that a core's cache keeps. The bandwidth is Scott's rule, n^(-1 / (k + 4)) in every
    coordinate (Scott 1992), n being the number of centers.

    Args:
        points: float64, shape (points, k), of variance about 1 in each coordinate: a numpy
            array or a torch tensor.
        centers: The same, shape (n, k), on the same device.

    Returns:
        Shape (points,); NaN where there are no centers.

    Example:
        >>> log_density(np.zeros((1, 1)), np.zeros((1, 1))).round(4).tolist()
        [-0.9189]
    """
    xp = array_namespace(points)
    count, k = centers.shape
    if not count:
        return np.full(len(points), np.nan)
    bandwidth = float(count) ** (-1 / (k + 4))
    scale = bandwidth * 2.0**0.5  # so that a squared distance is the kernel's exponent
    points, centers = points / scale, centers / scale
    values = _CACHED if is_numpy_array(points) else PRODUCTS // 2

    def block(part: slice) -> Floats:
        gaps = xp.zeros((len(points[part]), count), dtype=xp.float64, device=device(points))
        for j in range(k):
            gaps += (points[part, j][:, None] - centers[None, :, j]) ** 2
        least = xp.min(gaps, axis=1)
        return to_host(xp.log(xp.sum(xp.exp(least[:, None] - gaps), axis=1)) - least)

    with parallel_map() as each:
        parts = each(block, len(points), max(1, values // count))
    constant = np.log(count) + k * np.log(bandwidth * np.sqrt(2 * np.pi))
    logarithms: Floats = np.concatenate([np.zeros(0), *parts]) - constant
    return logarithms
