"""Skill-it's weights of skills, from a graph of skills and the losses on them.

A graph is a matrix: entry i, j is how much training on skill i helps the evaluated skill j.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Halves = tuple[str, ...]
"""What a probe trains on: one skill, or two that have a half of the rows each."""

Probe = Callable[[Halves, int], dict[str, float]]
"""The loss on each evaluated skill after a small training on some skills, with a seed."""


def skill_weights(
    graph: Floats, prior: Floats, eta: float, losses: Sequence[Floats], targets: Sequence[int] = ()
) -> Floats:
    """The part of each training skill in what is trained on next, with the sum 1.

    prior x exp(eta x graph x losses), as published: of the losses of the last evaluations the
    sum, for a subset of targets their mean; 1 for each evaluated skill before there are any.
    Each update starts from the prior, not from the last weights.

    Args:
        graph: Shape (training skills, evaluated skills).
        prior: The weight of each training skill without any losses.
        eta: How strongly the losses count.
        losses: Those of the last evaluations, each of shape (evaluated skills,).
        targets: The evaluated skills that count; none for all.

    >>> graph = np.array([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.5, 1.0]])
    >>> skill_weights(graph, np.ones(3), 0.5, []).round(5).tolist()
    [0.28027, 0.35987, 0.35987]
    """
    columns = list(targets) or list(range(graph.shape[1]))
    if losses:
        total = np.mean(losses, axis=0) if targets else np.sum(losses, axis=0)
    else:
        total = np.ones(graph.shape[1])
    exponents = eta * (graph[:, columns] @ np.asarray(total)[columns])
    # Against the largest one, so that nothing overflows and not everything is 0.
    raw = prior * np.exp(np.minimum(exponents - exponents[prior > 0].max(), 0))
    weights: Floats = raw / raw.sum()
    return weights


def learned_graph(
    skills: Sequence[str],
    evaluated: Sequence[str],
    probe: Probe,
    seeds: Sequence[int],
    off_diagonal: float,
) -> Floats:
    """The graph of small trainings: an edge where half of the rows of another skill helps.

    There is an edge from i to j where the loss on j is lower after training on halves of i and
    j than after training on j alone, at equal steps, in the mean over the seeds. A skill that
    cannot be trained on has an edge from each skill whose training lowers its loss.

    Args:
        skills: The skills that are trained on.
        evaluated: Those that losses are measured on.
        probe: A small training; of no skills at all it gives the losses of the model as it is.
        seeds: Of the trainings.
        off_diagonal: The weight of an edge between two skills; a skill's own is 1.

    >>> losses = {("a",): 2.0, ("b",): 2.0, ("a", "b"): 1.0, ("b", "a"): 3.0}
    >>> probe = lambda halves, seed: {halves[-1]: losses[halves]}
    >>> learned_graph(["a", "b"], ["a", "b"], probe, [0], 0.5).tolist()
    [[1.0, 0.5], [0.0, 1.0]]
    """

    def loss(halves: Halves, skill: str) -> float:
        return float(np.mean([probe(halves, seed)[skill] for seed in seeds]))

    graph = np.zeros((len(skills), len(evaluated)))
    for j, target in enumerate(evaluated):
        is_trained = target in skills
        alone = loss((target,) if is_trained else (), target)
        for i, skill in enumerate(skills):
            if skill == target:
                graph[i, j] = 1.0
            elif loss((skill, target) if is_trained else (skill,), target) < alone:
                graph[i, j] = off_diagonal
    return graph
