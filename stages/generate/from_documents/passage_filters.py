"""Which passages are worth working on, and which texts say the same: FANNO's screening.

Zhu et al. 2024, arXiv:2408.01323: a model throws out unclear passages, advertisements and
what is private; fast community detection over sentence vectors leaves one passage
(or, later, one instruction) of each group of near ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages._llm.drafts import YES_OR_NO, Draft, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._vectors.arrays import PRODUCTS, parallel_map
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)

QUESTIONS: Final = {
    "clear": ("yes", "unclear_passage"),
    "advertisement": ("no", "advertisement"),
    "private": ("no", "private_passage"),
}
"""What is asked of a passage, the answer that it needs, and the reason if it has another."""


def screen(means: Means, passages: Sequence[Draft]) -> None:
    """Reject what the judge finds unfit, one question after the other."""
    for name, (wanted, reason) in QUESTIONS.items():

        def asked(draft: Draft, name: str = name) -> Any:
            return user(PROMPTS.render(f"{name}", passage=draft["passage"]))

        def judged(draft: Draft, wanted: str = wanted, reason: str = reason) -> Rejection | None:
            return None if draft["verdict"] == wanted else (reason, {})

        means.judge(passages, "verdict", asked, decoding=YES_OR_NO)
        filter_drafts(passages, judged)


def thin_out(means: Means, passages: Sequence[Draft]) -> None:
    """Leave the centre of each community of passages, where there is an embedder."""
    alive = [draft for draft in passages if draft.active]
    if means.encode is None or not alive:
        return
    centres = communities(means.encode([d["passage"] for d in alive]), means.communities[0])
    for place, centre in enumerate(centres.tolist()):
        if centre != place:
            near = alive[centre]
            alive[place].reject(
                "same_community", document=near["document"], passage=near["passage_number"]
            )


def communities(vectors: NDArray[Any], threshold: float) -> NDArray[np.int64]:
    """For each vector the position of the centre of its community, perhaps its own.

    Fast community detection: a vector's neighbours are those with a cosine of at least
    the threshold. The vector with the most is the first centre and takes them all; then
    the one with the most of what is left as a centre, which takes those that nobody has.
    Of equal ones the first comes first. A vector without neighbours is alone.
    vectors: of shape (n, dimensions), any length. Returns int64 of length n.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def neighbours(rows: slice) -> list[NDArray[np.int64]]:
        near = unit[rows] @ unit.T >= threshold
        return [np.flatnonzero(line) for line in near]

    with parallel_map() as each:
        blocks = each(neighbours, len(unit), max(1, PRODUCTS // max(1, len(unit))))
    found = [line for block in blocks for line in block]
    order = np.argsort([-len(line) for line in found], kind="stable")
    centres = np.full(len(unit), -1, np.int64)
    # What a centre may take depends on the centres before it.
    for place in order.tolist():
        if centres[place] < 0:
            free = found[place][centres[found[place]] < 0]
            centres[free] = centres[place] = place
    return centres
