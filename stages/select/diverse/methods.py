"""The methods of `select.diverse`: their options, and the objectives that these make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from pipeline.types import Fraction, NonNegativeFloat, option_group
from stages.select.diverse.facility_location import Cover, CoverageObjective
from stages.select.diverse.graph_cut import GraphCutObjective
from stages.select.diverse.k_center import KCenterObjective
from stages.select.diverse.lazy_greedy import Objective
from stages.select.diverse.listed import Listed, ListedObjective
from stages.select.diverse.mixed_precision import Floats, Metric, Positions, VectorSet


@option_group
class Threshold:
    """DEITA's filter: rows in the order of a score, each kept unless it is too similar.

    Attributes:
        threshold: The cosine with a row kept before above which a row is too similar.
    """

    name: Literal["threshold"] = "threshold"
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.9


@option_group
class KCenter:
    """The row farthest from all rows picked so far.

    Attributes:
        init: The first row, where none is held: the one nearest to the mean, the one with the
            best score, or a random one.
        metric: The distance is 1 minus the cosine, or Euclidean.
    """

    name: Literal["k_center"] = "k_center"
    init: Literal["mean", "score", "random"] = "mean"
    metric: Metric = "cosine"


@option_group
class FacilityLocation:
    """Rows that are similar to all others (QDIT with a score).

    Attributes:
        weight: The weight of the score, that of the covering being 1 minus it.
        metric: The similarity is the cosine, or minus the Euclidean distance.
    """

    name: Literal["facility_location"] = "facility_location"
    weight: Fraction = 0.5
    metric: Metric = "cosine"


@option_group
class GraphCut:
    """Rows similar to all others and not to one another.

    Attributes:
        penalty: What similarity among the picked rows costs (lambda).
    """

    name: Literal["graph_cut"] = "graph_cut"
    penalty: NonNegativeFloat = 0.4


@option_group
class MutualInformation:
    """Rows that stand for a target (FLVMI and FLQMI).

    Attributes:
        represent: What is covered: the rows (FLVMI) or the target (FLQMI).
        relevance: The weight of the similarity with the target (eta).
        weight: The weight of the score, that of the covering being 1 minus it.
    """

    name: Literal["mutual_information"] = "mutual_information"
    represent: Literal["rows", "target"] = "rows"
    relevance: NonNegativeFloat = 1.0
    weight: Fraction = 0.5


@option_group
class ConditionalGain:
    """Rows that add to those already held (FLCG).

    Attributes:
        relevance: The weight of the similarity with held rows (nu).
        weight: The weight of the score, that of the covering being 1 minus it.
    """

    name: Literal["conditional_gain"] = "conditional_gain"
    relevance: NonNegativeFloat = 1.0
    weight: Fraction = 0.5


@option_group
class Lazy:
    """The plain greedy choice, by lazy evaluation (Minoux 1978)."""

    name: Literal["lazy"] = "lazy"


@option_group
class Stochastic:
    """The best of a random part of the rows for each pick (Mirzasoleiman et al. 2015).

    Attributes:
        epsilon: Of rows / picks * ln(1 / epsilon), the number of rows in the random part.
    """

    name: Literal["stochastic"] = "stochastic"
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.01


Covering = FacilityLocation | MutualInformation | ConditionalGain
"""The methods that add a row's score to what it covers."""

Greedy = KCenter | GraphCut | Covering
Method = Annotated[
    Threshold | KCenter | FacilityLocation | GraphCut | MutualInformation | ConditionalGain,
    Field(discriminator="name"),
]
Optimizer = Annotated[Lazy | Stochastic, Field(discriminator="name")]


class Parts(NamedTuple):
    """Positions in a vector set.

    Attributes:
        rows: The rows to choose from.
        held: The rows of the edge `held`.
        target: The rows of the edge `target`.
    """

    rows: Positions
    held: Positions
    target: Positions


def objective_of(
    method: Greedy, vectors: VectorSet, parts: Parts, quality: Floats, scored: bool
) -> Objective:
    """The objective that a method maximizes.

    Args:
        method: The method with its options.
        vectors: The vectors of all edges.
        parts: Where each edge's vectors are.
        quality: Each row's score, larger for better, NaN where it is missing; shape (rows,).
        scored: Whether there is a score.
    """
    match method:
        case KCenter():
            return KCenterObjective(vectors, len(parts.rows), parts.held)
        case GraphCut():
            return GraphCutObjective(vectors, len(parts.rows), parts.held, method.penalty)

    def most_similar(rows: Positions, others: Positions) -> Floats:
        return vectors.nearest(rows, others)[1]

    # How well nothing covers a row: with 0, or with the least that the distance can be.
    least = 0.0 if vectors.norms is not None else 2 * vectors.centrality(parts.rows).min()
    similarities = Similarities(most_similar, most_similar, least)
    return CoverageObjective(vectors, _cover(method, similarities, parts, quality, scored))


def listed_objective_of(
    method: Covering, listed: Listed, parts: Parts, quality: Floats, scored: bool
) -> Objective:
    """The objective that a method maximizes with similarities that a column lists.

    Args:
        method: The method with its options.
        listed: The similarities.
        parts: Where each edge's rows are.
        quality: Each row's score, larger for better, NaN where it is missing; shape (rows,).
        scored: Whether there is a score.
    """
    similarities = Similarities(listed.outgoing, listed.incoming, 0.0)
    return ListedObjective(listed, _cover(method, similarities, parts, quality, scored))


class Similarities(NamedTuple):
    """The largest similarities of rows with others.

    Attributes:
        outgoing: How well each row covers the one of the others that it covers best.
        incoming: How well each row is covered by the one of the others that covers it best.
        least: How well nothing covers a row.
    """

    outgoing: Callable[[Positions, Positions], Floats]
    incoming: Callable[[Positions, Positions], Floats]
    least: float


def _cover(
    method: Covering, similarities: Similarities, parts: Parts, quality: Floats, scored: bool
) -> Cover:
    """What is to be covered.

    Args:
        method: The method with its options.
        similarities: Of the rows of all edges.
        parts: Where each edge's rows are.
        quality: Each row's score, NaN where it is missing.
        scored: Whether there is a score.
    """
    weight = method.weight if scored else 0.0
    scale, span, cap = 1 - weight, parts.rows, None
    extra = weight * np.nan_to_num(quality)
    if isinstance(method, MutualInformation):
        outgoing = similarities.outgoing(parts.rows, parts.target)
        relevant = method.relevance * np.maximum(outgoing, 0)
        if method.represent == "target":
            span, extra = parts.target, extra + scale * relevant
        else:
            cap = relevant
    start = np.full(len(span), similarities.least)
    if len(parts.held):
        relevance = method.relevance if isinstance(method, ConditionalGain) else 1.0
        start = np.maximum(start, relevance * similarities.incoming(span, parts.held))
    return Cover(slice(int(span[0]), int(span[-1]) + 1), start, cap, scale, extra)
