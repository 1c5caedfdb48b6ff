"""Rows nearest to a target: nearest neighbors, mean cosines, and the round robin of RDS+.

Products in float32 only name candidates; what decides is a cosine in float64 of the vectors
themselves, rounded to 12 decimals. So equal vectors have equal similarities, and neither
blocks nor threads nor the device change a choice. A zero vector has no similarity to
anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from pipeline.types import option_group
from stages._vectors.arrays import PRODUCTS, parallel_map, product_tolerance, to_host

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Order = Literal["max", "mean", "turns"]

_VALUES = 1 << 22
"""Values of pairs of rows that are held in float64 at once: 32 MiB a side."""


@option_group
class Nearest:
    """The rows with the largest cosines with the target rows.

    Attributes:
        order: `max` ranks rows by their nearest target row, `mean` by the mean over target
            rows; with `turns` the target rows take turns, and each selects the remaining row
            that is nearest to it.
        vector: The column of vectors, on all edges.
        task: With `turns`, a column of the target: its tasks take turns, and each selects the
            remaining row that is nearest to one of the task's rows (RDS+ over several tasks).
    """

    name: Literal["nearest"] = "nearest"
    order: Order = "max"
    vector: str = "vector"
    task: str | None = None

    def __post_init__(self) -> None:
        if self.task is not None and self.order != "turns":
            raise ValueError(f"task must be left out with order: {self.order}, got {self.task!r}")


class _Side(NamedTuple):
    """One side of a comparison.

    Attributes:
        vectors: As they came, float32, on the host.
        norms: Their lengths, float64.
        units: Unit vectors, float32, on the device; NaN for a zero vector.
    """

    vectors: NDArray[np.float32]
    norms: Floats
    units: Any

    @property
    def tolerance(self) -> float:
        """An upper bound of the error of two float32 products of unit vectors."""
        return 2 * product_tolerance(self.vectors.shape[1])


def _side(vectors: Any) -> _Side:
    xp = array_namespace(vectors)
    on_host = to_host(vectors)
    norms = np.sqrt(np.einsum("ij,ij->i", on_host, on_host, dtype=np.float64))
    factors = 1 / np.where(norms > 0, norms, np.nan)
    scale = xp.asarray(factors.astype(np.float32), device=device(vectors))
    return _Side(on_host, norms, vectors * scale[:, None])


def _cosines(rows: _Side, row: Positions, targets: _Side, target: Positions) -> Floats:
    """The cosines that decide.

    Args:
        rows: The rows.
        row: Positions of rows.
        targets: The targets.
        target: Positions of targets, one for each of `row`.
    """
    products = np.empty(len(row))
    step = max(1, _VALUES // max(1, rows.vectors.shape[1]))
    for start in range(0, len(row), step):
        a, b = row[start : start + step], target[start : start + step]
        pairs = rows.vectors[a].astype(np.float64), targets.vectors[b].astype(np.float64)
        products[start : start + step] = np.einsum("ij,ij->i", *pairs)
    return np.round(products / (rows.norms[row] * targets.norms[target]), 12)


def _distinct(targets: Any) -> Positions:
    """The targets that are not zero, each vector once: the first of equal ones."""
    on_host = to_host(targets)
    first = np.unique(on_host, axis=0, return_index=True)[1]
    return np.sort(first[np.any(on_host[first] != 0, axis=1)])


def nearest(rows: Any, targets: Any) -> tuple[Floats, Positions]:
    """The nearest target of each row.

    In: two sets of vectors.
    Out: for each row the largest cosine with a target, and the target's position.

    The same as `cosines` in tests/stages/select/test_target.py, which takes all pairs in
    float64. Here a float32 product rules out most pairs: a product that is more than the
    tolerance below the row's largest cannot be the largest cosine.

    Args:
        rows: float32, shape (rows, dimensions), finite, of any length: a numpy array or a
            torch tensor.
        targets: The same, shape (targets, dimensions), on the same device.

    Returns:
        Cosines and positions, both of shape (rows,); of equally near targets the first. NaN
        and -1 for a zero vector, and where all targets are zero.

    Example:
        >>> rows = np.array([[2.0, 0.0], [0.0, 0.0]], np.float32)
        >>> nearest(rows, np.array([[0.0, 1.0], [3.0, 0.0]], np.float32))
        (array([ 1., nan]), array([ 1, -1]))
    """
    kept = _distinct(targets)
    similarities, positions = np.full(len(rows), np.nan), np.full(len(rows), -1)
    if not len(kept):
        return similarities, positions
    xp = array_namespace(rows)
    left = _side(rows)
    right = _side(xp.take(targets, xp.asarray(kept, device=device(targets)), axis=0))

    def block(part: slice) -> tuple[Positions, Positions]:
        products = left.units[part] @ right.units.T
        floor = xp.max(products, axis=1) - left.tolerance
        flat = xp.reshape(products >= floor[:, None], (-1,))
        row, column = np.divmod(to_host(xp.nonzero(flat)[0]), len(kept))
        return row + part.start, column

    with parallel_map() as each:
        parts = each(block, len(rows), max(1, PRODUCTS // len(kept)))
    if parts:
        row, column = (np.concatenate(side) for side in zip(*parts, strict=True))
        value = _cosines(left, row, right, column)
        order = np.lexsort((column, -value, row))
        row, first = np.unique(row[order], return_index=True)
        similarities[row], positions[row] = value[order][first], kept[column[order][first]]
    return similarities, positions


def mean_cosine(rows: Any, targets: Any) -> Floats:
    """The mean of each row's cosines with the targets, shape (rows,).

    Zero targets do not count; NaN for a zero row, and where all targets are zero.

    Example:
        >>> rows = np.array([[2.0, 0.0]], np.float32)
        >>> mean_cosine(rows, np.array([[0.0, 1.0], [3.0, 0.0]], np.float32)).tolist()
        [0.5]
    """
    left, right = _side(rows), to_host(targets).astype(np.float64)
    norms = np.linalg.norm(right, axis=1)
    if not norms.any():
        return np.full(len(rows), np.nan)
    center = (right[norms > 0] / norms[norms > 0, None]).mean(axis=0)
    norms = np.where(left.norms > 0, left.norms, np.nan)
    cosines: Floats = np.round(np.einsum("ij,j->i", left.vectors, center) / norms, 12)
    return cosines


class Turns(NamedTuple):
    """The selections of a round robin, in their order.

    Attributes:
        rows: The selected rows.
        targets: The target that selected each.
        similarities: The cosine of both.
    """

    rows: list[int]
    targets: list[int]
    similarities: list[float]


def take_turns(
    rows: Any,
    targets: Any,
    costs: NDArray[np.int64],
    budget: int,
    max_rows: int | None = None,
) -> Turns:
    """RDS+'s round robin: each target in turn selects the remaining row nearest to it.

    In: two sets of vectors, the rows' costs, a budget.
    Out: the selected rows in order, each with its target and their cosine.

    The same as `by_hand` in tests/stages/select/test_target.py, faster because each target
    keeps a list of its nearest rows, which is extended four-fold when it has run out.
    Equal vectors among the targets each have a turn; of equally near rows the first is
    selected. Zero vectors neither select nor are selected. A loop, because each choice
    depends on those before it.

    Args:
        rows: float32, shape (rows, dimensions): a numpy array or a torch tensor.
        targets: The same, shape (targets, dimensions).
        costs: What each row uses of the budget; a row that no longer fits is passed over.
        budget: What the selected rows may cost.
        max_rows: The most rows; None for no limit.

    Example:
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], np.float32)
        >>> take_turns(rows, np.eye(2, dtype=np.float32), np.ones(3, int), 3).rows
        [0, 2, 1]
    """
    left, right = _side(rows), _side(targets)
    turns = Turns([], [], [])
    free = (left.norms > 0) & (costs <= budget)
    active = np.flatnonzero(right.norms > 0)
    if not free.any() or not len(active):
        return turns
    most = len(rows) if max_rows is None else max_rows
    expected = min(most, budget / max(1.0, float(costs[free].mean())))
    lengths = np.full(len(targets), 2 * int(expected / len(active)) + 8)
    first = _nearest_rows(left, right, active, free, int(lengths[0]))
    lists = dict(zip(active.tolist(), first, strict=True))
    while True:
        for target in active.tolist():
            if len(turns.rows) == most:
                return turns
            neighbors = lists[target]
            while neighbors and not (free[neighbors[-1][0]] and costs[neighbors[-1][0]] <= budget):
                free[neighbors.pop()[0]] = False
            if not neighbors:
                free &= costs <= budget
                lengths[target] *= 4
                one = np.array([target])
                neighbors = _nearest_rows(left, right, one, free, lengths[target])[0]
                lists[target] = neighbors
            if not neighbors:
                return turns
            row, similarity = neighbors.pop()
            free[row] = False
            budget -= int(costs[row])
            turns.rows.append(row)
            turns.targets.append(target)
            turns.similarities.append(similarity)


def take_task_turns(
    rows: Any,
    targets: Any,
    tasks: Sequence[Positions],
    costs: NDArray[np.int64],
    budget: int,
    max_rows: int | None = None,
) -> Turns:
    """RDS+'s round robin over tasks: a row is as near to a task as to the nearest of its targets.

    Args:
        rows: float32, shape (rows, dimensions): a numpy array or a torch tensor.
        targets: The same, shape (targets, dimensions).
        tasks: For each task the positions of its targets.
        costs: What each row uses of the budget; a row that no longer fits is passed over.
        budget: What the selected rows may cost.
        max_rows: The most rows; None for no limit.

    Example:
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], np.float32)
        >>> tasks = [np.array([0, 1]), np.array([1])]
        >>> take_task_turns(rows, np.eye(2, dtype=np.float32), tasks, np.ones(3, int), 2).rows
        [0, 2]
    """
    xp = array_namespace(rows)
    turns = Turns([], [], [])
    queues = []
    for members in tasks:
        part = xp.take(targets, xp.asarray(members, device=device(targets)), axis=0)
        similarities, positions = nearest(rows, part)
        order = np.lexsort((np.arange(len(similarities)), -similarities))
        usable = order[~np.isnan(similarities[order])]
        queues.append((iter(usable.tolist()), similarities, members[positions]))
    free, most = np.ones(len(rows), np.bool_), len(rows) if max_rows is None else max_rows
    while queues and len(turns.rows) < most:
        queue, similarities, nearest_target = queues.pop(0)
        row = next((r for r in queue if free[r] and costs[r] <= budget), None)
        if row is None:  # the task has no row left
            continue
        free[row] = False
        budget -= int(costs[row])
        turns.rows.append(row)
        turns.targets.append(int(nearest_target[row]))
        turns.similarities.append(float(similarities[row]))
        queues.append((queue, similarities, nearest_target))
    return turns


def _nearest_rows(
    rows: _Side, targets: _Side, queries: Positions, free: NDArray[np.bool_], length: int
) -> list[list[tuple[int, float]]]:
    """For some targets the free rows nearest to them with their cosines, the nearest last.

    Args:
        rows: The rows.
        targets: The targets.
        queries: The positions of the targets to search for.
        free: The rows that may be selected.
        length: How many rows for each target.
    """
    length = min(length, int(free.sum()))
    xp = array_namespace(rows.units)

    def block(part: slice) -> list[list[tuple[int, float]]]:
        index = queries[part]
        units = xp.take(targets.units, xp.asarray(index, device=device(rows.units)), axis=0)
        products = to_host(units @ rows.units.T)
        products[:, ~free] = -np.inf
        return [first(target, values) for target, values in zip(index, products, strict=True)]

    def first(target: int, products: NDArray[np.float32]) -> list[tuple[int, float]]:
        if not length:
            return []
        at = len(products) - length
        floor = np.partition(products, at)[at] - rows.tolerance
        candidates = np.flatnonzero(products >= floor)
        value = _cosines(rows, candidates, targets, np.full(len(candidates), target))
        order = np.lexsort((candidates, -value))[:length][::-1]
        return list(zip(candidates[order].tolist(), value[order].tolist(), strict=True))

    with parallel_map() as each:
        parts = each(block, len(queries), max(1, PRODUCTS // len(free)))
    return [neighbors for part in parts for neighbors in part]
