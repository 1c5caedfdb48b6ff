"""How the weights of groups are set: the methods of `mix.weights`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from pipeline.errors import UserError
from pipeline.hints import suggest
from pipeline.types import Count, NonEmpty, PositiveFloat, PositiveFraction, option_group
from stages._common.option_types import Distinct
from stages._selection.groups import Groups, GroupWeights
from stages._vectors.arrays import Matrix, as_matrix
from stages.mix._interaction import descent, linear_programme, moved_rows
from stages.mix._published import MIXTURES, Mixture, is_counted


@option_group
class Fixed:
    """Weights by name.

    Attributes:
        weights: `{math: 2, code: 1}`; a group that is not named gets nothing, a name without
            rows is an error. Without a budget, the rows or tokens to keep of each group.
    """

    name: Literal["fixed"] = "fixed"
    weights: GroupWeights


@option_group
class Published:
    """The parts of a published mixture: its counts without a budget, else in proportion to them.

    Attributes:
        mixture: `tulu-1`, `tulu-2`, `tulu-3` and `dmt` have counts; `flan-palm` and
            `flan-collection` have rates, which need a budget.
        groups: Which group of the rows each part is, `{oasst: my-oasst}`; a part that is not
            named is the group of its own name.
        partial: Whether parts that no row belongs to are left out; otherwise they are an error.
    """

    name: Literal["published"] = "published"
    mixture: Mixture
    groups: Mapping[str, str] = field(default_factory=dict)
    partial: bool = False

    def __post_init__(self) -> None:
        """Refuse a part that the mixture does not have."""
        parts = MIXTURES[self.mixture]
        if unknown := sorted({*self.groups} - {*parts}):
            what = f"groups must name parts of {self.mixture} ({', '.join(parts)})"
            raise ValueError(f"{what}, got {', '.join(unknown)}")
        if len(set(self.weights)) < len(parts):
            raise ValueError(f"groups must be a group for each part, got {dict(self.groups)}")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each group by name."""
        return {self.groups.get(p, p): w for p, w in MIXTURES[self.mixture].items()}

    @property
    def is_counted(self) -> bool:
        """Whether the weights are numbers of rows."""
        return is_counted(self.mixture)


@option_group
class Proportional:
    """A group's number of rows.

    Attributes:
        size_cap: Rows beyond which a group gains no weight (K); null for no cap.
    """

    name: Literal["proportional"] = "proportional"
    size_cap: Count | None = None


@option_group
class Temperature:
    """A root of a group's number of rows.

    Attributes:
        temperature: T, of which the root is taken.
        size_cap: Rows beyond which a group gains no weight (K); null for no cap.
    """

    name: Literal["temperature"] = "temperature"
    temperature: PositiveFloat = 2.0
    size_cap: Count | None = None


@option_group
class Balanced:
    """The same weight for every group.

    Attributes:
        n_groups: Only the groups with the most rows, so many, such as languages; of equally
            large ones the first by name. null for all.
    """

    name: Literal["balanced"] = "balanced"
    n_groups: Count | None = None


@option_group
class Replay:
    """A fraction for old groups beside the new ones, each side in proportion to its rows.

    Attributes:
        groups: The old groups.
        fraction: The part of all that is old.
    """

    name: Literal["replay"] = "replay"
    groups: Annotated[tuple[str, ...], NonEmpty, Distinct]
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05


def _square(effects: Mapping[str, Mapping[str, float]]) -> Mapping[str, Mapping[str, float]]:
    names = {*effects}
    if not names or any({*row} - names for row in effects.values()):
        raise ValueError(f"must name the same groups within each group, got {dict(effects)}")
    return effects


Effects = Annotated[Mapping[str, Mapping[str, float]], AfterValidator(_square)]


@option_group
class Interaction:
    """Beyond IID's weights: more of the groups that help others.

    Attributes:
        effects: For each group what rows of each group do for it, above 0 for help:
            `{maths: {code: 0.2}}`; what is not named is 0. Every group of the rows is named.
        solver: `linear_programme`, within boxes; or `adam`, as in the authors' code: the
            direction of each weight alone counts, and a fixed part of the rows is moved.
        max_change: With `linear_programme`, the most that a weight changes, as a part of it.
        moved: With `adam`, the part of all rows that is moved.
    """

    name: Literal["interaction"] = "interaction"
    effects: Effects
    solver: Literal["linear_programme", "adam"] = "linear_programme"
    max_change: PositiveFraction = 0.1
    moved: PositiveFraction = 0.03

    def __post_init__(self) -> None:
        """Refuse the option of the other solver."""
        if self.solver == "adam" and self.max_change != 0.1:
            raise ValueError(f"max_change must be left out with adam, got {self.max_change}")
        if self.solver != "adam" and self.moved != 0.03:
            raise ValueError(f"moved must be left out with {self.solver}, got {self.moved}")


@option_group
class Submodular:
    """SMART's weights: those of groups that stand for the others.

    Attributes:
        redundancy: Lambda, how much the similarity of selected groups counts against them.
        n_groups: How many groups are selected; null for all.
        vector: The column of vectors.
    """

    name: Literal["submodular"] = "submodular"
    redundancy: float = 0.4
    n_groups: Count | None = None
    vector: str = "vector"


BySize = Proportional | Temperature | Balanced
Named = Fixed | Published
Method = Annotated[
    Named | BySize | Replay | Submodular | Interaction,
    Field(discriminator="name"),
]


