"""What each phase of a curriculum reads: the methods of `mix.curriculum`.

Each gives a list of phases, and for each phase the numbers of the rows in the order in which
they are read. A row may be read several times or never.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipeline.errors import UserError
from pipeline.hints import suggest
from pipeline.types import Count, Fraction, NonEmpty, PositiveFraction, option_group
from stages._common.option_types import Distinct
from stages._selection.groups import MISSING, Groups, groups_of
from stages._selection.random_draws import uniform
from stages._selection.scores import Expression, ranking, ranks_within

Rows = NDArray[np.int64]
Reads = list[Rows]
"""For each phase the numbers of its rows, in order."""

Names = Annotated[tuple[str, ...], Distinct]

MANY_ROWS: Final = 50_000
"""Rows from which on DT-CSFT reads less of a group twice."""

LOG_RANGE: Final = 10.0
"""The range of the logarithm of log pacing: it starts at exp(-10) of the way."""


@option_group
class Levels:
    """All rows of a level before those of the next, over all groups.

    Attributes:
        order: The levels by name, the first one first; none for ascending values. A level
            that is not named is not read.
        interleave: A column or an SQL expression, such as the subject: within a level its
            values take turns. null: the rows of a level are shuffled.
    """

    name: Literal["levels"] = "levels"
    order: Names = ()
    interleave: Expression | None = None


def _some_group(groups: Mapping[str, float]) -> Mapping[str, float]:
    if not any(groups.values()):
        raise ValueError(f"must have at least one group above 0, got {dict(groups)}")
    return groups


@option_group
class Phase:
    """What one phase reads, shuffled.

    Attributes:
        groups: The part of each group's rows that is read, `{chat: 1, maths: 0.1}`: at least
            one row of a part above 0, and the same rows wherever the same part is named.
        passes: How many times, shuffled anew each time.
    """

    groups: Annotated[Mapping[str, Fraction], AfterValidator(_some_group)]
    passes: Count = 1


def _some_phase(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    if not phases:
        raise ValueError("must have at least one phase, got none")
    return phases


@option_group
class Phases:
    """Phases by name of their groups; a group that none names is not read.

    Attributes:
        phases: The phases in order.
        cycles: The phases come in turn so many times, each time with that part of their rows.
    """

    name: Literal["phases"] = "phases"
    phases: Annotated[tuple[Phase, ...], AfterValidator(_some_phase)]
    cycles: Count = 1


@option_group
class Dependency:
    """A group after all groups that it requires; what requires nothing comes first.

    Attributes:
        requires: For each group the groups that it requires, `{algebra: [arithmetic]}`.
    """

    name: Literal["dependency"] = "dependency"
    requires: Annotated[Mapping[str, Names], NonEmpty]


@option_group
class ThreePasses:
    """DT-CSFT: what others depend on first, everything shuffled, what depends on others first.

    Attributes:
        base: Groups that others depend on (maths and code in the paper).
        dependent: Groups that depend on others (the humanities).
        overlap: The part of the first groups that is read twice in a pass, and of the last
            ones that is left out; null for 0.1, from 50,000 rows on 0.05.
    """

    name: Literal["three_passes"] = "three_passes"
    base: Annotated[Names, NonEmpty]
    dependent: Annotated[Names, NonEmpty]
    overlap: Fraction | None = None

    def __post_init__(self) -> None:
        """Refuse a group that is both."""
        if both := sorted({*self.base} & {*self.dependent}):
            raise ValueError(f"dependent must name other groups than base, got {', '.join(both)}")


@option_group
class Difficulty:
    """Each phase is a shuffled pass over the easiest part of the rows.

    Attributes:
        num_phases: How many passes.
        pacing: How the part grows from `start` to all rows: `linear`, `root` (its square),
            `log` (Wu et al. 2021, arXiv:2012.03107), or `cyclic`: linear up and down.
        start: The part of all rows that is read where the pacing is at 0.
        cycles: How often `cyclic` goes up and down.
        descending: Whether large scores are the easy ones. Missing scores are the hardest.
    """

    name: Literal["difficulty"] = "difficulty"
    num_phases: Count = 10
    pacing: Literal["linear", "root", "log", "cyclic"] = "linear"
    start: PositiveFraction = 0.1
    cycles: Count = 1
    descending: bool = False


class Shuffle:
    """Random orders of rows, from their ids, the seed and a number alone."""

    def __init__(self, ids: pl.Series, seed: int) -> None:
        """Keep the ids.

        Args:
            ids: The ids of all rows.
            seed: Of all orders.
        """
        self._ids, self._seed = ids, seed

    def keys(self, number: int) -> NDArray[np.float64]:
        """One key for each row.

        Args:
            number: Which order.
        """
        return uniform(self._ids, f"mix.curriculum:{self._seed}:{number}")

    def __call__(self, rows: Rows, number: int) -> Rows:
        """Some rows in a random order; equal keys by id, as the rows come sorted.

        Args:
            rows: Numbers of rows.
            number: Which order.
        """
        rows = np.sort(rows)
        return rows[np.argsort(self.keys(number)[rows], kind="stable")]


def refuse_unknown(groups: Groups, names: Iterable[str]) -> None:
    """Refuse the name of a group that no row belongs to.

    Args:
        groups: The groups of the rows.
        names: The groups that options name.

    Raises:
        UserError: One of them has no rows, though there are rows.
    """
    unknown = sorted({*names} - {*groups.names})
    if unknown and groups.names:
        raise UserError(
            f"the method must name groups with rows, got {', '.join(map(repr, unknown))}",
            why=f"the rows belong to {', '.join(groups.names[:20])}",
            hint=suggest(unknown[0], groups.names),
        )


def levels(rows: pl.DataFrame, groups: Groups, method: Levels, shuffle: Shuffle) -> Reads:
    """A phase for each level: its rows shuffled, or interleaved.

    Args:
        rows: The rows.
        groups: Their levels.
        method: The order of the levels.
        shuffle: Random orders.

    Example:
        >>> rows = pl.DataFrame({"id": ["a", "b", "c", "d"], "n": [2, 1, 2, 2], "s": ["x", *"yyx"]})
        >>> method, shuffle = Levels(interleave="s"), Shuffle(rows["id"], 0)
        >>> [part.tolist() for part in levels(rows, groups_of(rows, "n"), method, shuffle)]
        [[1], [0, 2, 3]]
    """
    numbers = _level_numbers(groups, method.order)
    parts = [np.flatnonzero(numbers == n) for n in range(numbers.max(initial=-1) + 1)]
    keys = shuffle.keys(0)
    if method.interleave is None:
        return [part[np.argsort(keys[part], kind="stable")] for part in parts]
    kinds = groups_of(rows, method.interleave).codes
    return [_interleaved(part, kinds[part], keys[part]) for part in parts]


def _level_numbers(groups: Groups, order: tuple[str, ...]) -> Rows:
    """Each row's level from 0 on; -1 where it is not read. Missing values come last."""
    if order:
        refuse_unknown(groups, order)
        numbers = {name: i for i, name in enumerate(order)}
        return np.array([numbers.get(name, -1) for name in groups.names], np.int64)[groups.codes]
    try:
        values = [math.inf if name == MISSING else float(name) for name in groups.names]
    except ValueError:  # texts, in alphabetical order
        values = [math.inf if name == MISSING else i for i, name in enumerate(groups.names)]
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")[groups.codes]


