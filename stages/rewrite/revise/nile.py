"""NILE: answers brought into line with what the model that learns from them already knows.

NILE: Internal Consistency Alignment in Large Language Models (Hu et al. 2024, arXiv:2412.16686).

As in the paper: the model that will be tuned writes what it knows about each request; a model
revises the answer with that; and rows whose answer is least similar to that knowledge, by
embeddings, are dropped: the low tail alone, as dropping the high one made results worse. The
knowledge must be that of the model that is tuned: another's was much worse.

Ours: the wording; no demonstrations before the request for knowledge (the paper shows two,
retrieved by BM25, to a base model: here the model must follow instructions); temperature 0; a
tenth of the rows is dropped. No code was found; this follows what others report of
the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import ClassVar, Final, Literal

import numpy as np

from pipeline.models.base import Decoding
from pipeline.models.counting import is_counting
from pipeline.types import Fraction, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages.rewrite.revise.passes import Reviser

PROMPTS: Final = Prompts(__file__)

_EVIDENCE_CHARACTERS: Final = 2_000


@option_group
class Nile:
    """Answers revised with the tuned model's own knowledge, without the least alike (NILE).

    The teacher is the model that will be tuned, whose knowledge counts. Drops `inconsistent`.

    An answer or knowledge of which the embedder knows no word has no similarity, and the row is
    not dropped.

    Args:
        name: "nile".
        drop_fraction: Part of the rows with a similarity that is dropped, the lowest.
    """

    name: Literal["nile"] = "nile"
    drop_fraction: Fraction = 0.1

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Write down knowledge, revise with it, and drop the answers that are least like it."""
        attempts = [draft.child() for draft in drafts]
        know = reviser.teach or reviser.write
        know(attempts, "knowledge", _knowledge)
        reviser.write(attempts, "new_response", _revise)
        for attempt in attempts:
            if "knowledge" in attempt.fields:
                shown = attempt["knowledge"][:_EVIDENCE_CHARACTERS]
                attempt.fields["evidence"] = {"knowledge": shown}
        reviser.conclude(drafts, attempts, "nile")
        known = {
            draft.parents: attempt["knowledge"]
            for draft, attempt in zip(drafts, attempts, strict=True)
            if draft.active and "knowledge" in attempt.fields
        }
        if not is_counting():
            self._drop(reviser, [draft for draft in drafts if draft.parents in known], known)

    def _drop(
        self, reviser: Reviser, drafts: Sequence[Draft], known: dict[tuple[str, ...], str]
    ) -> None:
        """Drop the answers, as they are now, with the lowest similarity; ties by id."""
        texts = [draft["response"] for draft in drafts]
        values = similarities(reviser, texts, [known[draft.parents] for draft in drafts])
        known_values = []
        for value, draft in zip(values, drafts, strict=True):
            draft["passes"][-1]["similarity"] = None if value is None else round(value, 6)
            if value is not None:
                known_values.append((value, draft))
        order = sorted(known_values, key=lambda one: (one[0], one[1].parents))
        for rank, (value, draft) in enumerate(order):
            if rank < floor(self.drop_fraction * len(order)):
                draft.reject("inconsistent", similarity=round(value, 6), rank=rank + 1)


def similarities(
    reviser: Reviser, texts: Sequence[str], others: Sequence[str]
) -> list[float | None]:
    """The cosine of the vectors of each text and of the other one at its place.

    Args:
        reviser: Has the encoder.
        texts: Some texts.
        others: As many.

    Returns:
        The cosines; None where a vector is zero or not finite, as of a script that the embedder
        does not know.
    """
    if not texts or reviser.encoder is None:
        return []
    one, two = (reviser.encoder.encode(list(each)) for each in (texts, others))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    cosines = (one * two).sum(axis=1) / np.maximum(lengths, 1e-12)
    return [
        float(cosine) if length > 0 and np.isfinite(cosine) else None
        for cosine, length in zip(cosines, lengths, strict=True)
    ]


def _knowledge(draft: Draft) -> Prompt:
    return user(PROMPTS.render("knowledge", request=draft["request"]))


def _revise(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("request", "response", "knowledge")}
    return user(PROMPTS.render("revise", **values))