def group_weights(rows: pl.DataFrame, groups: Groups, method: Method) -> NDArray[np.float64]:
    """The weights of the groups, on the method's own scale; shape (groups,).

    Args:
        rows: The rows, with their vectors where the method needs them.
        groups: Their groups.
        method: How the weights are set.

    Raises:
        UserError: The method names a group that has no rows, or lacks one that has some.
    """
    match method:
        case Fixed():
            return groups.weights(method.weights)
        case Published():
            named = method.weights
            if method.partial:
                named = {name: weight for name, weight in named.items() if name in groups.names}
            return groups.weights(named)
        case Replay():
            return _replay(groups, method)
        case Interaction():
            return _by_interaction(groups, method)
        case Submodular():
            means = _means(as_matrix(rows[method.vector]), groups)
            return _submodular(means, method.redundancy, method.n_groups)
        case _:
            return _by_size(groups, method)


def _by_size(groups: Groups, method: BySize) -> NDArray[np.float64]:
    """Weights that follow from the groups' numbers of rows alone."""
    rows = _sizes(groups)
    if isinstance(method, Balanced):
        return _largest(rows, method.n_groups)
    capped = rows if method.size_cap is None else np.minimum(rows, method.size_cap)
    if isinstance(method, Proportional):
        return capped
    largest = capped.max(initial=1.0)  # a ratio cannot overflow, however low T is
    heated: NDArray[np.float64] = (capped / largest) ** (1 / method.temperature)
    return heated


def _sizes(groups: Groups) -> NDArray[np.float64]:
    """The number of rows of each group."""
    return np.bincount(groups.codes, minlength=len(groups.names)).astype(np.float64)


def _largest(rows: NDArray[np.float64], n_groups: int | None) -> NDArray[np.float64]:
    """1 for the groups with the most rows, 0 for the others."""
    weights = np.zeros(len(rows))
    weights[np.argsort(-rows, kind="stable")[:n_groups]] = 1.0
    return weights


def _replay(groups: Groups, method: Replay) -> NDArray[np.float64]:
    """Two sides with a fraction each, in proportion to the rows within a side."""
    is_old = groups.weights(dict.fromkeys(method.groups, 1.0)) > 0
    rows = _sizes(groups)
    if len(rows) and is_old.all():
        raise UserError(
            "method.groups must leave out at least one group with rows, got all of them",
            why="replay is a part of old rows beside new ones",
        )
    old, new = np.where(is_old, rows, 0), np.where(is_old, 0, rows)
    parts = method.fraction * old / max(old.sum(), 1.0)
    result: NDArray[np.float64] = parts + (1 - method.fraction) * new / max(new.sum(), 1.0)
    return result


def _by_interaction(groups: Groups, method: Interaction) -> NDArray[np.float64]:
    """Beyond IID's weights; the effects are of exactly the groups of the rows."""
    names, rows = groups.names, _sizes(groups)
    groups.weights(dict.fromkeys(method.effects, 1.0))
    if missing := sorted({*names} - {*method.effects}):
        raise UserError(
            f"method.effects must name every group with rows, got none for {missing[0]!r}",
            hint=suggest(missing[0], [*method.effects]),
        )
    effects = np.array([[method.effects[a].get(b, 0.0) for b in names] for a in names])
    start = rows / max(rows.sum(), 1.0)
    gains = start @ effects.reshape(len(names), len(names))
    if method.solver == "linear_programme":
        return linear_programme(start, gains, method.max_change)
    return moved_rows(rows, descent(start, gains) - start, method.moved) if len(names) else rows


def _means(vectors: Matrix, groups: Groups) -> NDArray[np.float64]:
    """The mean vector of each group, shape (groups, dimensions)."""
    order = np.argsort(groups.codes, kind="stable")
    sizes = np.bincount(groups.codes, minlength=len(groups.names))
    parts = np.split(order, np.cumsum(sizes))[: len(sizes)]
    means = [vectors[part].mean(axis=0, dtype=np.float64) for part in parts]
    return np.array(means).reshape(len(means), vectors.shape[1])


def _submodular(
    means: NDArray[np.float64], redundancy: float, n_groups: int | None
) -> NDArray[np.float64]:
    """SMART's weights of groups.

    In: the groups' mean vectors, lambda, the number of groups to select.
    Out: the Taylor softmax of the gains of the selected groups, 0 for the others.

    The same as `by_hand` in tests/stages/mix/test_weights.py, which evaluates the graph cut
    by its definition; here a selected group lowers the gains of the others. A mean of zeros
    has similarity 0 to every group, itself included. Of equal gains (to 12 decimals) the
    first group in alphabetical order is selected.

    Args:
        means: Shape (groups, dimensions).
        redundancy: Lambda.
        n_groups: How many groups are selected; None for all.

    Example:
        >>> _submodular(np.array([[1.0, 0.0], [0.0, 2.0]]), 0.5, None).tolist()
        [1.625, 1.625]
    """
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    units = np.divide(means, norms, out=np.zeros_like(means), where=norms > 0)
    similarities = np.einsum("ik,jk->ij", units, units)
    gains = similarities.sum(axis=0) - redundancy * np.diag(similarities)
    selected_gains: dict[int, float] = {}
    open_groups = np.ones(len(means), np.bool_)
    for _ in range(len(means) if n_groups is None else min(n_groups, len(means))):
        best = int(np.argmax(np.where(open_groups, np.round(gains, 12), -np.inf)))
        selected_gains[best] = float(gains[best])
        open_groups[best] = False
        gains -= 2 * redundancy * similarities[best]
    weights = np.zeros(len(means))
    weights[list(selected_gains)] = taylor_softmax(np.array(list(selected_gains.values())))
    return weights


def taylor_softmax(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """The second-order Taylor softmax, but for its division by the sum: 1 + g + g^2 / 2.

    >>> taylor_softmax(np.array([1.0, 2.0, 0.5])).tolist()
    [2.5, 5.0, 1.625]
    """
    return 1 + gains + gains**2 / 2
