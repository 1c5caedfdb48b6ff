"""FANNO's filters: unusable passages, and all but one text of each community of similar ones.

Zhu et al. 2024, arXiv:2408.01323, section 3.1. A model rejects passages that are unclear,
advertise something or are private; fast community detection over sentence vectors keeps
the center of each community. The released code also drops passages that are similar to no
other; here they stay, because a passage without neighbors is not a duplicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages._llm.drafts import Draft, Prompt, filter_drafts, user, yes_or_no
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._vectors.arrays import PRODUCTS, parallel_map
from stages.generate.from_documents.context import GenerationContext

PROMPTS: Final = Prompts(__file__)

MAX_TOKENS: Final = 4
"""Of an answer to one of the questions."""

QUESTIONS: Final = {
    "clear": ("yes", "unclear_passage"),
    "advertisement": ("no", "advertisement"),
    "private": ("no", "private_passage"),
}
"""Prompt file of each question, the answer that keeps a passage, and the drop reason."""


def reject_unusable(context: GenerationContext, passages: Sequence[Draft]) -> None:
    """Reject the passages that the judge finds unusable, one question after the other."""
    for question, (expected, reason) in QUESTIONS.items():

        def prompt(draft: Draft, question: str = question) -> Prompt:
            return user(PROMPTS.render(question, passage=draft["passage"]))

        def rejection(
            draft: Draft, expected: str = expected, reason: str = reason
        ) -> Rejection | None:
            return None if draft["verdict"] == expected else (reason, {})

        decoding = context.judging(yes_or_no(MAX_TOKENS))
        context.judge(passages, "verdict", prompt, decoding=decoding)
        filter_drafts(passages, rejection)


def reject_duplicates(context: GenerationContext, passages: Sequence[Draft]) -> None:
    """Reject all passages but the center of each community; nothing without an embedder."""
    active = [draft for draft in passages if draft.active]
    if context.encode is None or not active:
        return
    vectors = context.encode([draft["passage"] for draft in active])
    centers = communities(vectors, context.dedup_thresholds[0])
    for draft, center in zip(active, centers.tolist(), strict=True):
        kept = active[center]
        if kept is not draft:
            draft.reject(
                "same_community", document=kept["document"], passage=kept["passage_number"]
            )


def communities(vectors: NDArray[Any], threshold: float) -> NDArray[np.int64]:
    """The center of each vector's community, by fast community detection.

    The neighbors of a vector are those with a cosine of at least the threshold. The vector
    with the most neighbors is the first center and takes all of them. Then the one with
    the next most that no community has yet becomes a center and takes those of its
    neighbors that are free. Ties go to the vector that comes first. The result is that of
    `sentence_transformers.util.community_detection` with `min_community_size=1`.

    Args:
        vectors: Shape (n, dimensions), of any length; a zero vector has no neighbors.
        threshold: Smallest cosine of neighbors.

    Returns:
        int64 of shape (n,): for each vector the index of its center, perhaps its own.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> communities(vectors, 0.9).tolist()
        [0, 0, 2]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def neighbors_of(rows: slice) -> list[NDArray[np.int64]]:
        similar = unit[rows] @ unit.T >= threshold
        return [np.flatnonzero(row) for row in similar]

    with parallel_map() as parallel:
        blocks = parallel(neighbors_of, len(unit), max(1, PRODUCTS // max(1, len(unit))))
    neighbors = [row for block in blocks for row in block]
    order = np.argsort([-len(row) for row in neighbors], kind="stable")
    centers = np.full(len(unit), -1, np.int64)
    # A loop, because what a center may take depends on the centers before it.
    for i in order.tolist():
        if centers[i] < 0:
            free = neighbors[i][centers[neighbors[i]] < 0]
            centers[free] = centers[i] = i
    return centers