def _interleaved(part: Rows, kinds: Rows, keys: NDArray[np.float64]) -> Rows:
    """Rows by turns of their kinds, by ascending key within a kind."""
    turns = ranks_within(kinds, keys)
    return part[np.lexsort((kinds, turns))]


def phases_of(groups: Groups, method: Phases, shuffle: Shuffle) -> Reads:
    """The phases as they are named, `cycles` times.

    Args:
        groups: The groups of the rows.
        method: The phases.
        shuffle: Random orders.
    """
    refuse_unknown(groups, {name for phase in method.phases for name in phase.groups})
    members = {
        name: shuffle(np.flatnonzero(groups.codes == code), 0)
        for code, name in enumerate(groups.names)
    }
    reads: Reads = []
    for cycle in range(method.cycles):
        for phase in method.phases:
            part = np.concatenate(
                [
                    _share(members.get(name, np.empty(0, np.int64)), fraction, cycle, method.cycles)
                    for name, fraction in sorted(phase.groups.items())
                ]
            )
            first = 1 + len(reads) * 1000
            passes = [shuffle(part, first + i) for i in range(phase.passes)]
            reads.append(np.concatenate(passes))
    return reads


def _share(members: Rows, fraction: float, cycle: int, cycles: int) -> Rows:
    """A cycle's part of a fraction of a group's rows."""
    count = min(len(members), max(math.ceil(fraction), math.floor(fraction * len(members) + 0.5)))
    return members[count * cycle // cycles : count * (cycle + 1) // cycles]


def prerequisites_in_order(requires: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The level of each group: 0 where it requires nothing, else 1 above what it requires.

    Args:
        requires: For each group the groups that it requires.

    Raises:
        ValueError: Groups require each other; the text says which.

    Example:
        >>> prerequisites_in_order({"c": ["b", "a"], "b": ["a"]})
        {'a': 0, 'b': 1, 'c': 2}
    """
    from graphlib import CycleError, TopologicalSorter

    sorter = TopologicalSorter({name: sorted(needs) for name, needs in sorted(requires.items())})
    result: dict[str, int] = {}
    try:
        for name in sorter.static_order():
            result[name] = max((result[need] + 1 for need in requires.get(name, ())), default=0)
    except CycleError as error:
        raise ValueError(f"must have no cycle, got {' -> '.join(error.args[1])}") from None
    return result


def dependency(groups: Groups, method: Dependency, shuffle: Shuffle) -> Reads:
    """A phase for each level of prerequisites, its rows shuffled.

    Args:
        groups: The groups of the rows.
        method: What requires what.
        shuffle: Random orders.
    """
    level = prerequisites_in_order(method.requires)
    refuse_unknown(groups, level)
    numbers = np.array([level.get(name, 0) for name in groups.names], np.int64)[groups.codes]
    count = numbers.max(initial=-1) + 1
    return [shuffle(np.flatnonzero(numbers == number), number) for number in range(count)]


def three_passes(groups: Groups, method: ThreePasses, shuffle: Shuffle) -> Reads:
    """DT-CSFT's passes.

    Args:
        groups: The groups of the rows.
        method: What is read first and last.
        shuffle: Random orders.
    """
    refuse_unknown(groups, (*method.base, *method.dependent))
    labels = np.array(groups.names, dtype=object)[groups.codes]
    is_base, is_dependent = np.isin(labels, method.base), np.isin(labels, method.dependent)
    base, dependent = (shuffle(np.flatnonzero(is_), 0) for is_ in (is_base, is_dependent))
    middle = [
        shuffle(np.flatnonzero(groups.codes == code), 0)
        for code, name in enumerate(groups.names)
        if name not in {*method.base, *method.dependent}
    ]
    overlap = method.overlap
    if overlap is None:
        overlap = 0.05 if len(labels) >= MANY_ROWS else 0.1
    return [
        _pass(base, middle, dependent, overlap),
        shuffle(np.arange(len(labels)), 1),
        _pass(dependent, middle, base, overlap),
    ]


def _pass(first: Rows, middle: list[Rows], last: Rows, overlap: float) -> Rows:
    """A pass: the first rows, a part of them again, the middle's groups, most of the last rows."""
    left_out = int(len(last) * overlap)
    again = first[: int(len(first) * overlap)]
    return np.concatenate([first, again, *middle, last[: len(last) - left_out]])


def difficulty(values: NDArray[np.float64], method: Difficulty, shuffle: Shuffle) -> Reads:
    """Passes over the easiest part of the rows, at least one row.

    Args:
        values: The score of each row, NaN where it is missing.
        method: The pacing.
        shuffle: Random orders.

    Example:
        >>> values, pacing = np.array([4.0, 1.0, 3.0, 2.0]), Difficulty(num_phases=2, start=0.25)
        >>> [len(part) for part in difficulty(values, pacing, Shuffle(pl.Series([*"abcd"]), 0))]
        [3, 4]
    """
    order = ranking(values, method.descending)
    parts = [
        method.start + (1 - method.start) * pace(method, number)
        for number in range(1, method.num_phases + 1)
    ]
    # Rounded, so that a part such as 0.3 of 10 rows is 3 of them.
    counts = [min(len(order), math.ceil(round(part * len(order), 9))) for part in parts]
    return [shuffle(order[:count], number) for number, count in enumerate(counts)]


def pace(method: Difficulty, number: int) -> float:
    """How far the pacing is in a phase, from 0 to 1.

    Args:
        method: The pacing.
        number: The phase, from 1 on.

    Example:
        >>> [pace(Difficulty(num_phases=4, pacing="cyclic"), n) for n in (1, 2, 3, 4)]
        [0.5, 1.0, 0.5, 0.0]
    """
    progress = number / method.num_phases
    match method.pacing:
        case "linear":
            return progress
        case "root":
            return math.sqrt(progress)
        case "log":
            return 1 + math.log(progress + math.exp(-LOG_RANGE) * (1 - progress)) / LOG_RANGE
        case "cyclic":
            return 1 - abs(2 * ((progress * method.cycles) % 1) - 1)
